/** Reductions over axes: sum, mean, max, argmax; and cumulative sum. Kernels see [outer, n, inner] -> [outer, inner]. */

import type { Dense } from '../backend.ts';
import { type DType, isFloat } from '../dtype.ts';
import { ShapeError } from '../errors.ts';
import { defineOp, type Spec } from '../op.ts';
import { scope } from '../scope.ts';
import { normalizeAxis, showShape, sizeOf } from '../shape.ts';
import type { Tensor } from '../tensor.ts';

const samples = [
  { inputs: { x: { shape: [2, 5, 3] } } },
  { inputs: { x: { shape: [1, 37, 1] } } },
  { inputs: { x: { shape: [4, 1, 2] } } },
];
const errors = [{ inputs: { x: { shape: [2, 3] } }, message: '[outer, n, inner]' }];

function reduced(op: string, x: Spec, dtype: DType, needsElements: boolean): Spec {
  if (x.shape.length !== 3)
    throw new ShapeError(
      `${op}: the op takes [outer, n, inner]: got ${showShape(x.shape)}. Call the function ${op}(x, axes).`,
    );
  if (needsElements && x.shape[1] === 0 && sizeOf(x.shape.toSpliced(1, 1)) > 0)
    throw new ShapeError(
      `${op}: the reduced axes must hold at least one element: got ${showShape(x.shape)}. Check the size before.`,
    );
  return { shape: [x.shape[0]!, x.shape[2]!], dtype };
}

function eachColumn(x: Dense, visit: (at: number, out: number, n: number, step: number) => void): void {
  const [outer, n, inner] = x.shape as [number, number, number];
  for (let o = 0; o < outer; o++) for (let i = 0; i < inner; i++) visit(o * n * inner + i, o * inner + i, n, inner);
}

export const sumOp = defineOp({
  name: 'sum',
  inputs: ['x'],
  shape: ({ x }) => reduced('sum', x, isFloat(x.dtype) ? (x.dtype === 'f64' ? 'f64' : 'f32') : 'i32', false),
  reference: ([x], [out]) =>
    eachColumn(x!, (at, to, n, step) => {
      let total = 0;
      for (let k = 0; k < n; k++) total += x!.data[at + k * step]!;
      out!.data[to] = total;
    }),
  gradient: {
    x: {
      rule: ({ grad, inputs }) => {
        const [outer, , inner] = inputs.x!.shape as [number, number, number];
        return grad.reshape([outer, 1, inner]).expand(inputs.x!.shape);
      },
    },
  },
  samples: [
    ...samples,
    { inputs: { x: { shape: [2, 0, 3] } } },
    { inputs: { x: { shape: [3, 4, 2], dtype: 'i32', low: -9, high: 9 } } },
  ],
  errors,
});

export const maxOp = defineOp({
  name: 'max',
  inputs: ['x'],
  shape: ({ x }) => reduced('max', x, x.dtype, true),
  reference: ([x], [out]) =>
    eachColumn(x!, (at, to, n, step) => {
      let top = x!.data[at]!;
      for (let k = 1; k < n; k++) top = Math.max(top, x!.data[at + k * step]!);
      out!.data[to] = top;
    }),
  gradient: {
    x: {
      saves: ['x', 'out0'],
      // Ties share the gradient evenly, as torch.amax does.
      rule: ({ grad, saved: { x, out0 } }) => {
        const [outer, , inner] = x!.shape as [number, number, number];
        const hit = x!.eq(out0!.reshape([outer, 1, inner])).cast('f32');
        const share = grad.div(hit.sum([1]));
        return hit.mul(share.reshape([outer, 1, inner]));
      },
    },
  },
  samples,
  errors,
});

export const argmaxOp = defineOp({
  name: 'argmax',
  inputs: ['x'],
  shape: ({ x }) => reduced('argmax', x, 'i32', true),
  reference: ([x], [out]) =>
    eachColumn(x!, (at, to, n, step) => {
      let best = 0;
      for (let k = 1; k < n; k++) {
        const [v, top] = [x!.data[at + k * step]!, x!.data[at + best * step]!];
        if (v > top || (Number.isNaN(v) && !Number.isNaN(top))) best = k;
      }
      out!.data[to] = best;
    }),
  samples,
  errors,
});

/** Sum of the squares of all elements, in f32 or better. */
export const sumSquaresOp = defineOp<'x'>({
  name: 'sumSquares',
  inputs: ['x'],
  shape: ({ x }) => ({ shape: [], dtype: x.dtype === 'f64' ? 'f64' : 'f32' }),
  compose: ({ x }) => {
    const wide = x.cast(x.dtype === 'f64' ? 'f64' : 'f32');
    return wide.mul(wide).sum();
  },
  samples: [{ inputs: { x: { shape: [3, 7] } } }, { inputs: { x: { shape: [37], dtype: 'bf16' } } }],
});

