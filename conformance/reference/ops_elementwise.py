"""Elementwise ops, comparisons, casts, reductions and softmax."""

import torch
from torch.nn import functional as F

from ops_terms import record_term_sums
from recording import EXACT, Recording


# op: (function, lowest, highest value, values at the edges)
UNARY = {
    "neg": (torch.neg, -2, 2, [0.0, -0.0, 1e6]),
    "abs": (torch.abs, -2, 2, [0.0, -1e6]),
    "exp": (torch.exp, -3, 3, [-80.0, 80.0, 0.0]),
    "log": (torch.log, 0.05, 4, [1e-6, 1.0, 1e6]),
    "sqrt": (torch.sqrt, 0.05, 4, [1e-6, 1.0, 1e6]),
    "rsqrt": (torch.rsqrt, 0.05, 4, [1e-4, 1.0, 1e6]),
    "sin": (torch.sin, -4, 4, [0.0, 100.0, -1000.0]),
    "cos": (torch.cos, -4, 4, [0.0, 100.0, -1000.0]),
    "tanh": (torch.tanh, -3, 3, [-90.0, 0.0, 90.0, 1e-4]),
    "sigmoid": (torch.sigmoid, -4, 4, [-80.0, 0.0, 80.0]),
    "silu": (F.silu, -4, 4, [-80.0, 0.0, 80.0]),
    "gelu": (F.gelu, -4, 4, [-30.0, 0.0, 30.0]),
    "relu": (torch.relu, -2, 2, [0.0, -1.0, 1e6]),
}
SHAPES = {"scalar": (), "one": (1,), "odd": (3, 5), "cube": (2, 3, 7)}

# broadcasting pairs
PAIRS = {
    "same": ((3, 5), (3, 5)),
    "row": ((4, 3), (3,)),
    "outer": ((5, 1), (1, 7)),
    "scalar": ((2, 3), ()),
    "rank": ((3, 1, 2), (5, 2)),
}
BINARY = {"add": torch.add, "sub": torch.sub, "mul": torch.mul, "div": torch.div,
          "pow": torch.pow, "maximum": torch.maximum, "minimum": torch.minimum}
COMPARISONS = {"eq": torch.eq, "ne": torch.ne, "lt": torch.lt, "le": torch.le, "gt": torch.gt, "ge": torch.ge}


def unary(r: Recording) -> None:
    for op, (function, low, high, edges) in UNARY.items():
        for label, shape in SHAPES.items():
            r.record(op, label, {"x": r.uniform(*shape, low=low, high=high)}, lambda x, f=function: f(x))
        r.record(op, "edges", {"x": torch.tensor(edges)}, lambda x, f=function: f(x))
    tanh_gelu = lambda x: F.gelu(x, approximate="tanh")  # noqa: E731
    r.record("gelu", "tanh", {"x": r.uniform(4, 5, low=-4, high=4)}, tanh_gelu, {"approximate": "tanh"})


def function_of_two(function):
    return lambda a, b: function(a, b)


def binary(r: Recording) -> None:
    for op, function in BINARY.items():
        low = 0.3 if op in ("pow", "div") else -2.0
        for label, (a, b) in PAIRS.items():
            inputs = {"a": r.uniform(*a, low=low), "b": r.uniform(*b, low=low)}
            r.record(op, label, inputs, function_of_two(function))
            record_term_sums(r, inputs, function_of_two(function))
        r.record(op, "number", {"a": r.uniform(3, 4, low=low), "b": 1.5}, lambda a, b, f=function: f(a, torch.tensor(b, dtype=a.dtype)))
    tie = {"a": torch.tensor([1.0, 2.0, -3.0]), "b": torch.tensor([1.0, 5.0, -3.0])}
    for op in ("maximum", "minimum"):
        r.record(op, "tie", tie, lambda a, b, f=BINARY[op]: f(a, b))
    for exponent in (2, 3, 0, -1, 0.5):
        r.record("pow", f"exponent {exponent}", {"a": r.uniform(7, low=0.2), "b": exponent}, lambda a, b: a**b)
    r.record("pow", "negative base", {"a": r.uniform(7, low=-2, high=-0.2), "b": 3}, lambda a, b: a**b)
    for op, function in COMPARISONS.items():
        inputs = {"a": r.integers(4, 5, high=3).float(), "b": r.integers(5, high=3).float()}
        r.record(op, "row", inputs, lambda a, b, f=function: f(a, b), frozen=("a", "b"), tolerance=EXACT)
        r.record(op, "number", {"a": inputs["a"], "b": 1}, lambda a, b, f=function: f(a, b), frozen=("a",), tolerance=EXACT)
    mask = r.integers(3, 1, high=2).to(torch.uint8)
    inputs = {"condition": mask, "a": r.uniform(3, 4), "b": r.uniform(4)}
    r.record("where", "broadcast", inputs, lambda condition, a, b: torch.where(condition.bool(), a, b))
    inputs = {"gate": r.uniform(3, 7, low=-6, high=6), "up": r.uniform(3, 7)}
    r.record("swiglu", "odd", inputs, lambda gate, up: F.silu(gate) * up)


