"""How one sample of PyTorch's op_db is said to our op: an adapter for each op.

An adapter returns None where our op cannot say the same: it has no such option (a padding_idx, class weights), or no such rank.
"""

import math
from dataclasses import dataclass, field
from typing import Callable

import torch

from ops_network import layer_norm as norm_of_layer
from ops_network import rms_norm as norm_of_rms
from recording import EXACT


@dataclass
class Call:
    """One call of our op: tensors by name (a list becomes part0, part1, ...), attributes, and what torch computes from them."""

    inputs: dict
    compute: Callable
    attributes: dict = field(default_factory=dict)
    frozen: tuple = ()
    products: dict | None = None
    tolerance: dict | None = None
    # Inputs whose gradient is summed over what was broadcast.
    summed: tuple = ()


def unary(function):
    def adapt(s):
        return Call({"x": s.input}, lambda x: function(x)) if not s.args and not s.kwargs else None
    return adapt


def gelu(s):
    approximate = s.kwargs.get("approximate", "none")
    return Call({"x": s.input}, lambda x: torch.nn.functional.gelu(x, approximate=approximate), {"approximate": approximate})


def binary(function, compares=False):
    def adapt(s):
        b = s.args[0]
        if any(v is not None for v in s.kwargs.values()) or not isinstance(s.input, torch.Tensor) or not isinstance(b, (torch.Tensor, int, float)):
            return None
        call = lambda a, b: function(a, b if isinstance(b, torch.Tensor) else torch.tensor(b, dtype=a.dtype))  # noqa: E731
        return Call({"a": s.input, "b": b}, call, frozen=("a", "b") if compares else (), tolerance=EXACT if compares else None, summed=("a", "b"))
    return adapt


def where(s):
    condition, other = s.args
    if not isinstance(other, torch.Tensor) or other.dtype != s.input.dtype:
        return None
    inputs = {"condition": condition.to(torch.uint8), "a": s.input, "b": other}
    return Call(inputs, lambda condition, a, b: torch.where(condition.bool(), a, b), summed=("a", "b"))


def axes_of(s):
    """The reduced axes of a sample as a list, None for all; and keepdim."""
    dim = s.args[0] if s.args else s.kwargs.get("dim")
    keep = bool(s.kwargs.get("keepdim", False))
    return ([dim] if isinstance(dim, int) else None if dim is None else list(dim)), keep


def reduction(function, sums=True):
    def adapt(s):
        axes, keep = axes_of(s)
        # A number has no axis here; torch lets axis 0 of it pass. An empty list of axes means all of them in torch alone.
        if set(s.kwargs) - {"dim", "keepdim"} or (axes is not None and (s.input.dim() == 0 or not axes)):
            return None
        dims = list(range(s.input.dim())) if axes is None else axes
        attributes = {"keepDims": keep} | ({} if axes is None else {"axes": axes})
        terms = math.prod(s.input.shape[d] for d in dims) if all(-s.input.dim() <= d < s.input.dim() for d in dims) else 1
        return Call({"x": s.input}, lambda x: function(x, dims, keepdim=keep), attributes, products={"out": terms} if sums else None)
    return adapt


def argmax(s):
    axes, keep = axes_of(s)
    if s.input.dim() == 0:
        return None
    axis = {} if axes is None else {"axis": axes[0]}
    return Call({"x": s.input}, lambda x: torch.argmax(x, axis.get("axis"), keep), axis | {"keepDims": keep}, frozen=("x",), tolerance=EXACT)


def along_axis(function, sums=False):
    def adapt(s):
        axis = s.args[0] if s.args else s.kwargs.get("dim")
        if not isinstance(axis, int) or s.input.dim() == 0 or "dtype" in s.kwargs:
            return None
        n = s.input.shape[axis] if -s.input.dim() <= axis < s.input.dim() else 1
        return Call({"x": s.input}, lambda x: function(x, axis), {"axis": axis}, products={"out": n, "x": n} if sums else None)
    return adapt


def topk(s):
    k, dim, largest, ordered = (*s.args, *(-1, True, True)[len(s.args) - 1 :])[:4]
    if s.kwargs or dim not in (-1, s.input.dim() - 1) or not largest or not ordered or s.input.dim() == 0:
        return None

    def compute(x):
        values, indices = torch.topk(x, k, -1)
        return {"values": values, "indices": indices}
    return Call({"x": s.input}, compute, {"k": k})


def shape_of(args):
    return list(args[0]) if len(args) == 1 and not isinstance(args[0], int) else list(args)


