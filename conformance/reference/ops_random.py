"""Dropout under a counter-based mask: PyTorch has no such generator, threefry.py has."""

import torch

from recording import Recording
from threefry import WORD, threefry


def record_random(r: Recording) -> None:
    for label, p, seed, shape in [("a tenth", 0.1, 42, (7, 9)), ("a half", 0.5, 2**40 + 3, (130,)), ("nothing", 0.0, 1, (5,))]:
        x = r.uniform(*shape)
        uniform = [(threefry((i, 0), (seed & WORD, seed >> 32))[0] >> 8) / 2**24 for i in range(x.numel())]
        kept = (torch.tensor(uniform) >= p).reshape(shape)
        drop = lambda x, kept=kept, p=p: torch.where(kept, x / (1 - p), 0.0)  # noqa: E731
        r.record("dropout", label, {"x": x}, drop, {"p": p, "seed": seed})
