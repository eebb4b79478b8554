/** Ops that read or add at given places: indexSelect, indexAdd, gather, scatterAdd, embedding, topk. */

import { noGrad } from '../autograd.ts';
import type { Attributes, Dense } from '../backend.ts';
import { tensor, zeros } from '../creation.ts';
import { isFloat } from '../dtype.ts';
import { DTypeError, ShapeError } from '../errors.ts';
import { defineOp, type Spec } from '../op.ts';
import { scope, untracked } from '../scope.ts';
import { normalizeAxis, sameShape, showShape, sizeOf } from '../shape.ts';
import type { Tensor } from '../tensor.ts';
import { concat, slice } from './layout.ts';

/** `n` is the size of the indexed axis in the larger tensor. */
interface Rows {
  readonly n: number;
}

const needIndices = (op: string, indices: Spec): void => {
  if (indices.dtype !== 'i32')
    throw new DTypeError(`${op}: indices must be i32: got ${indices.dtype}. Use cast('i32').`);
};
const floatOut = (dtype: Spec['dtype']): Spec['dtype'] => (dtype === 'f64' ? 'f64' : 'f32');

function place(op: string, index: number, n: number): number {
  if (!(index >= 0 && index < n)) throw new RangeError(`${op}: indices must be in 0 .. ${n - 1}: got ${index}.`);
  return index;
}

const three = (op: string, x: Spec): [number, number, number] => {
  if (x.shape.length !== 3)
    throw new ShapeError(
      `${op}: the op takes [outer, n, inner]: got ${showShape(x.shape)}. Call the function ${op}() instead of the op.`,
    );
  return x.shape as [number, number, number];
};

/** out[o, j, i] = x[o, indices[j], i]. */
export const indexSelectOp = defineOp<'x' | 'indices', Attributes>({
  name: 'indexSelect',
  inputs: ['x', 'indices'],
  shape: ({ x, indices }) => {
    needIndices('indexSelect', indices);
    const [outer, , inner] = three('indexSelect', x);
    return { shape: [outer, sizeOf(indices.shape), inner], dtype: x.dtype };
  },
  reference: ([x, indices], [out]) => {
    const [outer, n, inner] = x!.shape as [number, number, number];
    const m = indices!.data.length;
    for (let o = 0; o < outer; o++)
      for (let j = 0; j < m; j++) {
        const from = (o * n + place('indexSelect', indices!.data[j]!, n)) * inner;
        out!.data.set(x!.data.subarray(from, from + inner), (o * m + j) * inner);
      }
  },
  gradient: {
    x: {
      saves: ['indices'],
      rule: ({ grad, saved, inputs }): Tensor =>
        indexAddOp.apply({ source: grad, indices: saved.indices! }, { n: inputs.x!.shape[1]! })[0]!,
    },
  },
  samples: [
    { inputs: { x: { shape: [1, 7, 5] }, indices: { shape: [4], dtype: 'i32', low: 0, high: 7 } } },
    { inputs: { x: { shape: [2, 3, 2] }, indices: { shape: [6], dtype: 'i32', low: 0, high: 3 } } },
    { inputs: { x: { shape: [1, 9, 6], dtype: 'bf16' }, indices: { shape: [5], dtype: 'i32', low: 0, high: 9 } } },
  ],
  errors: [{ inputs: { x: { shape: [1, 2, 3] }, indices: { shape: [2] } }, message: 'must be i32' }],
});

/** out[o, indices[j], i] += source[o, j, i], from zeros, in order of j: the same bits every time. */
export const indexAddOp = defineOp<'source' | 'indices', Rows>({
  name: 'indexAdd',
  inputs: ['source', 'indices'],
  shape: ({ source, indices }, { n }) => {
    needIndices('indexAdd', indices);
    const [outer, m, inner] = three('indexAdd', source);
    if (m !== sizeOf(indices.shape))
      throw new ShapeError(
        `indexAdd: source needs one row an index: got ${m} rows and ${sizeOf(indices.shape)} indices.`,
      );
    return { shape: [outer, n, inner], dtype: floatOut(source.dtype) };
  },
  reference: ([source, indices], [out]) => {
    const [outer, m, inner] = source!.shape as [number, number, number];
    const n = out!.shape[1]!;
    for (let o = 0; o < outer; o++)
      for (let j = 0; j < m; j++)
        for (let i = 0; i < inner; i++)
          out!.data[(o * n + place('indexAdd', indices!.data[j]!, n)) * inner + i]! +=
            source!.data[(o * m + j) * inner + i]!;
  },
  gradient: {
    source: {
      saves: ['indices'],
      rule: ({ grad, saved }): Tensor => indexSelectOp.apply({ x: grad, indices: saved.indices! }, {})[0]!,
    },
  },
  samples: [
    {
      inputs: { source: { shape: [2, 6, 3] }, indices: { shape: [6], dtype: 'i32', low: 0, high: 4 } },
      attributes: { n: 4 },
    },
  ],
  errors: [
    {
      inputs: { source: { shape: [1, 2, 3] }, indices: { shape: [3], dtype: 'i32' } },
      attributes: { n: 4 },
      message: 'one row an index',
    },
  ],
});

