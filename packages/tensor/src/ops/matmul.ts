import { type DType, isFloat, promote } from '../dtype.ts';
import { DTypeError, ShapeError } from '../errors.ts';
import { defineOp, type Spec } from '../op.ts';
import { broadcastShapes, broadcastStrides, type Shape, sameShape, showShape, sizeOf } from '../shape.ts';
import type { Tensor } from '../tensor.ts';

export interface MatmulAttributes {
  /** a is [..., k, m] instead of [..., m, k]. */
  readonly transposeA: boolean;
  /** b is [..., n, k] instead of [..., k, n]: the layout of a Linear's weight. */
  readonly transposeB: boolean;
}

const last2 = (shape: Shape, transposed: boolean): [number, number] => {
  const [r, c] = [shape[shape.length - 2]!, shape[shape.length - 1]!];
  return transposed ? [c, r] : [r, c];
};

function product(what: string, a: Spec, b: Spec, { transposeA, transposeB }: MatmulAttributes): Shape {
  const show = (): string =>
    `${what}: a ${showShape(a.shape)}${transposeA ? ' transposed' : ''}, b ${showShape(b.shape)}${transposeB ? ' transposed' : ''}`;
  if (a.shape.length < 2 || b.shape.length < 2)
    throw new ShapeError(`${show()}: both need at least two axes. Use reshape.`);
  const [m, k] = last2(a.shape, transposeA);
  const [k2, n] = last2(b.shape, transposeB);
  if (k !== k2)
    throw new ShapeError(`${show()}: inner sizes must be equal: got ${k} and ${k2}. Check transposeA and transposeB.`);
  if (a.shape.length === 2 && b.shape.length === 2) return [m, n];
  return [...broadcastShapes('matmul', a.shape.slice(0, -2), b.shape.slice(0, -2)), m, n];
}

function accumulateProduct(
  a: { shape: Shape; data: Float64Array },
  b: typeof a,
  out: typeof a,
  { transposeA, transposeB }: MatmulAttributes,
): void {
  const [m, k] = last2(a.shape, transposeA);
  const n = out.shape.at(-1)!;
  const batch = out.shape.slice(0, -2);
  const [sa, sb] = [broadcastStrides(a.shape.slice(0, -2), batch), broadcastStrides(b.shape.slice(0, -2), batch)];
  for (let i = 0; i < sizeOf(batch); i++) {
    let [rest, ia, ib] = [i, 0, 0];
    for (let axis = batch.length - 1; axis >= 0; axis--) {
      const index = rest % batch[axis]!;
      rest = Math.floor(rest / batch[axis]!);
      ia += index * sa[axis]!;
      ib += index * sb[axis]!;
    }
    for (let r = 0; r < m; r++)
      for (let c = 0; c < n; c++) {
        let total = 0;
        for (let p = 0; p < k; p++)
          total +=
            a.data[ia * m * k + (transposeA ? p * m + r : r * k + p)]! *
            b.data[ib * k * n + (transposeB ? c * k + p : p * n + c)]!;
        out.data[(i * m + r) * n + c]! += total;
      }
  }
}

const flags = { transposeA: false, transposeB: false };
const m = (a: Shape, b: Shape, attributes = flags) => ({ inputs: { a: { shape: a }, b: { shape: b } }, attributes });

/**
 * a @ b (+ u @ v) (+ bias), one pass over the output. Batch axes broadcast; the second pair and the bias are for
 * two-dimensional a and b. f16 and bf16 operands are widened; the result has the promoted dtype.
 */
