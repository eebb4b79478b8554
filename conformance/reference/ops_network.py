"""Products, norms, rope, attention, losses, convolutions. Shapes: t tokens, h heads, k key-value heads, e head width."""

import math

import torch
from torch.nn import functional as F

from ops_terms import record_term_sums
from recording import EXACT, Recording


def matmuls(r: Recording) -> None:
    for label, m, k, n in [("small", 2, 3, 4), ("row", 1, 65, 33), ("column", 17, 5, 1), ("one", 1, 1, 1), ("odd", 37, 131, 19)]:
        terms = {"out": k, "a": n, "b": m}
        inputs = {"a": r.normal(m, k), "b": r.normal(k, n)}
        r.record("matmul", label, inputs, lambda a, b: a @ b, products=terms)
    for ta in (False, True):
        for tb in (False, True):
            a, b = r.normal(*((7, 5) if ta else (5, 7))), r.normal(*((9, 7) if tb else (7, 9)))
            product = lambda a, b, x=ta, y=tb: (a.mT if x else a) @ (b.mT if y else b)  # noqa: E731
            attributes = {"transposeA": ta, "transposeB": tb}
            r.record("matmul", f"transposes {ta:d}{tb:d}", {"a": a, "b": b}, product, attributes, products={"out": 7, "a": 9, "b": 5})
    batched = {"a": r.normal(3, 2, 4), "b": r.normal(3, 4, 5)}
    r.record("matmul", "batched", batched, lambda a, b: a @ b, products={"out": 4, "a": 5, "b": 2})
    shared = {"a": r.normal(3, 2, 4), "b": r.normal(4, 5)}
    r.record("matmul", "batch by matrix", shared, lambda a, b: a @ b, products={"out": 4, "a": 5, "b": 6})
    whole = {"a": r.integers(33, 65, low=-8, high=9).float(), "b": r.integers(65, 17, low=-8, high=9).float()}
    r.record("matmul", "integers", whole, lambda a, b: a @ b, frozen=("a", "b"), tolerance=EXACT)
    fused = {"a": r.normal(4, 9), "b": r.normal(6, 9), "u": r.normal(4, 3), "v": r.normal(6, 3), "bias": r.normal(6)}
    r.record("matmul", "second pair and bias", fused, lambda a, b, u, v, bias: a @ b.mT + u @ v.mT + bias, {"transposeB": True},
             products={"out": 13, "a": 6, "b": 4, "u": 6, "v": 4, "bias": 4})
    half = {"a": r.normal(4, 37), "b": r.normal(9, 37).bfloat16()}
    r.record("matmul", "bf16 weight", half, lambda a, b: a @ b.mT, {"transposeB": True}, frozen=("b",), products={"out": 37, "a": 9})


def rms_norm(x, weight, eps):
    """Phi3RMSNorm.forward, without its cast to f32."""
    return weight * (x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + eps))


def layer_norm(x, weight, bias, eps):
    """F.layer_norm, with weight and bias outside: they may have a row of their own for each row of x."""
    return F.layer_norm(x, x.shape[-1:], eps=eps) * weight + bias


def record_rms_norm(r: Recording, label: str, x: torch.Tensor, weight: torch.Tensor, eps: float) -> None:
    inputs, compute = {"x": x, "weight": weight}, lambda x, weight: rms_norm(x, weight, eps)
    r.record("rmsNorm", label, inputs, compute, {"eps": eps})
    record_term_sums(r, inputs, compute, ("weight",))


def record_layer_norm(r: Recording, label: str, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, eps: float) -> None:
    inputs, compute = {"x": x, "weight": weight, "bias": bias}, lambda x, weight, bias: layer_norm(x, weight, bias, eps)
    r.record("layerNorm", label, inputs, compute, {"eps": eps})
    record_term_sums(r, inputs, compute, ("weight", "bias"))


def norms(r: Recording) -> None:
    for label, shape, eps in [("odd", (3, 7), 1e-5), ("one column", (4, 1), 1e-5), ("3d", (2, 3, 33), 1e-6)]:
        x, weight, bias = r.normal(*shape), r.uniform(shape[-1], low=0.5, high=1.5), r.normal(shape[-1])
        record_rms_norm(r, label, x, weight, eps)
        if shape[-1] > 1:
            record_layer_norm(r, label, x, weight, bias, eps)
    record_rms_norm(r, "smaller than eps", r.normal(2, 9, std=1e-4), torch.ones(9), 1e-5)