function eachPicked(op: string, indices: Dense, n: number, visit: (small: number, large: number) => void): void {
  const [outer, m, inner] = indices.shape as [number, number, number];
  for (let o = 0; o < outer; o++)
    for (let j = 0; j < m; j++)
      for (let i = 0; i < inner; i++) {
        const at = (o * m + j) * inner + i;
        visit(at, (o * n + place(op, indices.data[at]!, n)) * inner + i);
      }
}

/** out[o, j, i] = x[o, indices[o, j, i], i] (torch.gather). */
export const gatherOp = defineOp<'x' | 'indices', Attributes>({
  name: 'gather',
  inputs: ['x', 'indices'],
  shape: ({ x, indices }) => {
    needIndices('gather', indices);
    const [a, b] = [three('gather', x), three('gather', indices)];
    if (a[0] !== b[0] || a[2] !== b[2])
      throw new ShapeError(
        `gather: x and indices must agree outside the axis: got ${showShape(x.shape)} and ${showShape(indices.shape)}.`,
      );
    return { shape: b, dtype: x.dtype };
  },
  reference: ([x, indices], [out]) =>
    eachPicked('gather', indices!, x!.shape[1]!, (small, large) => {
      out!.data[small] = x!.data[large]!;
    }),
  gradient: {
    x: {
      saves: ['indices'],
      rule: ({ grad, saved, inputs }): Tensor =>
        scatterAddOp.apply({ source: grad, indices: saved.indices! }, { n: inputs.x!.shape[1]! })[0]!,
    },
  },
  samples: [{ inputs: { x: { shape: [2, 5, 3] }, indices: { shape: [2, 4, 3], dtype: 'i32', low: 0, high: 5 } } }],
  errors: [
    { inputs: { x: { shape: [2, 5, 3] }, indices: { shape: [1, 4, 3], dtype: 'i32' } }, message: 'agree outside' },
  ],
});

/** out[o, indices[o, j, i], i] += source[o, j, i], from zeros, in order of j. */
export const scatterAddOp = defineOp<'source' | 'indices', Rows>({
  name: 'scatterAdd',
  inputs: ['source', 'indices'],
  shape: ({ source, indices }, { n }) => {
    needIndices('scatterAdd', indices);
    const [outer, , inner] = three('scatterAdd', source);
    if (!sameShape(source.shape, indices.shape))
      throw new ShapeError(
        `scatterAdd: source and indices must have one shape: got ${showShape(source.shape)} and ${showShape(indices.shape)}.`,
      );
    return { shape: [outer, n, inner], dtype: floatOut(source.dtype) };
  },
  reference: ([source, indices], [out]) =>
    eachPicked('scatterAdd', indices!, out!.shape[1]!, (small, large) => {
      out!.data[large]! += source!.data[small]!;
    }),
  gradient: {
    source: {
      saves: ['indices'],
      rule: ({ grad, saved }): Tensor => gatherOp.apply({ x: grad, indices: saved.indices! }, {})[0]!,
    },
  },
  samples: [
    {
      inputs: { source: { shape: [2, 4, 3] }, indices: { shape: [2, 4, 3], dtype: 'i32', low: 0, high: 5 } },
      attributes: { n: 5 },
    },
  ],
  errors: [
    {
      inputs: { source: { shape: [2, 4, 3] }, indices: { shape: [2, 4, 1], dtype: 'i32' } },
      attributes: { n: 5 },
      message: 'one shape',
    },
  ],
});

/** [outer, n, inner] around one axis. */
const folded = (x: Tensor, axis: number): Tensor =>
  x.reshape([sizeOf(x.shape.slice(0, axis)), x.shape[axis]!, sizeOf(x.shape.slice(axis + 1))]);

