/** Ops that move elements: reshape, permute, slice, split, pad, concat, stack, expand, cast, contiguous. */
import { edgesFor } from '../autograd.ts';
import { zeros } from '../creation.ts';
import type { DType } from '../dtype.ts';
import { isFloat, promote } from '../dtype.ts';
import { ShapeError } from '../errors.ts';
import { defineOp, record, type Spec } from '../op.ts';
import { scope } from '../scope.ts';
import {
  broadcastShapes,
  checkShape,
  normalizeAxis,
  type Shape,
  sameShape,
  showShape,
  sizeOf,
  stridesOf,
} from '../shape.ts';
import { type Tensor, viewOf } from '../tensor.ts';
import { identity } from './elementwise.ts';

/** Copies a column block into dense rows. */
export const contiguousOp = defineOp({
  name: 'contiguous',
  inputs: ['x'],
  columnBlocks: ['x'],
  shape: ({ x }) => ({ shape: x.shape, dtype: x.dtype }),
  reference: ([x], [out]) => out!.data.set(x!.data),
  gradient: { x: { rule: ({ grad }) => grad } },
  samples: [{ inputs: { x: { shape: [3, 4] } } }, { inputs: { x: { shape: [5], dtype: 'bf16' } } }],
});

/** The tensor with dense rows: itself if it has them. */
export const contiguous = (x: Tensor): Tensor => (x.isContiguous ? x : contiguousOp.apply({ x }, {})[0]!);

/** A handle of other shape or place on the same storage, as an op with a gradient. */
function viewOp(op: string, x: Tensor, view: Tensor, back: (grad: Tensor) => Tensor): Tensor {
  const edges = edgesFor([x]);
  if (!edges) return view;
  const rules = [({ grads }: { grads: readonly (Tensor | undefined)[] }) => back(grads[0]!)];
  return record({ op, edges, inputShapes: [x.shape], outputShapes: [view.shape], rules, saved: {} }, [view])[0]!;
}

/** The same elements in another shape; one size may be -1. Shares storage. */
export function reshape(x: Tensor, shape: Shape): Tensor {
  const known = shape.reduce((product, n) => (n === -1 ? product : product * n), 1);
  const full = shape.map((n) => (n === -1 ? x.size / known : n));
  if (
    shape.filter((n) => n === -1).length > 1 ||
    sizeOf(full) !== x.size ||
    full.some((n) => !Number.isInteger(n) || n < 0)
  )
    throw new ShapeError(
      `reshape: the new shape must hold ${x.size} elements: got ${showShape(shape)} for ${showShape(x.shape)}. At most one size may be -1.`,
    );
  x.storage('reshape');
  const keepsRows = !x.isContiguous && full[0] === x.shape[0];
  if (!x.isContiguous && !keepsRows) {
    using dense = contiguous(x);
    return reshape(dense, full);
  }
  const before = x.shape;
  const view = viewOf(x, full, x.offset, keepsRows ? x.rowStride : undefined);
  return viewOp('reshape', x, view, (grad) => reshape(grad, before));
}

export const permuteOp = defineOp<'x', { axes: readonly number[] }>({
  name: 'permute',
  inputs: ['x'],
  shape: ({ x }, { axes }) => {
    const sorted = [...axes].sort((a, b) => a - b);
    if (axes.length !== x.shape.length || sorted.some((a, i) => a !== i))
      throw new ShapeError(
        `permute: axes must name each of the ${x.shape.length} axes once: got [${axes.join(', ')}] for ${showShape(x.shape)}.`,
      );
    return { shape: axes.map((a) => x.shape[a]!), dtype: x.dtype };
  },
  reference: ([x], [out], attributes) => {
    const axes = attributes.axes as number[];
    const from = stridesOf(x!.shape);
    const to = stridesOf(out!.shape);
    for (let i = 0; i < out!.data.length; i++) {
      let at = 0;
      for (let k = 0; k < axes.length; k++) at += (Math.floor(i / to[k]!) % out!.shape[k]!) * from[axes[k]!]!;
      out!.data[i] = x!.data[at]!;
    }
  },
  gradient: {
    x: {
      rule: ({ grad, attributes: { axes } }) =>
        permute(
          grad,
          axes.map((_, i) => axes.indexOf(i)),
        ),
    },
  },
  samples: [
    { inputs: { x: { shape: [2, 3, 4] } }, attributes: { axes: [2, 0, 1] } },
    { inputs: { x: { shape: [5, 7] } }, attributes: { axes: [1, 0] } },
    { inputs: { x: { shape: [2, 3, 1, 5] } }, attributes: { axes: [0, 2, 1, 3] } },
  ],
  errors: [{ inputs: { x: { shape: [2, 3] } }, attributes: { axes: [0, 0] }, message: 'name each' }],
});