def reshape(s):
    shape = shape_of(s.args)
    return Call({"x": s.input}, lambda x: x.reshape(shape), {"shape": shape})


def expand(s):
    shape = shape_of(s.args)
    offset = len(shape) - s.input.dim()
    if offset < 0 or -1 in shape[:offset]:
        return None
    filled = [s.input.shape[i - offset] if n == -1 else n for i, n in enumerate(shape)]
    terms = max(1, math.prod(filled)) // max(1, s.input.numel())
    return Call({"x": s.input}, lambda x: x.expand(filled), {"shape": filled}, products={"x": terms})


def transpose(s):
    a, b = s.args
    return Call({"x": s.input}, lambda x: x.transpose(a, b), {"axis0": a, "axis1": b}) if s.input.dim() else None


def permute(s):
    axes = shape_of(s.args)
    return Call({"x": s.input}, lambda x: x.permute(axes), {"axes": axes}) if s.input.dim() else None


def narrow(s):
    axis, start, length = s.args
    start = int(start)
    # A length below 0 would be an end counted from the back here.
    if s.input.dim() == 0 or not -s.input.dim() <= axis < s.input.dim() or length < 0:
        return None
    size = s.input.shape[axis]
    first = start + size if -size <= start < 0 else start
    return Call({"x": s.input}, lambda x: x.narrow(axis, start, length), {"axis": axis, "start": first, "end": first + length})


def pad(s):
    widths, value = list(s.args[0]), s.kwargs.get("value", 0) or 0
    pairs = list(zip(widths[::2], widths[1::2]))
    moved = [i for i, pair in enumerate(pairs) if pair != (0, 0)]
    # Ours pads one axis with zeros and never cuts.
    if value != 0 or len(moved) > 1 or min(widths) < 0:
        return None
    at = moved[0] if moved else 0
    return Call({"x": s.input}, lambda x: torch.nn.functional.pad(x, widths),
                {"axis": s.input.dim() - 1 - at, "before": pairs[at][0], "after": pairs[at][1]})


def split(s):
    sizes, axis = s.args[0], s.args[1] if len(s.args) > 1 else s.kwargs.get("dim", 0)
    if isinstance(sizes, int) or s.input.dim() == 0:
        return None
    return Call({"x": s.input}, lambda x: {f"out{i}": part for i, part in enumerate(torch.split(x, sizes, axis))},
                {"sizes": list(sizes), "axis": axis})


def joined(function):
    def adapt(s):
        parts, axis = list(s.input), s.args[0] if s.args else s.kwargs.get("dim", 0)
        # torch's cat takes an empty vector beside anything, "for backward compatibility".
        empty = any(p.shape == (0,) for p in parts) and function is torch.cat
        if empty or len({p.dtype for p in parts}) > 1 or not isinstance(axis, int):
            return None
        return Call({f"part{i}": p for i, p in enumerate(parts)}, lambda **named: function(list(named.values()), axis), {"axis": axis})
    return adapt


def index_select(s):
    axis, indices = s.args
    if s.input.dim() == 0 or indices.dim() != 1:
        return None
    return Call({"x": s.input, "indices": indices}, lambda x, indices: x.index_select(axis, indices), {"axis": axis}, products={"x": len(indices)})


def gather(s):
    axis, indices = s.args[:2]
    # Ours wants equal sizes beside the axis; torch reads a corner of a larger tensor.
    if s.kwargs or indices.dtype != torch.int64 or s.input.dim() == 0 or s.input.dim() != indices.dim() or differ_outside(s.input, indices, axis):
        return None
    return Call({"x": s.input, "indices": indices}, lambda x, indices: x.gather(axis, indices), {"axis": axis}, products={"x": indices.shape[axis]})


def scatter_add(s):
    axis, indices, source = s.args
    if s.input.dim() == 0 or indices.dtype != torch.int64 or indices.shape != source.shape or differ_outside(s.input, indices, axis):
        return None
    return Call({"x": s.input, "indices": indices, "source": source},
                lambda x, indices, source: x.scatter_add(axis, indices, source), {"axis": axis}, products={"out": indices.shape[axis] + 1})


def differ_outside(x, indices, axis):
    return any(a != b for i, (a, b) in enumerate(zip(x.shape, indices.shape)) if i != axis % x.dim())


def embedding(s):
    if s.kwargs or len(s.args) != 1 or s.input.dim() != 2:
        return None
    return Call({"ids": s.args[0], "table": s.input}, lambda ids, table: torch.nn.functional.embedding(ids, table),
                products={"table": s.args[0].numel()})