def casts(r: Recording) -> None:
    """Roundings to half precision: ties to even, subnormals, overflow."""
    edges = [0.0, -0.0, 1.0, 1.00390625, 1.01171875, -1.00390625, 65504.0, 65519.9, 65520.0, 1e-7, 6e-8, 2.98e-8, 2.99e-8, 1e-40, 3.3e38]
    values = torch.cat([torch.tensor(edges), r.normal(40, std=50.0)])
    for label, dtype in {"bf16": torch.bfloat16, "f16": torch.float16}.items():
        # From f32 on purpose: f64 -> bf16 in one rounding is another number.
        r.record("cast", f"f32 to {label}", {"x": values}, lambda x, d=dtype: x.float().to(d), {"dtype": label}, frozen=("x",), tolerance=EXACT)
        r.record("cast", f"{label} to f32", {"x": r.normal(9).to(dtype)}, lambda x: x.float(), {"dtype": "f32"}, frozen=("x",), tolerance=EXACT)
    # Gradient passes a cast unchanged (small integers are exact in bf16).
    truncated = torch.tensor([-2.9, -1.0, -0.5, 0.0, 0.5, 2.9])
    r.record("cast", "f32 to i32", {"x": truncated}, lambda x: x.to(torch.int64), {"dtype": "i32"}, frozen=("x",), tolerance=EXACT)


def reductions(r: Recording) -> None:
    cases = [("all", (3, 5), None, False), ("last", (3, 5), [-1], False), ("first kept", (3, 5), [0], True),
             ("two of three", (2, 3, 5), [0, 2], False), ("size one", (1, 1), [1], False), ("long", (2, 1031), [1], False)]
    for label, shape, axes, keep in cases:
        attributes = {"keepDims": keep} if axes is None else {"axes": axes, "keepDims": keep}
        dims = tuple(range(len(shape))) if axes is None else tuple(axes)
        x = r.uniform(*shape)
        # The gradient of a sum is its cotangent; its value is a sum of products with 1, so it has an error bound.
        terms = int(torch.tensor([shape[d] for d in dims]).prod())
        r.record("sum", label, {"x": x}, lambda x, d=dims, k=keep: x.sum(d, keepdim=k), attributes, products={"out": terms})
        r.record("mean", label, {"x": x}, lambda x, d=dims, k=keep: x.mean(d, keepdim=k), attributes, products={"out": terms})
        r.record("max", label, {"x": x}, lambda x, d=dims, k=keep: x.amax(d, keepdim=k), attributes)
    for axis in (0, 1, -1):
        r.record("argmax", f"axis {axis}", {"x": r.uniform(4, 5, 3)}, lambda x, a=axis: x.argmax(a), {"axis": axis}, frozen=("x",), tolerance=EXACT)
    r.record("argmax", "tie: the first", {"x": torch.tensor([[1.0, 3.0, 3.0, 2.0]])}, lambda x: x.argmax(1), {"axis": 1}, frozen=("x",), tolerance=EXACT)
    for op, function in {"softmax": torch.softmax, "logSoftmax": torch.log_softmax}.items():
        for label, shape, axis, scale in [("last", (3, 7), -1, 1), ("first", (5, 3), 0, 1), ("middle", (2, 5, 3), 1, 1),
                                          ("one", (3, 1), -1, 1), ("large", (2, 130), -1, 40)]:
            x = r.uniform(*shape) * scale
            r.record(op, label, {"x": x}, lambda x, f=function, a=axis: f(x, a), {"axis": axis})


def record_elementwise(r: Recording) -> None:
    unary(r)
    binary(r)
    casts(r)
    reductions(r)