/** The axes in another order; copies, unless only axes of size 1 move. */
export function permute(x: Tensor, axes: readonly number[]): Tensor {
  const normal = axes.map((a) => normalizeAxis('permute', a, x.rank));
  if (new Set(normal).size === x.rank) {
    const moving = normal.filter((a) => x.shape[a] !== 1);
    if (moving.every((a, i) => i === 0 || a > moving[i - 1]!))
      return reshape(
        x,
        normal.map((a) => x.shape[a]!),
      );
  }
  return permuteOp.apply({ x }, { axes: normal })[0]!;
}

/** Two axes swapped; copies. matmul takes transposeA and transposeB instead. */
export function transpose(x: Tensor, axis0 = -2, axis1 = -1): Tensor {
  const [a, b] = [normalizeAxis('transpose', axis0, x.rank), normalizeAxis('transpose', axis1, x.rank)];
  return permute(
    x,
    x.shape.map((_, i) => (i === a ? b : i === b ? a : i)),
  );
}

interface Cut {
  readonly axis: number;
  readonly start: number;
  readonly end: number;
}

const withSize = (shape: Shape, axis: number, n: number): Shape => shape.map((old, i) => (i === axis ? n : old));

function checkCut(shape: Shape, { axis, start, end }: Cut): void {
  const n = shape[axis]!;
  if (!(Number.isInteger(start) && Number.isInteger(end) && start >= 0 && end >= start && end <= n))
    throw new ShapeError(
      `slice: integers with 0 <= start <= end <= ${n} must be given for axis ${axis} of ${showShape(shape)}: got ${start} .. ${end}. Negative ones count from the end.`,
    );
}

function eachRun(shape: Shape, axis: number, visit: (outer: number, inner: number) => void): void {
  const inner = sizeOf(shape.slice(axis + 1));
  for (let o = 0; o < sizeOf(shape.slice(0, axis)); o++) visit(o, inner);
}

export const sliceOp = defineOp<'x', Cut>({
  name: 'slice',
  inputs: ['x'],
  columnBlocks: ['x'],
  shape: ({ x }, { axis, start, end }) => {
    checkCut(x.shape, { axis, start, end });
    return { shape: withSize(x.shape, axis, end - start), dtype: x.dtype };
  },
  reference: ([x], [out], attributes) => {
    const { axis, start, end } = attributes as unknown as Cut;
    eachRun(x!.shape, axis, (o, inner) => {
      const from = (o * x!.shape[axis]! + start) * inner;
      out!.data.set(x!.data.subarray(from, from + (end - start) * inner), o * (end - start) * inner);
    });
  },
  gradient: {
    x: {
      rule: ({ grad, attributes: { axis, start, end }, inputs }) =>
        pad(grad, axis, start, inputs.x!.shape[axis]! - end),
    },
  },
  samples: [
    { inputs: { x: { shape: [4, 6, 3] } }, attributes: { axis: 1, start: 2, end: 5 } },
    { inputs: { x: { shape: [4, 6] } }, attributes: { axis: 1, start: 0, end: 0 } },
    { inputs: { x: { shape: [9] } }, attributes: { axis: 0, start: 3, end: 9 } },
  ],
  errors: [{ inputs: { x: { shape: [3] } }, attributes: { axis: 0, start: 1, end: 5 }, message: '0 <= start' }],
});

/** Indices start .. end-1 along an axis (negatives count from the end). Shares storage along axis 0, copies otherwise. */
export function slice(
  x: Tensor,
  axis: number,
  start: number,
  end: number = x.shape[normalizeAxis('slice', axis, x.rank)]!,
): Tensor {
  const a = normalizeAxis('slice', axis, x.rank);
  const n = x.shape[a]!;
  const cut = { axis: a, start: start < 0 ? start + n : start, end: end < 0 ? end + n : end };
  if (a !== 0) return sliceOp.apply({ x }, cut)[0]!;
  checkCut(x.shape, cut);
  const view = viewOf(x, withSize(x.shape, 0, cut.end - cut.start), x.offset + cut.start * x.rowStride, x.rowStride);
  return viewOp('slice', x, view, (grad) => pad(grad, 0, cut.start, n - cut.end));
}

