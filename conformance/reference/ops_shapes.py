"""Shapes drawn from the seed: sizes 1, odd ones, one below and one above every tile and lane count, and none at all.

The other programs of this family fix their shapes; here another seed is another shape too. Products of small integers are
exact in any order, so there a missing or doubled term cannot hide behind a tolerance.
"""

import torch
from torch.nn import functional as F

from ops_network import record_layer_norm, record_rms_norm, rms_norm, rotate, segment_mask
from ops_terms import record_term_sums
from recording import EXACT, Recording

# Tiles and lanes of the backends are 4, 8, 16, 32 and 64 wide.
SIZES = (1, 2, 3, 4, 5, 7, 8, 9, 15, 16, 17, 31, 33, 63, 64, 65, 127, 129)
DRAWS = 3
MOST_ELEMENTS = 400


def pick(r: Recording, options) -> int:
    return options[int(r.integers(high=len(options)))]


def sizes(r: Recording, count: int, most: int = MOST_ELEMENTS) -> list[int]:
    """Sizes whose product is at most `most`: the later ones give way."""
    drawn, left = [], most
    for _ in range(count):
        drawn.append(pick(r, [n for n in SIZES if n <= left]))
        left //= drawn[-1]
    return [drawn[int(i)] for i in torch.randperm(count, generator=r.random)]


def products(r: Recording) -> None:
    for i in range(DRAWS):
        m, k, n = sizes(r, 3, 2500)
        label = f"drawn {i} {m}x{k}x{n}"
        inputs = {"a": r.normal(m, k), "b": r.normal(n, k)}
        r.record("matmul", label, inputs, lambda a, b: a @ b.mT, {"transposeB": True}, products={"out": k, "a": n, "b": m})
        whole = {"a": r.integers(m, k, low=-8, high=9).float(), "b": r.integers(k, n, low=-8, high=9).float()}
        r.record("matmul", f"integers {label}", whole, lambda a, b: a @ b, frozen=("a", "b"), tolerance=EXACT)
        batch, m, k, n = sizes(r, 4, 2500)
        inputs = {"a": r.normal(batch, k, m), "b": r.normal(batch, k, n)}
        r.record("matmul", f"batched {i} {batch}x{m}x{k}x{n}", inputs, lambda a, b: a.mT @ b, {"transposeA": True},
                 products={"out": k, "a": n, "b": m})


def rows(r: Recording) -> None:
    for i in range(DRAWS):
        t, d = sizes(r, 2)
        x, weight = r.normal(t, d), r.uniform(d, low=0.5, high=1.5)
        label = f"drawn {i} {t}x{d}"
        for op, function in (("softmax", torch.softmax), ("logSoftmax", torch.log_softmax)):
            r.record(op, label, {"x": 3 * x}, lambda x, f=function: f(x, -1), {"axis": -1})
        record_rms_norm(r, label, x, weight, 1e-5)
        if d > 1:
            record_layer_norm(r, label, x, weight, r.normal(d), 1e-5)
        r.record("swiglu", label, {"gate": 3 * x, "up": r.normal(t, d)}, lambda gate, up: F.silu(gate) * up)
        labels = torch.where(r.integers(t, high=4) > 0, r.integers(t, high=d), -100)
        labels[0] = 0  # a row that counts: over none, torch's mean is NaN
        r.record("crossEntropy", label, {"logits": 3 * x, "labels": labels}, lambda logits, labels: F.cross_entropy(logits, labels))


def reductions(r: Recording) -> None:
    for i in range(DRAWS):
        shape = sizes(r, 3)
        axis = int(r.integers(high=3))
        x, label, attributes = r.uniform(*shape), f"drawn {i} {shape} over {axis}", {"axes": [axis], "keepDims": False}
        r.record("argmax", label, {"x": x}, lambda x, a=axis: x.argmax(a), {"axis": axis}, frozen=("x",), tolerance=EXACT)
        r.record("sum", label, {"x": x}, lambda x, a=axis: x.sum(a), attributes, products={"out": shape[axis]})
        r.record("mean", label, {"x": x}, lambda x, a=axis: x.mean(a), attributes, products={"out": shape[axis]})
        r.record("max", label, {"x": x}, lambda x, a=axis: x.amax(a), attributes)
        r.record("cumsum", label, {"x": x}, lambda x, a=axis: x.cumsum(a), {"axis": axis},
                 products={"out": shape[axis], "x": shape[axis]})


def elementwise(r: Recording) -> None:
    """A broadcast in every pattern of axes: each of b's is there or 1."""
    for i in range(DRAWS):
        shape = sizes(r, 3)
        other = [n if r.integers(high=2) else 1 for n in shape][int(r.integers(high=3)) :]
        inputs = {"a": r.uniform(*shape, low=0.3), "b": r.uniform(*other, low=0.3)}
        for op, function in (("add", torch.add), ("mul", torch.mul), ("div", torch.div), ("maximum", torch.maximum)):
            compute = lambda a, b, f=function: f(a, b)  # noqa: E731
            r.record(op, f"drawn {i} {shape} {other}", inputs, compute)
            record_term_sums(r, inputs, compute)


