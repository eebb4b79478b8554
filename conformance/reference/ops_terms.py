"""Error bounds of gradients that are summed over what was broadcast.

Such a sum may cancel to nothing while its terms are large: what its rounding may be depends on the sum of their sizes, not on
the result. The sizes are recorded as magnitudes; `rounded` says that each term carries the op's own error, besides the sum's.
"""

from typing import Callable

import torch

from recording import Recording


def record_term_sums(r: Recording, inputs: dict, compute: Callable, names: tuple = ("a", "b")) -> None:
    """Adds magnitudes to the last case: for each of `names` that is smaller than the result, sum |term| of its gradient."""
    case = r.cases[-1]
    if not names or "gradients" not in case:
        return
    shape = r.tensors[case["outputs"]["out"]].shape
    cotangent = r.tensors[case["cotangents"]["out"]].double()
    wide = {k: v.double() if isinstance(v, torch.Tensor) and v.is_floating_point() else v for k, v in inputs.items()}
    summed = [k for k in names if k in case["gradients"] and wide[k].numel() < shape.numel()]
    if not summed:
        return
    full = wide | {k: wide[k].expand(shape).clone().requires_grad_() for k in summed}
    gradients = torch.autograd.grad((compute(**full) * cotangent).sum(), [full[k] for k in summed])
    for k, gradient in zip(summed, gradients):
        sums = gradient.abs().sum_to_size(wide[k].shape)
        entry = {"key": r.store(f"{case['name']}/magnitude/{k}", sums), "terms": shape.numel() // max(1, wide[k].numel()), "rounded": True}
        case.setdefault("magnitudes", {})[k] = entry