export const padOp = defineOp<'x', { axis: number; before: number; after: number }>({
  name: 'pad',
  inputs: ['x'],
  columnBlocks: ['x'],
  shape: ({ x }, { axis, before, after }) => {
    if (!(Number.isInteger(before) && Number.isInteger(after) && before >= 0 && after >= 0))
      throw new ShapeError(
        `pad: before and after must be integers of at least 0: got ${before} and ${after}. Use slice() to crop.`,
      );
    return { shape: withSize(x.shape, axis, x.shape[axis]! + before + after), dtype: x.dtype };
  },
  reference: ([x], [out], attributes) => {
    const { axis, before } = attributes as { axis: number; before: number };
    const n = x!.shape[axis]!;
    eachRun(x!.shape, axis, (o, inner) =>
      out!.data.set(x!.data.subarray(o * n * inner, (o + 1) * n * inner), (o * out!.shape[axis]! + before) * inner),
    );
  },
  gradient: {
    x: {
      rule: ({ grad, attributes: { axis, before }, inputs }) =>
        slice(grad, axis, before, before + inputs.x!.shape[axis]!),
    },
  },
  samples: [
    { inputs: { x: { shape: [2, 3, 2] } }, attributes: { axis: 1, before: 2, after: 1 } },
    { inputs: { x: { shape: [3] } }, attributes: { axis: 0, before: 0, after: 4 } },
  ],
  errors: [
    { inputs: { x: { shape: [3] } }, attributes: { axis: 0, before: -1, after: 0 }, message: 'integers of at least 0' },
  ],
});

/** Zeros before and after along one axis. */
export function pad(x: Tensor, axis: number, before: number, after: number): Tensor {
  const normal = normalizeAxis('pad', axis, x.rank);
  if (before === 0 && after === 0) return x.alias();
  return padOp.apply({ x }, { axis: normal, before, after })[0]!;
}

/** Column blocks of the last axis, sharing storage; the gradients are joined once. */
export function split(x: Tensor, sizes: readonly number[], axis = -1): Tensor[] {
  const a = normalizeAxis('split', axis, x.rank);
  if (sizes.some((n) => !Number.isInteger(n) || n < 0) || sizes.reduce((s, n) => s + n, 0) !== x.shape[a])
    throw new ShapeError(
      `split: sizes must be integers of at least 0 that sum to ${x.shape[a]}: got [${sizes.join(', ')}] for axis ${a} of ${showShape(x.shape)}. Give one size a part.`,
    );
  const starts = sizes.map((_, i) => sizes.slice(0, i).reduce((s, n) => s + n, 0));
  if (x.rank !== 2 || a !== 1) return sizes.map((n, i) => slice(x, a, starts[i]!, starts[i]! + n));
  const rows = x.shape[0]!;
  const views = sizes.map((n, i) => viewOf(x, [rows, n], x.offset + starts[i]!, x.rowStride));
  const edges = edgesFor([x]);
  if (!edges) return views;
  const { backend } = x;
  const back = ({ grads }: { grads: readonly (Tensor | undefined)[] }): Tensor => {
    const dtype = grads.flatMap((g) => (g ? [g.dtype] : [])).reduce(promote);
    return concat(
      sizes.map((n, i) => grads[i]?.cast(dtype) ?? zeros([rows, n], { backend, dtype })),
      1,
    );
  };
  return record(
    { op: 'split', edges, inputShapes: [x.shape], outputShapes: views.map((v) => v.shape), rules: [back], saved: {} },
    views,
  );
}

const parts = ['x0', 'x1', 'x2', 'x3', 'x4', 'x5', 'x6'] as const;
type Part = (typeof parts)[number];