export interface ReduceOptions {
  /** Keeps reduced axes with size 1. Default false. */
  readonly keepDims?: boolean;
}

type Axes = number | readonly number[] | undefined;

/** Brings the axes together in the middle, calls the op, and gives the result its shape. */
function over(op: string, x: Tensor, axes: Axes, keepDims: boolean, apply: (x: Tensor) => Tensor): Tensor {
  const chosen =
    axes === undefined ? x.shape.map((_, i) => i) : [axes].flat().map((a) => normalizeAxis(op, a as number, x.rank));
  const picked = new Set(chosen);
  if (picked.size < chosen.length)
    throw new ShapeError(`${op}: axes must differ: got [${chosen.join(', ')}]. Name each axis once.`);
  const kept = x.shape.flatMap((_, i) => (picked.has(i) ? [] : [i]));
  const shape = x.shape.flatMap((n, i) => (picked.has(i) ? (keepDims ? [1] : []) : [n]));
  const sorted = [...picked].sort((a, b) => a - b);
  const adjacent = sorted.every((a, i) => i === 0 || a === sorted[i - 1]! + 1);
  const first = adjacent ? (sorted[0] ?? 0) : kept.length;
  const n = sizeOf(sorted.map((a) => x.shape[a]!));
  return scope(() => {
    const source = adjacent ? x : x.permute([...kept, ...sorted]);
    const outer = sizeOf(source.shape.slice(0, first));
    const inner = sizeOf(source.shape, first + sorted.length);
    return apply(source.reshape([outer, n, inner])).reshape(shape);
  });
}

/** Sum over axes (all by default, none for an empty list). Floats accumulate in f32 or better; f16 and bf16 give f32, integers i32. */
export const sum = (x: Tensor, axes?: Axes, { keepDims = false }: ReduceOptions = {}): Tensor =>
  over('sum', x, axes, keepDims, (t) => sumOp.apply({ x: t }, {})[0]!);

/** Sum of the squares of all elements (f32): a gradient's part of the global norm, in one pass. */
export const sumSquares = (x: Tensor): Tensor => sumSquaresOp.apply({ x }, {})[0]!;

/** Mean over axes (all by default): f32 for f16, bf16 and integers; NaN over no elements. */
export const mean = (x: Tensor, axes?: Axes, { keepDims = false }: ReduceOptions = {}): Tensor =>
  scope(() => {
    const total = sum(isFloat(x.dtype) ? x : x.cast('f32'), axes, { keepDims });
    return total.mul(total.size / x.size);
  });

/** Largest element over axes (torch.amax): NaN wins, ties share the gradient. */
export const max = (x: Tensor, axes?: Axes, { keepDims = false }: ReduceOptions = {}): Tensor =>
  over('max', x, axes, keepDims, (t) => maxOp.apply({ x: t }, {})[0]!);

/** Index (i32) of the first largest element along one axis, or in the flattened tensor; NaN counts as largest. */
export const argmax = (x: Tensor, axis?: number, { keepDims = false }: ReduceOptions = {}): Tensor =>
  over('argmax', x, axis, keepDims, (t) => argmaxOp.apply({ x: t.detach() }, {})[0]!);

const runningDType = (dtype: DType): DType => (isFloat(dtype) ? dtype : 'i32');

/** Running sum along the axis, from its end where `reverse`: log2(n) shifted additions, in f32 or better (i32 for integers). */
export const cumsumOp = defineOp<'x', { axis: number; reverse: boolean }>({
  name: 'cumsum',
  inputs: ['x'],
  shape: ({ x }) => ({ shape: x.shape, dtype: runningDType(x.dtype) }),
  compose: ({ x }, { axis, reverse }) => {
    const n = x.shape[axis]!;
    let total = x.cast(!isFloat(x.dtype) ? 'i32' : x.dtype === 'f64' ? 'f64' : 'f32');
    for (let step = 1; step < n; step *= 2) {
      const shifted = reverse
        ? total.slice(axis, step, n).pad(axis, 0, step)
        : total.slice(axis, 0, n - step).pad(axis, step, 0);
      total = total.add(shifted);
    }
    return total;
  },
  gradient: {
    // The gradient of a running sum is the running sum from the other end.
    x: {
      rule: ({ grad, attributes: { axis, reverse } }): Tensor =>
        cumsumOp.apply({ x: grad }, { axis, reverse: !reverse })[0]!,
    },
  },
  samples: [
    { inputs: { x: { shape: [3, 5] } }, attributes: { axis: 1, reverse: false } },
    { inputs: { x: { shape: [9, 2] } }, attributes: { axis: 0, reverse: true } },
  ],
});

/** Running sum along an axis (torch.cumsum); integers give i32. */
export const cumsum = (x: Tensor, axis = -1): Tensor =>
  cumsumOp.apply({ x }, { axis: normalizeAxis('cumsum', axis, x.rank), reverse: false })[0]!;
