/** The product with a frozen weight in 4 bits. */

import { isFloat, promote } from '../dtype.ts';
import { DTypeError, ShapeError } from '../errors.ts';
import { defineOp, type Op, type Sample, type Spec } from '../op.ts';
import { scope } from '../scope.ts';
import { sameShape, showShape } from '../shape.ts';
import type { Tensor } from '../tensor.ts';
import { gradA, gradB, type MatmulAttributes, matmul } from './matmul.ts';
import {
  checkWeight4bit,
  dequantize4bitOp,
  inputsOf,
  type Layout4bit,
  layoutOf,
  type Weight4bit,
  type WeightInput4bit,
  weightSample,
} from './quantize-4bit.ts';

export interface Matmul4bitAttributes extends Layout4bit {
  /** a @ W^T: a forward. Else a @ W: the gradient of its input. */
  readonly transposeB: boolean;
  readonly computeDtype: 'f32' | 'int8';
}

type Input = 'a' | WeightInput4bit | 'u' | 'v' | 'bias';

function checkSecondPair(u: Spec, v: Spec, transposeB: boolean, result: readonly number[]): void {
  const [r, n] = transposeB ? [v.shape[1], v.shape[0]] : v.shape;
  if (u.shape.length !== 2 || v.shape.length !== 2 || u.shape[1] !== r || u.shape[0] !== result[0] || n !== result[1])
    throw new ShapeError(
      `matmul4bit: u @ v${transposeB ? ' transposed' : ''} must have the shape of the product, ${showShape(result)}: got u ${showShape(u.shape)}, v ${showShape(v.shape)}. Check both sizes.`,
    );
}

const flagsOf = ({ transposeB }: Matmul4bitAttributes): MatmulAttributes => ({ transposeA: false, transposeB });

/** See matmul4bit; a [m, in] or [m, out] here. */
export const matmul4bitOp: Op<Input, Matmul4bitAttributes> = defineOp<Input, Matmul4bitAttributes>({
  name: 'matmul4bit',
  inputs: ['a', 'packed', 'absmax', 'nestedAbsmax', 'nestedCode', 'u', 'v', 'bias'],
  optional: ['nestedAbsmax', 'nestedCode', 'u', 'v', 'bias'],
  columnBlocks: ['a', 'u'],
  shape: ({ a, u, v, bias, ...weight }, attributes) => {
    checkWeight4bit('matmul4bit', weight, attributes);
    const { shape, dtype, transposeB, computeDtype } = attributes;
    const [n, k] = transposeB ? shape : [shape[1], shape[0]];
    if (a.shape.length !== 2 || a.shape[1] !== k)
      throw new ShapeError(
        `matmul4bit: a must be [m, ${k}] for a ${showShape(shape)} weight${transposeB ? '' : ' that is not transposed'}: got ${showShape(a.shape)}. Check transposeB.`,
      );
    if (computeDtype !== 'f32' && computeDtype !== 'int8')
      throw new DTypeError(`matmul4bit: computeDtype must be f32 or int8: got ${String(computeDtype)}. Choose one.`);
    if (!u !== !v) throw new TypeError('matmul4bit: the second pair needs both u and v: got one. Pass add: [u, v].');
    const result = [a.shape[0]!, n];
    if (u && v) checkSecondPair(u, v, transposeB, result);
    if (bias && !sameShape(bias.shape, [n]))
      throw new ShapeError(`matmul4bit: bias must be [${n}]: got ${showShape(bias.shape)}. One number a column.`);
    const dtypes = [a, ...(u && v ? [u, v] : [])].map((spec) => spec.dtype);
    if (!dtypes.every(isFloat) || (bias && !isFloat(bias.dtype)))
      throw new DTypeError(`matmul4bit: operands must be floats: got ${dtypes.join(', ')}. Use cast('f32').`);
    return { shape: result, dtype: dtypes.reduce(promote, dtype) };
  },
  compose: (
    { a, packed, absmax, nestedAbsmax, nestedCode, u, v, bias },
    { transposeB, computeDtype: _, ...layout },
  ) => {
    const weight = { packed, absmax, nestedAbsmax, nestedCode };
    const dense = dequantize4bitOp.apply(weight, { ...layout, rows: [0, layout.shape[0]] })[0]!;
    return matmul(a, dense, { transposeB, ...(u && v ? { add: [u, v] } : {}), ...(bias ? { bias } : {}) });
  },
  gradient: {
    a: {
      saves: ['packed', 'absmax', 'nestedAbsmax', 'nestedCode'],
      rule: ({ grad, saved, attributes }) => {
        const { packed, absmax, nestedAbsmax, nestedCode } = saved;
        const turned = { ...attributes, transposeB: !attributes.transposeB };
        return matmul4bitOp.apply({ a: grad, packed, absmax, nestedAbsmax, nestedCode }, turned)[0]!;
      },
    },
    u: { saves: ['v'], rule: ({ grad, saved, attributes }) => gradA(grad, saved.v!, flagsOf(attributes)) },
    v: { saves: ['u'], rule: ({ grad, saved, attributes }) => gradB(grad, saved.u!, flagsOf(attributes)) },
    bias: { rule: ({ grad }) => grad },
  },
  samples: [
    sample({ shape: [9, 64] }, 5, true),
    sample({ shape: [9, 64] }, 5, false),
    sample({ shape: [40, 96], dtype: 'bf16' }, 7, true, { isNested: true, rank: 3 }),
    sample({ shape: [40, 96], dtype: 'bf16' }, 7, false, { isNested: true, rank: 3 }),
    sample({ shape: [33, 128], dtype: 'f16', quantType: 'fp4', blocksize: 128 }, 1, true),
    sample({ shape: [20, 256], blocksize: 32, nestedBlocksize: 4 }, 3, true, { isNested: true }),
    sample({ shape: [7, 19], blocksize: 32 }, 6, true, { rank: 2 }),
    sample({ shape: [7, 19], blocksize: 32, dtype: 'bf16' }, 6, false),
    sample({ shape: [5, 64] }, 0, true),
    sample({ shape: [12, 64], dtype: 'bf16' }, 4, true, { dtype: 'bf16' }),
    exactInt8Sample(),
  ],
  errors: [
    {
      ...sample({ shape: [9, 64] }, 5, true),
      inputs: { ...sample({ shape: [9, 64] }, 5, true).inputs, a: { shape: [5, 9] } },
      message: 'a must be [m, 64] for a [9, 64] weight',
    },
    {
      ...sample({ shape: [9, 64] }, 5, true),
      inputs: { ...sample({ shape: [9, 64] }, 5, true).inputs, packed: { shape: [200, 1], dtype: 'u8' } },
      message: 'packed of a [9, 64] weight in blocks of 64 must be 288 elements of u8',
    },
    {
      ...sample({ shape: [9, 64] }, 5, true),
      inputs: { ...sample({ shape: [9, 64] }, 5, true).inputs, u: { shape: [5, 2] }, v: { shape: [2, 9] } },
      message: 'u @ v transposed must have the shape of the product, [5, 9]',
    },
    {
      ...sample({ shape: [9, 64] }, 5, true),
      inputs: { ...sample({ shape: [9, 64] }, 5, true).inputs, bias: { shape: [64] } },
      message: 'bias must be [9]',
    },
  ],
});