export const concatOp = defineOp<Part, { axis: number }>({
  name: 'concat',
  inputs: parts,
  optional: parts.slice(1),
  columnBlocks: parts,
  shape: (inputs, { axis }) => {
    const given = parts.flatMap((p) => (inputs[p] ? [inputs[p]] : []));
    const first = given[0]!;
    for (const s of given)
      if (
        s.shape.length !== first.shape.length ||
        s.dtype !== first.dtype ||
        s.shape.some((n, i) => i !== axis && n !== first.shape[i])
      )
        throw new ShapeError(
          `concat: tensors must agree in dtype and in all axes but ${axis}: got ${given.map((x) => `${showShape(x.shape)} ${x.dtype}`).join(', ')}. Use cast() or reshape().`,
        );
    return {
      shape: withSize(
        first.shape,
        axis,
        given.reduce((n, s) => n + s.shape[axis]!, 0),
      ),
      dtype: first.dtype,
    };
  },
  reference: (inputs, [out], attributes) => {
    const axis = attributes.axis as number;
    const total = out!.shape[axis]!;
    let start = 0;
    for (const x of inputs) {
      if (!x) continue;
      const n = x.shape[axis]!;
      eachRun(x.shape, axis, (o, inner) =>
        out!.data.set(x.data.subarray(o * n * inner, (o + 1) * n * inner), (o * total + start) * inner),
      );
      start += n;
    }
  },
  gradient: Object.fromEntries(
    parts.map((p, i) => [
      p,
      {
        rule: ({
          grad,
          attributes: { axis },
          inputs,
        }: {
          grad: Tensor;
          attributes: { axis: number };
          inputs: Readonly<Record<string, Spec>>;
        }) => {
          const start = parts.slice(0, i).reduce((n, q) => n + (inputs[q]?.shape[axis] ?? 0), 0);
          return slice(grad, axis, start, start + inputs[p]!.shape[axis]!);
        },
      },
    ]),
  ),
  samples: [
    { inputs: { x0: { shape: [2, 3] }, x1: { shape: [2, 1] }, x2: { shape: [2, 4] } }, attributes: { axis: 1 } },
    { inputs: { x0: { shape: [3] }, x1: { shape: [5] } }, attributes: { axis: 0 } },
    { inputs: { x0: { shape: [2, 2, 3] }, x1: { shape: [2, 5, 3] } }, attributes: { axis: 1 } },
  ],
  errors: [{ inputs: { x0: { shape: [2, 3] }, x1: { shape: [3, 1] } }, attributes: { axis: 1 }, message: 'agree' }],
});

/** Tensors joined along an axis, any number of them. */
export function concat(tensors: readonly Tensor[], axis = 0): Tensor {
  if (tensors.length === 0)
    throw new ShapeError('concat: tensors must hold at least one: got an empty list. Use zeros() for an empty result.');
  if (tensors.length > parts.length)
    return scope(() => {
      const groups: Tensor[] = [];
      for (let i = 0; i < tensors.length; i += parts.length)
        groups.push(concat(tensors.slice(i, i + parts.length), axis));
      return concat(groups, axis);
    });
  const normal = normalizeAxis('concat', axis, tensors[0]!.rank);
  return concatOp.apply(Object.fromEntries(tensors.map((t, i) => [parts[i]!, t])), { axis: normal })[0]!;
}

/** Tensors of one shape joined along a new axis. */
export function stack(tensors: readonly Tensor[], axis = 0): Tensor {
  const rank = (tensors[0]?.rank ?? 0) + 1;
  const a = normalizeAxis('stack', axis, rank);
  return scope(() =>
    concat(
      tensors.map((t) => reshape(t, [...t.shape.slice(0, a), 1, ...t.shape.slice(a)])),
      a,
    ),
  );
}

/** Broadcast to a larger shape; copies. */
export function expand(x: Tensor, shape: Shape): Tensor {
  if (!sameShape(broadcastShapes('expand', x.shape, checkShape('expand', shape)), shape))
    throw new ShapeError(
      `expand: ${showShape(x.shape)} must broadcast to the target: got ${showShape(shape)}. Sizes must be equal or 1 in the tensor.`,
    );
  return identity.apply([x], [], { shape, dtype: x.dtype });
}

/** The same numbers in another dtype: floats rounded to nearest even, float to integer truncated; no gradient passes an integer. An alias where the dtype is already right. */
export function cast(x: Tensor, dtype: DType): Tensor {
  if (x.dtype === dtype) return x.alias();
  const target = { shape: x.shape, dtype };
  if (isFloat(dtype) || !x.requiresGrad) return identity.apply([x], [], target);
  using source = x.detach();
  return identity.apply([source], [], target);
}
