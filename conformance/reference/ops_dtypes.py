"""Ops on half-precision floats and on integers: result dtypes, and values from the rounded inputs in f64."""

import torch
from torch.nn import functional as F

from recording import EXACT, Recording

HALVES = {"bf16": torch.bfloat16, "f16": torch.float16}
KEEPING = {"add": torch.add, "sub": torch.sub, "mul": torch.mul, "div": torch.div, "maximum": torch.maximum}
INTEGERS = {"add": torch.add, "sub": torch.sub, "mul": torch.mul, "maximum": torch.maximum, "minimum": torch.minimum,
            "eq": torch.eq, "lt": torch.lt, "ge": torch.ge}


def record_halves(r: Recording) -> None:
    """The result keeps the dtype; a sum alone widens to f32, where PyTorch would round back to the half."""
    for label, dtype in HALVES.items():
        draw = lambda *shape, d=dtype: r.uniform(*shape, low=0.3).to(d)  # noqa: E731
        for op, function in KEEPING.items():
            call = lambda a, b, f=function, d=dtype: f(a, b).to(d)  # noqa: E731
            r.record(op, label, {"a": draw(3, 5), "b": draw(5)}, call, frozen=("a", "b"))
        for op, function in {"exp": torch.exp, "silu": F.silu, "tanh": torch.tanh, "softmax": lambda x: torch.softmax(x, -1)}.items():
            attributes = {"axis": -1} if op == "softmax" else {}
            r.record(op, label, {"x": draw(3, 7)}, lambda x, f=function, d=dtype: f(x).to(d), attributes, frozen=("x",))
        product = lambda a, b, d=dtype: (a @ b).to(d)  # noqa: E731
        r.record("matmul", label, {"a": draw(3, 33), "b": draw(33, 5)}, product, frozen=("a", "b"))
        r.record("sum", label, {"x": draw(3, 65)}, lambda x: x.sum(-1), {"axes": [-1]}, frozen=("x",), products={"out": 65})
        # Leaves may be stored in half precision; their gradients are f32.
        r.record("mul", f"{label} leaf", {"a": r.uniform(4, 3), "b": draw(3)}, lambda a, b: a * b)


def record_integers(r: Recording) -> None:
    for op, function in INTEGERS.items():
        inputs = {"a": r.integers(4, 3, low=-9, high=10), "b": r.integers(3, low=-9, high=10)}
        r.record(op, "i32", inputs, lambda a, b, f=function: f(a, b), tolerance=EXACT)
    large = torch.tensor([2**24 + 1, -(2**24) - 3, 2**30, 7])
    r.record("add", "i32 beyond f32", {"a": large, "b": torch.tensor([1, 1, 2**30 - 1, -7])}, lambda a, b: a + b, tolerance=EXACT)
    r.record("sum", "i32", {"x": large[:2].repeat(3, 1)}, lambda x: x.sum(0), {"axes": [0]}, tolerance=EXACT)
    r.record("div", "i32 to f32", {"a": torch.tensor([7, -7, 1]), "b": torch.tensor([2, 2, 3])}, lambda a, b: a.double() / b)
    r.record("where", "i32", {"condition": torch.tensor([1, 0, 2]), "a": large[:3], "b": torch.tensor([1, 2, 3])},
             lambda condition, a, b: torch.where(condition != 0, a, b), tolerance=EXACT)
    r.record("concat", "i32", {"a": large[:2], "b": large[2:], "c": torch.tensor([5])}, lambda a, b, c: torch.cat([a, b, c]), {"axis": 0}, tolerance=EXACT)
    r.record("gather", "i32", {"x": large[None], "indices": torch.tensor([[3, 3, 0]])}, lambda x, indices: x.gather(1, indices), {"axis": 1}, tolerance=EXACT)


def record_dtypes(r: Recording) -> None:
    record_halves(r)
    record_integers(r)
