"""Ops that move elements: shapes, slices, gathers, scatters, sorting."""

import torch

from recording import Recording


def shapes(r: Recording) -> None:
    r.record("reshape", "infer", {"x": r.uniform(2, 3, 4)}, lambda x: x.reshape(6, 4), {"shape": [6, -1]})
    r.record("transpose", "2d", {"x": r.uniform(3, 5)}, lambda x: x.transpose(0, 1), {"axis0": 0, "axis1": 1})
    r.record("transpose", "negative axes", {"x": r.uniform(2, 3, 4)}, lambda x: x.transpose(-1, -2), {"axis0": -1, "axis1": -2})
    r.record("permute", "3d", {"x": r.uniform(2, 3, 4)}, lambda x: x.permute(2, 0, 1), {"axes": [2, 0, 1]})
    for axis in (0, 1, 2):
        r.record("slice", f"axis {axis}", {"x": r.uniform(4, 3, 5)}, lambda x, a=axis: x.narrow(a, 1, 2), {"axis": axis, "start": 1, "end": 3})
    r.record("pad", "middle", {"x": r.uniform(2, 3, 2)}, lambda x: torch.nn.functional.pad(x, (0, 0, 2, 1)), {"axis": 1, "before": 2, "after": 1})
    r.record("expand", "two axes", {"x": r.uniform(3, 1)}, lambda x: x.expand(2, 3, 4), {"shape": [2, 3, 4]}, products={"x": 8})
    r.record("split", "columns", {"x": r.uniform(3, 9)}, lambda x: dict(enumerate_outputs(x.split([4, 2, 3], -1))), {"sizes": [4, 2, 3], "axis": -1})
    r.record("split", "rows", {"x": r.uniform(5, 2)}, lambda x: dict(enumerate_outputs(x.split([2, 3], 0))), {"sizes": [2, 3], "axis": 0})
    for axis in (0, 1):
        inputs = {"a": r.uniform(2, 3), "b": r.uniform(*((4, 3) if axis == 0 else (2, 5))), "c": r.uniform(2, 3)}
        r.record("concat", f"axis {axis}", inputs, lambda a, b, c, d=axis: torch.cat([a, b, c], d), {"axis": axis})
        inputs = {"a": r.uniform(2, 3), "b": r.uniform(2, 3)}
        r.record("stack", f"axis {axis}", inputs, lambda a, b, d=axis: torch.stack([a, b], d), {"axis": axis})


def enumerate_outputs(parts):
    return [(f"out{i}", part) for i, part in enumerate(parts)]


def indexing(r: Recording) -> None:
    # An index that repeats: its gradients must add up.
    rows = torch.tensor([3, 0, 3, 1, 3])
    r.record("indexSelect", "rows", {"x": r.uniform(4, 3), "indices": rows}, lambda x, indices: x.index_select(0, indices), {"axis": 0}, products={"x": 5})
    r.record("indexSelect", "columns", {"x": r.uniform(2, 4, 3), "indices": rows}, lambda x, indices: x.index_select(1, indices), {"axis": 1}, products={"x": 5})
    for axis, shape in ((0, (5, 3)), (1, (4, 6)), (-1, (4, 2))):
        x, indices = r.uniform(4, 3), r.integers(*shape, high=4 if axis == 0 else 3)
        r.record("gather", f"axis {axis}", {"x": x, "indices": indices}, lambda x, indices, a=axis: x.gather(a, indices), {"axis": axis}, products={"x": 6})
        base, source = r.uniform(4, 3), r.uniform(*shape)
        add = lambda x, indices, source, a=axis: x.scatter_add(a, indices, source)  # noqa: E731
        r.record("scatterAdd", f"axis {axis}", {"x": base, "indices": indices, "source": source}, add, {"axis": axis}, products={"out": 7})
    ids = torch.tensor([5, 0, 5, 2, 6, 5])
    embed = lambda ids, table: torch.nn.functional.embedding(ids, table)  # noqa: E731
    r.record("embedding", "repeated ids", {"ids": ids, "table": r.uniform(7, 5)}, embed, products={"table": 6})
    half = lambda ids, table: embed(ids, table).bfloat16()  # noqa: E731  (the rows as they are)
    r.record("embedding", "bf16 table", {"ids": ids, "table": r.uniform(7, 5).bfloat16()}, half, frozen=("table",))


def sorting(r: Recording) -> None:
    for k in (1, 3, 7):
        def topk(x, k=k):
            values, indices = x.topk(k, -1)
            return {"values": values, "indices": indices}
        r.record("topk", f"k {k}", {"x": r.uniform(4, 7)}, topk, {"k": k})
    for axis in (0, 1, -1):
        r.record("cumsum", f"axis {axis}", {"x": r.uniform(3, 9)}, lambda x, a=axis: x.cumsum(a), {"axis": axis}, products={"out": 9, "x": 9})


def record_movement(r: Recording) -> None:
    shapes(r)
    indexing(r)
    sorting(r)
