"""torch.nn modules with drawn sizes: what they compute and every gradient, in f64. Dropout by what it must do, not by its bits."""

import math

import torch
from torch.func import functional_call

from recording import EXACT
from recording import Recording


def record_module(r: Recording, op: str, label: str, module: torch.nn.Module, x: torch.Tensor, attributes: dict,
                  products: dict | None = None, tolerance: dict | None = None) -> None:
    """One forward with drawn parameters; gradients of them and of x (unless x holds ids)."""
    parameters = {k: r.normal(*p.shape) for k, p in module.named_parameters()}

    def compute(x, **parameters):
        return functional_call(module, parameters, (x,))

    r.record(op, label, {"x": x} | parameters, compute, attributes, products=products, tolerance=tolerance)


def linears(r: Recording) -> None:
    drawn = [int(v) for v in r.integers(3, low=1, high=70)]
    #        label      leading axes   in   out  bias
    cases = [("plain",   (5,),          8,   6,   True),
             ("one",     (1,),          1,   1,   True),
             ("no bias", (3,),          33,  17,  False),
             ("batched", (2, 3),        16,  5,   True),
             ("drawn",   (drawn[0],),   drawn[1], drawn[2], True)]
    for label, leading, n_in, n_out, bias in cases:
        rows = math.prod(leading)
        products = {"out": n_in + 1, "x": n_out, "weight": rows} | ({"bias": rows} if bias else {})
        record_module(r, "Linear", label, torch.nn.Linear(n_in, n_out, bias=bias), r.normal(*leading, n_in), {}, products)


def embeddings(r: Recording) -> None:
    width = int(r.integers(1, low=1, high=40))
    for label, rows, padding, shape in [("plain", 11, None, (7,)), ("two axes", 5, None, (2, 3)), ("padding", 9, 4, (12,)), ("one", 1, None, (1,))]:
        ids = r.integers(*shape, low=0, high=rows)
        if padding is not None:
            ids[0] = padding
        record_module(r, "Embedding", label, torch.nn.Embedding(rows, width, padding_idx=padding), ids, {"paddingIdx": padding})


def norms(r: Recording) -> None:
    drawn = int(r.integers(1, low=2, high=200))
    for width in (1, 8, 33, drawn):
        for eps in (1e-5, 1e-2):
            label = f"width {width} eps {eps}" + (" drawn" if width == drawn else "")
            record_module(r, "RMSNorm", label, torch.nn.RMSNorm(width, eps=eps), r.normal(4, width), {"eps": eps})
            # Of one column LayerNorm leaves only the bias: its gradients cancel to rounding.
            if width > 1:
                record_module(r, "LayerNorm", label, torch.nn.LayerNorm(width, eps=eps), r.normal(4, width), {"eps": eps})


def convolutions(r: Recording) -> None:
    #        label       x             out kernel  stride padding dilation groups bias
    cases = [("plain",    (2, 3, 9),    4,  3,      1, 0, 1, 1, True),
             ("strided",  (1, 4, 11),   6,  3,      2, 1, 1, 2, False),
             ("dilated",  (1, 2, 9),    2,  2,      1, 2, 3, 1, True),
             ("plain",    (2, 3, 6, 5), 4,  (3, 3), 1, 1, 1, 1, True),
             ("grouped",  (1, 4, 7, 7), 4,  (3, 2), 2, 1, 1, 4, False)]
    for label, x, out, kernel, stride, padding, dilation, groups, bias in cases:
        kind = torch.nn.Conv1d if len(x) == 3 else torch.nn.Conv2d
        geometry = {"stride": stride, "padding": padding, "dilation": dilation, "groups": groups}
        module = kind(x[1], out, kernel, bias=bias, **geometry)
        taps = math.prod(module.weight.shape[1:])
        positions = x[0] * math.prod(x[2:]) * 2
        products = {"out": taps + 1, "x": taps * out, "weight": positions} | ({"bias": positions} if bias else {})
        record_module(r, kind.__name__, label, module, r.normal(*x), geometry, products)


def dropouts(r: Recording) -> None:
    x = r.normal(7, 9)
    for label, p, training in [("in evaluation", 0.3, False), ("of nothing", 0.0, True)]:
        module = torch.nn.Dropout(p).train(training)
        r.record("Dropout", label, {"x": x.clone()}, lambda x, m=module: m(x), {"p": p, "training": training}, tolerance=EXACT)
    # Which elements are dropped is a matter of the generator; how many, and what becomes of the rest, is not.
    p = 0.05 + 0.9 * float(r.uniform(1, low=0.0, high=1.0))
    ones = torch.ones(100, 100)
    kept = torch.nn.Dropout(p)(ones).max()
    r.cases.append({"name": "Dropout/in training", "op": "dropoutLaw", "attributes": {"p": p, "shape": [100, 100]},
                    "inputs": {}, "outputs": {"kept": r.store("Dropout/in training/kept", kept)}})


def record_modules(r: Recording) -> None:
    linears(r)
    embeddings(r)
    norms(r)
    convolutions(r)
    dropouts(r)