def matmul(s):
    b = s.args[0]
    if s.input.dim() < 2 or b.dim() < 2:
        return None
    return Call({"a": s.input, "b": b}, lambda a, b: a @ b, products=product_terms(s.input, b, False))


def product_terms(a, b, transposed):
    """How many products each element of the result and of both gradients sums, batches that were broadcast included."""
    n, k = b.shape[-2:] if transposed else b.shape[-2:][::-1]
    rows = math.prod(torch.broadcast_shapes(a.shape[:-2], b.shape[:-2]))
    of_a, of_b = (rows // max(1, math.prod(t.shape[:-2])) for t in (a, b))
    return {"out": k, "a": n * of_a, "b": a.shape[-2] * of_b}


def linear(s):
    weight, bias = s.args[0], s.args[1] if len(s.args) > 1 else s.kwargs.get("bias")
    if s.input.dim() < 2 or weight.dim() != 2:
        return None
    products = product_terms(s.input, weight, True)
    if bias is not None:
        products |= {"out": products["out"] + 1, "bias": s.input.numel() // max(1, s.input.shape[-1])}
    call = lambda a, b, bias=None: torch.nn.functional.linear(a, b, bias)  # noqa: E731
    return Call({"a": s.input, "b": weight, "bias": bias}, call, {"transposeB": True}, products=products)


def rows(x, normalized):
    """Normalizing over several axes is normalizing over one of their product."""
    n = math.prod(normalized)
    return x.reshape(*x.shape[: x.dim() - len(normalized)], n) if x.dim() > len(normalized) else x.reshape(1, n)


def rms_norm(s):
    normalized, weight = s.args[0], s.args[1] if len(s.args) > 1 else None
    if weight is None or math.prod(weight.shape) != math.prod(normalized):
        return None
    eps = s.kwargs.get("eps", torch.finfo(torch.float32).eps)
    call = lambda x, weight: norm_of_rms(x, weight, eps)  # noqa: E731
    return Call({"x": rows(s.input, normalized), "weight": weight.flatten()}, call, {"eps": eps}, summed=("weight",))


def layer_norm(s):
    if len(s.args) < 3:
        return None
    normalized, weight, bias = s.args
    eps = s.kwargs.get("eps", 1e-5)
    call = lambda x, weight, bias: norm_of_layer(x, weight, bias, eps)  # noqa: E731
    inputs = {"x": rows(s.input, normalized), "weight": weight.flatten(), "bias": bias.flatten()}
    return Call(inputs, call, {"eps": eps}, summed=("weight", "bias"))


def attention(s):
    """[b, h, l, e] becomes b segments of one row; without heads there is one."""
    query, key, value = s.input, *s.args
    causal, o = s.kwargs.get("is_causal", False), s.kwargs
    # torch aligns causal queries with the first keys, we with the last: they mean the same where there are as many.
    if o.get("attn_mask") is not None or o.get("dropout_p") or query.shape[:-2] != key.shape[:-2] or (causal and query.shape[-2] != key.shape[-2]):
        return None
    query, key, value = (t if t.dim() == 4 else t[:, None] for t in (query, key, value))
    batch, heads, length, width = query.shape
    flat = lambda t: t.transpose(1, 2).reshape(-1, heads, width)  # noqa: E731
    folded = lambda t: t.reshape(batch, -1, heads, width).transpose(1, 2)  # noqa: E731
    call = lambda q, k, v: flat(torch.nn.functional.scaled_dot_product_attention(folded(q), folded(k), folded(v), is_causal=causal))  # noqa: E731
    # PyTorch draws from -9 to 9: a score of 100 is rounded by 2^-18 and more, and e to that score by as large a part.
    sums = folded(flat(query)).abs() @ folded(flat(key)).abs().mT * width**-0.5
    score_error = (0.5 * width**0.5 + 2) * 2**-24 * float(sums.max())
    atol = float(f"{1e-5 + 2 * score_error * float(value.abs().max()):.1g}")
    tolerance = {"name": f"rounded scores {atol}", "rtol": 2e-6, "atol": atol, "reason": "the f32 rounding of scores this large, carried through the softmax"}
    attributes = {"lengths": [length] * batch, "keyLengths": [key.shape[-2]] * batch, "causal": causal}
    return Call({"q": flat(query), "k": flat(key), "v": flat(value)}, call, attributes, tolerance=tolerance)


def cross_entropy(s):
    target, o = s.args[0], s.kwargs
    if s.input.dim() != 2 or target.is_floating_point() or o.get("weight") is not None or set(o) - {"weight", "reduction", "ignore_index"}:
        return None
    attributes = {ours: o[theirs] for ours, theirs in (("reduction", "reduction"), ("ignoreIndex", "ignore_index")) if theirs in o}
    call = lambda logits, labels: torch.nn.functional.cross_entropy(logits, labels, **{k: v for k, v in o.items() if k != "weight"})  # noqa: E731
    return Call({"logits": s.input, "labels": target}, call, attributes)


def convolution(function, rank):
    def adapt(s):
        weight, bias = s.args[0], s.args[1] if len(s.args) > 1 else s.kwargs.get("bias")
        o = {"stride": 1, "padding": 0, "dilation": 1, "groups": 1} | {k: v for k, v in s.kwargs.items() if k != "bias"}
        o |= dict(zip(("stride", "padding", "dilation", "groups"), s.args[2:]))
        if s.input.dim() != rank or weight.dim() != rank or o["padding"] == "same":
            return None
        o["padding"] = 0 if o["padding"] == "valid" else o["padding"]
        call = lambda x, weight, bias=None: function(x, weight, bias, **o)  # noqa: E731
        kernel = max(1, math.prod(weight.shape[1:]))
        positions = max(1, s.input.numel() // max(1, s.input.shape[1])) * max(1, math.prod(weight.shape[2:]))
        products = {"out": kernel + 1, "x": kernel * weight.shape[0], "weight": positions} | ({} if bias is None else {"bias": positions})
        # A vector's size says its one axis: torch allows [2], ours takes 2.
        one = lambda v: v[0] if rank == 3 and isinstance(v, (tuple, list)) else list(v) if isinstance(v, tuple) else v  # noqa: E731
        return Call({"x": s.input, "weight": weight, "bias": bias}, call, {k: one(v) for k, v in o.items()}, products=products)
    return adapt


F = torch.nn.functional
# our op: (name in op_db, its variant, adapter)
TABLE = [
    *((name, name, "", unary(getattr(torch, name))) for name in ("neg", "abs", "exp", "log", "sqrt", "rsqrt", "sin", "cos", "tanh", "sigmoid")),
    ("silu", "nn.functional.silu", "", unary(F.silu)),
    ("relu", "nn.functional.relu", "", unary(F.relu)),
    ("gelu", "nn.functional.gelu", "", gelu),
    *((name, name, "", binary(getattr(torch, name))) for name in ("add", "sub", "mul", "pow", "maximum", "minimum")),
    ("div", "div", "no_rounding_mode", binary(torch.div)),
    *((name, name, "", binary(getattr(torch, name), compares=True)) for name in ("eq", "ne", "lt", "le", "gt", "ge")),
    ("where", "where", "", where),
    ("sum", "sum", "", reduction(torch.sum)),
    ("mean", "mean", "", reduction(torch.mean)),
    ("max", "amax", "", reduction(torch.amax, sums=False)),
    ("argmax", "argmax", "", argmax),
    ("softmax", "softmax", "", along_axis(torch.softmax)),
    ("logSoftmax", "log_softmax", "", along_axis(torch.log_softmax)),
    ("cumsum", "cumsum", "", along_axis(torch.cumsum, sums=True)),
    ("topk", "topk", "", topk),
    ("reshape", "reshape", "", reshape),
    ("expand", "expand", "", expand),
    ("transpose", "transpose", "", transpose),
    ("permute", "permute", "", permute),
    ("slice", "narrow", "", narrow),
    ("pad", "nn.functional.pad", "constant", pad),
    ("split", "split_with_sizes", "", split),
    ("concat", "cat", "", joined(torch.cat)),
    ("stack", "stack", "", joined(torch.stack)),
    ("indexSelect", "index_select", "", index_select),
    ("gather", "gather", "", gather),
    ("scatterAdd", "scatter_add", "", scatter_add),
    ("embedding", "nn.functional.embedding", "", embedding),
    ("matmul", "matmul", "", matmul),
    ("matmul", "bmm", "", matmul),
    ("matmul", "nn.functional.linear", "", linear),
    ("rmsNorm", "nn.functional.rms_norm", "", rms_norm),
    ("layerNorm", "nn.functional.layer_norm", "", layer_norm),
    ("attention", "nn.functional.scaled_dot_product_attention", "", attention),
    ("crossEntropy", "nn.functional.cross_entropy", "", cross_entropy),
    ("conv1d", "nn.functional.conv1d", "", convolution(F.conv1d, 3)),
    ("conv2d", "nn.functional.conv2d", "", convolution(F.conv2d, 4)),
]