def movement(r: Recording) -> None:
    for i in range(DRAWS):
        shape = sizes(r, 3, 400)
        axis = int(r.integers(high=3))
        n = shape[axis]
        x, label = r.uniform(*shape), f"drawn {i} {shape} axis {axis}"
        indices = r.integers(pick(r, SIZES[:12]), high=n)
        r.record("indexSelect", label, {"x": x, "indices": indices}, lambda x, indices, a=axis: x.index_select(a, indices), {"axis": axis},
                 products={"x": len(indices)})
        picked = r.integers(*shape, high=n)
        r.record("gather", label, {"x": x, "indices": picked}, lambda x, indices, a=axis: x.gather(a, indices), {"axis": axis}, products={"x": n})
        add = lambda x, indices, source, a=axis: x.scatter_add(a, indices, source)  # noqa: E731
        r.record("scatterAdd", label, {"x": x, "indices": picked, "source": r.uniform(*shape)}, add, {"axis": axis}, products={"out": n + 1})
        axes = torch.randperm(3, generator=r.random).tolist()
        r.record("permute", f"{label} to {axes}", {"x": x}, lambda x, a=axes: x.permute(a), {"axes": axes})
        cut = int(r.integers(high=n + 1))
        r.record("split", label, {"x": x}, lambda x, a=axis, c=cut, n=n: dict(zip(("out0", "out1"), x.split([c, n - c], a))),
                 {"sizes": [cut, n - cut], "axis": axis})
        k = int(r.integers(high=shape[-1] + 1))
        def topk(x, k=k):
            values, found = x.topk(k, -1)
            return {"values": values, "indices": found}
        r.record("topk", f"drawn {i} {shape} k {k}", {"x": x}, topk, {"k": k})


def attention(r: Recording) -> None:
    for i in range(2 * DRAWS):
        groups, kv_heads, width = pick(r, (1, 2, 4)), pick(r, (1, 2)), pick(r, (1, 3, 8, 17, 32))
        most = max(1, 600 // (groups * kv_heads * width))
        lengths = [min(most, pick(r, SIZES[:11])) for _ in range(pick(r, (1, 2, 3)))]
        window = pick(r, (None, 1, 3, 16))
        cached = [n + pick(r, (0, 1, 5)) for n in lengths] if i % 2 else lengths
        mask = segment_mask(lengths, cached, window, True)
        heads = groups * kv_heads
        inputs = {"q": r.normal(sum(lengths), heads, width)} | {n: r.normal(sum(cached), kv_heads, width) for n in "kv"}

        def attend(q, k, v, mask=mask, groups=groups):
            k, v = (x.repeat_interleave(groups, 1).transpose(0, 1) for x in (k, v))
            return F.scaled_dot_product_attention(q.transpose(0, 1), k, v, attn_mask=mask).transpose(0, 1)
        attributes = {"lengths": lengths, "causal": True} | ({"keyLengths": cached} if i % 2 else {}) | ({} if window is None else {"slidingWindow": window})
        r.record("attention", f"drawn {i} {lengths} of {cached}, {heads}x{width}, window {window}", inputs, attend, attributes)
        rotary = 2 * pick(r, range(1, max(2, width // 2 + 1)))
        if rotary <= width:
            angles = r.uniform(sum(lengths), rotary // 2, low=-3, high=3).double()
            turned = {"x": r.normal(sum(lengths), heads, width), "cos": angles.cos().float(), "sin": angles.sin().float()}
            r.record("rope", f"drawn {i} {sum(lengths)}x{heads}x{width}, {rotary} turned", turned, rotate, frozen=("cos", "sin"))


def losses(r: Recording) -> None:
    for i in range(DRAWS):
        t, d, vocab = sizes(r, 3, 3000)
        labels = torch.where(r.integers(t, high=3) > 0, r.integers(t, high=vocab), -100)
        labels[0] = 0
        chunk = pick(r, (1, 3, 16, 256))
        smoothing = pick(r, (0.0, 0.1))
        entropy = lambda hidden, weight, labels, s=smoothing: F.cross_entropy(hidden @ weight.mT, labels, label_smoothing=s)  # noqa: E731
        inputs = {"hidden": r.normal(t, d, std=d**-0.5), "weight": r.normal(vocab, d), "labels": labels}
        r.record("linearCrossEntropy", f"drawn {i} {t}x{d}x{vocab} by {chunk}", inputs, entropy, {"chunkRows": chunk, "labelSmoothing": smoothing})


def empty(r: Recording) -> None:
    """Nothing in, nothing out, and no failure in between."""
    none = torch.zeros
    r.record("matmul", "no rows", {"a": none(0, 3), "b": r.normal(3, 4)}, lambda a, b: a @ b)
    r.record("matmul", "no terms", {"a": none(2, 0), "b": none(0, 4)}, lambda a, b: a @ b)
    r.record("softmax", "no rows", {"x": none(0, 5)}, lambda x: torch.softmax(x, -1), {"axis": -1})
    r.record("rmsNorm", "no rows", {"x": none(0, 5), "weight": r.normal(5)}, lambda x, weight: rms_norm(x, weight, 1e-5), {"eps": 1e-5})
    r.record("sum", "of nothing", {"x": none(2, 0)}, lambda x: x.sum(-1), {"axes": [-1]})
    r.record("concat", "with nothing", {"a": none(0, 3), "b": r.normal(2, 3)}, lambda a, b: torch.cat([a, b]), {"axis": 0})
    r.record("embedding", "no ids", {"ids": none(0, dtype=torch.int64), "table": r.normal(4, 3)}, lambda ids, table: F.embedding(ids, table))


def record_shapes(r: Recording) -> None:
    products(r)
    rows(r)
    reductions(r)
    elementwise(r)
    movement(r)
    attention(r)
    losses(r)
    empty(r)