/** Whole numbers up to 127 in a, and the codes -1, 0 and 1: what bytes hold without loss. */
function exactInt8Sample(): Sample<Matmul4bitAttributes> {
  const [rows, k, m] = [5, 64, 2];
  const { inputs, attributes } = sample({ shape: [rows, k] }, m, true);
  const packed = Array.from({ length: (rows * k) / 2 }, (_, i) => [0xf7, 0x0f, 0x70, 0x77][(i * 7) % 4]!);
  const a = Array.from({ length: m * k }, (_, i) => (i % 32 === 3 ? 127 : ((i * 29) % 255) - 127));
  return {
    inputs: {
      ...inputs,
      a: { shape: [m, k], values: a },
      packed: { ...inputs.packed!, values: packed },
      absmax: { ...inputs.absmax!, values: Array.from({ length: rows }, (_, i) => 1 + i / 4) },
    },
    attributes: { ...attributes, computeDtype: 'int8' as const },
  };
}

interface SampleParts {
  readonly isNested?: boolean;
  /** Of the second pair, which a bias joins. */
  readonly rank?: number;
  readonly dtype?: 'bf16';
}

function sample(
  layout: Parameters<typeof weightSample>[0],
  m: number,
  transposeB: boolean,
  { isNested = false, rank = 0, dtype }: SampleParts = {},
): Sample<Matmul4bitAttributes> & { readonly attributes: Matmul4bitAttributes } {
  const { inputs, attributes } = weightSample(layout, isNested);
  const [n, k] = transposeB ? layout.shape : [layout.shape[1], layout.shape[0]];
  return {
    inputs: {
      a: { shape: [m, k], ...(dtype && { dtype }) },
      ...inputs,
      ...(rank > 0 && {
        u: { shape: [m, rank] },
        v: { shape: transposeB ? [n, rank] : [rank, n] },
        bias: { shape: [n] },
      }),
    },
    attributes: { ...attributes, transposeB, computeDtype: 'f32' as const },
  };
}

export interface Matmul4bitOptions {
  /** Default true: W is [out, in] and a holds rows of in. */
  readonly transposeB?: boolean;
  /** A second product summed into the same tile, with the same transpose flag: LoRA's `u @ v^T`, u [..., r], v [out, r]. */
  readonly add?: readonly [u: Tensor, v: Tensor];
  /** [out] (or [in] where not transposed), added to every row. */
  readonly bias?: Tensor;
  /**
   * 'int8' lets a backend round a to 8 bits in blocks and multiply integers, for speed at a loss that the backend's README
   * tells; a backend without such a kernel computes in f32. Default f32.
   */
  readonly computeDtype?: 'f32' | 'int8';
}

/**
 * a [..., in] @ W^T -> [..., out], or with `transposeB: false` a [..., out] @ W -> [..., in] (+ u @ v) (+ bias), W straight
 * from 4 bits; as `matmul(a, dequantize4bit(w))` but for the order of sums. Gradients go to a, u, v and bias; W is frozen.
 */
export function matmul4bit(a: Tensor, w: Weight4bit, options: Matmul4bitOptions = {}): Tensor {
  const { transposeB = true, add, bias, computeDtype = 'f32' } = options;
  const attributes = { ...layoutOf(w), transposeB, computeDtype };
  const flat = (t: Tensor): Tensor => (t.rank === 2 ? t : t.reshape([-1, t.shape.at(-1)!]));
  const product = (x: Tensor, u: Tensor | null): Tensor =>
    matmul4bitOp.apply({ a: x, ...inputsOf(w), u, v: add?.[1] ?? null, bias: bias ?? null }, attributes)[0]!;
  if (a.rank === 2) return product(a, add?.[0] ?? null);
  if (a.rank < 2)
    throw new ShapeError(`matmul4bit: a must have at least two axes: got ${showShape(a.shape)}. Use reshape.`);
  return scope(() => {
    const y = product(flat(a), add ? flat(add[0]) : null);
    return y.reshape([...a.shape.slice(0, -1), y.shape[1]!]);
  });
}