export const matmulOp = defineOp<'a' | 'b' | 'u' | 'v' | 'bias', MatmulAttributes>({
  name: 'matmul',
  inputs: ['a', 'b', 'u', 'v', 'bias'],
  optional: ['u', 'v', 'bias'],
  columnBlocks: ['a', 'b', 'u'],
  shape: ({ a, b, u, v, bias }, attributes) => {
    const shape = product('matmul', a, b, attributes);
    const dtypes: DType[] = [a.dtype, b.dtype];
    if (!u !== !v) throw new TypeError('matmul: the second pair needs both u and v: got one. Pass add: [u, v].');
    if (u && v) {
      const second = product('matmul: second pair', u, v, attributes);
      if (!sameShape(second, shape) || shape.length !== 2)
        throw new ShapeError(
          `matmul: u @ v must have the two-dimensional shape of a @ b: got ${showShape(second)} and ${showShape(shape)}.`,
        );
      dtypes.push(u.dtype, v.dtype);
    }
    if (bias && !sameShape(bias.shape, shape.slice(-1)))
      throw new ShapeError(
        `matmul: bias must be ${showShape(shape.slice(-1))}: got ${showShape(bias.shape)}. One number a column.`,
      );
    if (!dtypes.every(isFloat))
      throw new DTypeError(`matmul: operands must be floats: got ${dtypes.join(', ')}. Use cast('f32').`);
    return { shape, dtype: dtypes.reduce(promote) };
  },
  reference: ([a, b, u, v, bias], [out], attributes) => {
    accumulateProduct(a!, b!, out!, attributes as unknown as MatmulAttributes);
    if (u && v) accumulateProduct(u, v, out!, attributes as unknown as MatmulAttributes);
    const n = out!.shape.at(-1)!;
    if (bias) for (let i = 0; i < out!.data.length; i++) out!.data[i]! += bias.data[i % n]!;
  },
  gradient: {
    a: { saves: ['b'], rule: ({ grad, saved, attributes }) => gradA(grad, saved.b!, attributes) },
    b: { saves: ['a'], rule: ({ grad, saved, attributes }) => gradB(grad, saved.a!, attributes) },
    u: { saves: ['v'], rule: ({ grad, saved, attributes }) => gradA(grad, saved.v!, attributes) },
    v: { saves: ['u'], rule: ({ grad, saved, attributes }) => gradB(grad, saved.u!, attributes) },
    bias: { rule: ({ grad }) => grad },
  },
  samples: [
    m([3, 4], [4, 5]),
    m([7, 13], [9, 13], { transposeA: false, transposeB: true }),
    m([13, 7], [13, 9], { transposeA: true, transposeB: false }),
    m([6, 3], [5, 6], { transposeA: true, transposeB: true }),
    m([2, 1, 3, 4], [5, 4, 2]),
    m([4, 3, 8], [4, 6, 8], { transposeA: false, transposeB: true }),
    m([1, 17], [17, 1]),
    m([0, 3], [3, 2]),
    m([2, 0], [0, 3]),
    {
      inputs: { a: { shape: [5, 8] }, b: { shape: [6, 8], dtype: 'bf16' } },
      attributes: { transposeA: false, transposeB: true },
    },
    {
      inputs: {
        a: { shape: [5, 8] },
        b: { shape: [6, 8] },
        u: { shape: [5, 3] },
        v: { shape: [6, 3] },
        bias: { shape: [6] },
      },
      attributes: { transposeA: false, transposeB: true },
    },
  ],
  errors: [
    { ...m([2, 3], [2, 3]), message: 'inner sizes must be equal' },
    { ...m([3], [3, 2]), message: 'at least two axes' },
    {
      inputs: { a: { shape: [2, 3], dtype: 'i32' }, b: { shape: [3, 2] } },
      attributes: flags,
      message: 'must be floats',
    },
  ],
});

const call = (a: Tensor, b: Tensor, transposeA: boolean, transposeB: boolean): Tensor =>
  matmulOp.apply({ a, b }, { transposeA, transposeB })[0]!;

/** The gradient of a product's left operand; for ops that hold a product. */
export const gradA = (grad: Tensor, b: Tensor, { transposeA, transposeB }: MatmulAttributes): Tensor =>
  transposeA ? call(b, grad, transposeB, true) : call(grad, b, false, !transposeB);

/** The gradient of a product's right operand. */
export const gradB = (grad: Tensor, a: Tensor, { transposeA, transposeB }: MatmulAttributes): Tensor =>
  transposeB ? call(grad, a, true, transposeA) : call(a, grad, !transposeA, false);

export interface MatmulOptions {
  readonly transposeA?: boolean;
  readonly transposeB?: boolean;
  /** A second product summed into the same tile: LoRA's `u @ v`, with the same transpose flags. */
  readonly add?: readonly [u: Tensor, v: Tensor];
  /** [n], added to every row. */
  readonly bias?: Tensor;
}

/** Matrix product of the last two axes: [..., m, k] @ [..., k, n] -> [..., m, n]; see MatmulOptions for transposes. */
export function matmul(
  a: Tensor,
  b: Tensor,
  { transposeA = false, transposeB = false, add, bias }: MatmulOptions = {},
): Tensor {
  return matmulOp.apply(
    { a, b, u: add?.[0] ?? null, v: add?.[1] ?? null, bias: bias ?? null },
    { transposeA, transposeB },
  )[0]!;
}