def rotate(x, cos, sin):
    """transformers' apply_rotary_pos_emb on [t, h, e] with cos and sin [t, rotary / 2]; columns past rotary pass through."""
    cos, sin = torch.cat((cos, cos), -1), torch.cat((sin, sin), -1)
    rotary = cos.shape[-1]
    turned, rest = x[..., :rotary], x[..., rotary:]
    half = torch.cat((-turned[..., rotary // 2 :], turned[..., : rotary // 2]), -1)
    return torch.cat((turned * cos[:, None] + half * sin[:, None], rest), -1)


def ropes(r: Recording) -> None:
    for label, tokens, heads, width, rotary in [("full", 5, 3, 8, 8), ("partial", 4, 2, 8, 6), ("one token", 1, 1, 2, 2), ("width 96", 3, 2, 96, 96)]:
        frequencies = 10000.0 ** (-torch.arange(0, rotary, 2).double() / rotary)
        angles = torch.arange(tokens).double()[:, None] * frequencies
        inputs = {"x": r.normal(tokens, heads, width), "cos": angles.cos().float(), "sin": angles.sin().float()}
        r.record("rope", label, inputs, rotate, frozen=("cos", "sin"))


def segment_mask(lengths, key_lengths, window, causal):
    """True where query i may see key j: same segment, not later, at most `window` keys including itself.

    With more keys than queries (a cache) the queries are the last tokens of their segment.
    """
    segments = torch.arange(len(lengths))
    queries, keys = (torch.repeat_interleave(segments, torch.tensor(n)) for n in (lengths, key_lengths))
    query_at = torch.cat([torch.arange(m - n, m) for n, m in zip(lengths, key_lengths)])[:, None]
    key_at = torch.cat([torch.arange(m) for m in key_lengths])[None]
    seen = queries[:, None] == keys[None]
    if causal:
        seen &= key_at <= query_at
    if window is not None:
        seen &= key_at > query_at - window
    return seen


def attentions(r: Recording) -> None:
    #         label               lengths       h  k  e   window  scale causal
    cases = [("causal",           [6],          2, 2, 4,  None,   None, True),
             ("one token",        [1],          1, 1, 3,  None,   None, True),
             ("grouped",          [7],          4, 2, 5,  None,   None, True),
             ("one kv head",      [5],          3, 1, 8,  None,   None, True),
             ("window",           [9],          2, 1, 4,  3,      None, True),
             ("window of one",    [4],          1, 1, 4,  1,      None, True),
             ("segments",         [3, 1, 5],    2, 2, 4,  None,   None, True),
             ("segments, window", [5, 4, 2],    4, 2, 6,  2,      None, True),
             ("scale",            [5],          2, 2, 4,  None,   0.3,  True),
             ("width 96",         [19, 14],     2, 1, 96, 11,     None, True),
             ("both directions",  [5, 3],       2, 2, 4,  None,   None, False),
             ("cache",            [1, 2],       2, 1, 4,  None,   None, True),
             ("cache, window",    [2, 1],       2, 2, 4,  3,      None, True)]
    for label, lengths, heads, kv_heads, width, window, scale, causal in cases:
        key_lengths = [5, 6] if label.startswith("cache") else lengths
        tokens, mask = sum(key_lengths), segment_mask(lengths, key_lengths, window, causal)
        inputs = {"q": r.normal(sum(lengths), heads, width), "k": r.normal(tokens, kv_heads, width), "v": r.normal(tokens, kv_heads, width)}
        def attend(q, k, v, mask=mask, scale=scale, groups=heads // kv_heads):
            k, v = (x.repeat_interleave(groups, 1).transpose(0, 1) for x in (k, v))
            out = F.scaled_dot_product_attention(q.transpose(0, 1), k, v, attn_mask=mask, scale=scale)
            return out.transpose(0, 1)
        attributes = {"lengths": lengths, "causal": causal}
        attributes |= {} if key_lengths is lengths else {"keyLengths": key_lengths}
        attributes |= {} if window is None else {"slidingWindow": window}
        attributes |= {} if scale is None else {"scale": scale}
        r.record("attention", label, inputs, attend, attributes)


def losses(r: Recording) -> None:
    labels = torch.tensor([2, 0, -100, 6, -100, 3])
    options = [("mean", {}), ("sum", {"reduction": "sum"}), ("none", {"reduction": "none"}), ("smoothed", {"labelSmoothing": 0.1}),
               ("smoothed sum", {"labelSmoothing": 0.3, "reduction": "sum"}), ("other ignored", {"ignoreIndex": 3})]
    torch_names = {"reduction": "reduction", "labelSmoothing": "label_smoothing", "ignoreIndex": "ignore_index"}
    for label, attributes in options:
        arguments = {torch_names[k]: v for k, v in attributes.items()}
        targets = labels.clamp(min=0) if "ignoreIndex" in attributes else labels
        entropy = lambda logits, labels, a=arguments: F.cross_entropy(logits, labels, **a)  # noqa: E731
        r.record("crossEntropy", label, {"logits": r.normal(6, 7, std=3), "labels": targets}, entropy, attributes)
        if attributes.get("reduction") == "none":
            continue
        # The fused op has no reduction: it divides the sum by a normalizer, by default the rows that count (the mean).
        attributes = {k: v for k, v in attributes.items() if k != "reduction"} | ({"normalizer": 1} if "reduction" in attributes else {})
        fused = lambda hidden, weight, labels, a=arguments: F.cross_entropy(hidden @ weight.mT, labels, **a)  # noqa: E731
        inputs = {"hidden": r.normal(6, 5), "weight": r.normal(7, 5), "labels": targets}
        r.record("linearCrossEntropy", label, inputs, fused, attributes)
    wide = {"hidden": r.normal(67, 9), "weight": r.normal(301, 9), "labels": torch.where(r.integers(67, high=3) > 0, r.integers(67, high=301), -100)}
    r.record("linearCrossEntropy", "several chunks", wide, lambda hidden, weight, labels: F.cross_entropy(hidden @ weight.mT, labels), {"chunkRows": 16})
    r.record("crossEntropy", "large logits", {"logits": r.normal(3, 130, std=60), "labels": torch.tensor([0, 129, 64])}, lambda logits, labels: F.cross_entropy(logits, labels))


def convolutions(r: Recording) -> None:
    #        label             x            weight        bias   stride padding dilation groups
    cases = [("plain",         (2, 3, 9),   (4, 3, 3),    True,  1, 0, 1, 1),
             ("stride",        (1, 2, 8),   (3, 2, 3),    False, 2, 1, 1, 1),
             ("groups",        (2, 4, 7),   (6, 2, 2),    True,  1, 1, 1, 2),
             ("one",           (1, 1, 1),   (1, 1, 1),    True,  1, 0, 1, 1),
             ("dilation",      (1, 2, 9),   (2, 2, 3),    False, 1, 2, 2, 1),
             ("plain 2d",      (2, 3, 6, 5), (4, 3, 3, 3), True, 1, 0, 1, 1),
             ("stride 2d",     (1, 2, 7, 7), (3, 2, 3, 3), True, 2, 1, 1, 1),
             ("depthwise 2d",  (1, 4, 5, 5), (4, 1, 3, 3), False, 1, 1, 1, 4),
             ("kernel 1 2d",   (2, 3, 4, 3), (5, 3, 1, 1), True, 1, 0, 1, 1),
             ("oblong 2d",     (1, 2, 6, 8), (2, 2, 2, 3), True, [2, 1], [0, 2], 1, 1)]
    for label, x, weight, bias, stride, padding, dilation, groups in cases:
        op, convolve = ("conv1d", F.conv1d) if len(x) == 3 else ("conv2d", F.conv2d)
        attributes = {"stride": stride, "padding": padding, "dilation": dilation, "groups": groups}
        inputs = {"x": r.normal(*x), "weight": r.normal(*weight)} | ({"bias": r.normal(weight[0])} if bias else {})
        kernel = math.prod(weight[1:])
        positions = x[0] * math.prod(x[2:])
        terms = {"out": kernel + 1, "x": kernel * weight[0], "weight": positions} | ({"bias": positions} if bias else {})
        call = lambda x, weight, bias=None, a=attributes, f=convolve: f(x, weight, bias, **a)  # noqa: E731
        r.record(op, label, inputs, call, attributes, products=terms)


def record_network(r: Recording) -> None:
    matmuls(r)
    norms(r)
    ropes(r)
    attentions(r)
    losses(r)
    convolutions(r)
