"""Dropout under a counter-based mask. PyTorch has no such generator, so Threefry is written here a second time, from the
paper (Salmon et al., SC 2011), and checked against Random123's published answers before it is used."""

import torch

from recording import Recording

WORD = 0xFFFFFFFF
ROTATIONS = (13, 15, 26, 6, 17, 29, 16, 24)

# Random123 1.14, tests/kat_vectors, threefry2x32 20: (counter, key, answer)
KNOWN = [((0, 0), (0, 0), (0x6B200159, 0x99BA4EFE)),
         ((WORD, WORD), (WORD, WORD), (0x1CB996FC, 0xBB002BE7)),
         ((0x243F6A88, 0x85A308D3), (0x13198A2E, 0x03707344), (0xC4923A9C, 0x483DF7A0))]


def threefry(counter: tuple[int, int], key: tuple[int, int]) -> tuple[int, int]:
    schedule = (*key, 0x1BD11BDA ^ key[0] ^ key[1])
    a, b = (counter[0] + key[0]) & WORD, (counter[1] + key[1]) & WORD
    for i in range(20):
        a = (a + b) & WORD
        turn = ROTATIONS[i % 8]
        b = ((b << turn | b >> (32 - turn)) & WORD) ^ a
        if i % 4 == 3:
            s = i // 4 + 1
            a = (a + schedule[s % 3]) & WORD
            b = (b + schedule[(s + 1) % 3] + s) & WORD
    return a, b


def record_random(r: Recording) -> None:
    for counter, key, answer in KNOWN:
        assert threefry(counter, key) == answer, "threefry differs from Random123"
    for label, p, seed, shape in [("a tenth", 0.1, 42, (7, 9)), ("a half", 0.5, 2**40 + 3, (130,)), ("nothing", 0.0, 1, (5,))]:
        x = r.uniform(*shape)
        uniform = [(threefry((i, 0), (seed & WORD, seed >> 32))[0] >> 8) / 2**24 for i in range(x.numel())]
        kept = (torch.tensor(uniform) >= p).reshape(shape)
        drop = lambda x, kept=kept, p=p: torch.where(kept, x / (1 - p), 0.0)  # noqa: E731
        r.record("dropout", label, {"x": x}, drop, {"p": p, "seed": seed})