/** Slices of x along an axis at i32 indices of any shape (torch.index_select; the index shape replaces the axis). Indices are the caller's to keep in range. */
export function indexSelect(x: Tensor, indices: Tensor, axis = 0): Tensor {
  const a = normalizeAxis('indexSelect', axis, x.rank);
  return scope(() => {
    const picked = indexSelectOp.apply({ x: folded(x, a), indices }, {})[0]!;
    return picked.reshape([...x.shape.slice(0, a), ...indices.shape, ...x.shape.slice(a + 1)]);
  });
}

/** torch.gather: out[.., j, ..] = x[.., indices[.., j, ..], ..] along the axis. */
export function gather(x: Tensor, indices: Tensor, axis: number): Tensor {
  const a = normalizeAxis('gather', axis, x.rank);
  sameOutside('gather', x, indices, a);
  return scope(() => gatherOp.apply({ x: folded(x, a), indices: folded(indices, a) }, {})[0]!.reshape(indices.shape));
}

/** Folding would hide that shapes differ, such as [2, 3] and [3, 2] beside the axis. */
function sameOutside(op: string, x: Tensor, indices: Tensor, axis: number): void {
  if (!sameShape(x.shape.toSpliced(axis, 1), indices.shape.toSpliced(axis, 1)))
    throw new ShapeError(
      `${op}: indices must have the tensor's shape but for axis ${axis}: got ${showShape(indices.shape)} for ${showShape(x.shape)}. Use slice() or expand().`,
    );
}

/** torch.scatter_add: a copy of x with source added at indices along the axis. */
export function scatterAdd(x: Tensor, indices: Tensor, source: Tensor, axis: number): Tensor {
  const a = normalizeAxis('scatterAdd', axis, x.rank);
  sameOutside('scatterAdd', x, indices, a);
  if (!sameShape(source.shape, indices.shape))
    throw new ShapeError(
      `scatterAdd: source and indices must have one shape: got ${showShape(source.shape)} and ${showShape(indices.shape)}. Use slice() or expand().`,
    );
  return scope(() => {
    const places = { source: folded(source, a), indices: folded(indices, a) };
    return x.add(scatterAddOp.apply(places, { n: x.shape[a]! })[0]!.reshape(x.shape));
  });
}

/** Rows of a table [v, d] at token ids: [..ids, d]. Ids given as numbers are checked against v here. */
export function embedding(ids: Tensor | Int32Array | readonly number[], table: Tensor): Tensor {
  if ('storage' in ids) return indexSelect(table, ids, 0);
  for (const id of ids)
    if (!(Number.isInteger(id) && id >= 0 && id < table.shape[0]!))
      throw new RangeError(
        `embedding: ids must be in 0 .. ${table.shape[0]! - 1}: got ${id}. Do tokenizer and model belong together?`,
      );
  using places = untracked(() => tensor(ids, { backend: table.backend, dtype: 'i32' }));
  return indexSelect(table, places, 0);
}

/** The k largest along the last axis, largest first, NaN before all: values and i32 indices; equal values keep their order. */
export function topk(x: Tensor, k: number): { values: Tensor; indices: Tensor } {
  const n = x.shape[normalizeAxis('topk', -1, x.rank)]!;
  if (!(Number.isInteger(k) && k >= 0 && k <= n))
    throw new RangeError(`topk: k must be an integer in 0 .. ${n}: got ${k}.`);
  if (k === 0) {
    // A part of x rather than new zeros: gradients of 0 still reach it.
    const values = slice(x, -1, 0, 0);
    return { values, indices: zeros(values.shape, { backend: x.backend, dtype: 'i32' }) };
  }
  const indices = noGrad(() => scope(() => largestPlaces(x, k)));
  return { values: gather(x, indices, -1), indices };
}

/** A round finds the largest that is left and takes its place out. */
function largestPlaces(x: Tensor, k: number): Tensor {
  const n = x.shape.at(-1)!;
  const places = tensor(
    Int32Array.from({ length: n }, (_, i) => i),
    { backend: x.backend, dtype: 'i32' },
  );
  // Taken places lie strictly below the rest, -infinity included; finite, because WGSL may assume that infinities do not occur.
  const [taken, least] = isFloat(x.dtype) ? [-3.4028234663852886e38, -3.4e38] : [-(2 ** 31), 1 - 2 ** 31];
  let left = x.cast(isFloat(x.dtype) ? floatOut(x.dtype) : 'i32').maximum(least!);
  const picked: Tensor[] = [];
  for (let i = 0; i < k; i++) {
    const best = left.argmax(-1, { keepDims: true });
    picked.push(best);
    if (i + 1 < k) left = places.eq(best).where(taken!, left);
  }
  return concat(picked, -1);
}
