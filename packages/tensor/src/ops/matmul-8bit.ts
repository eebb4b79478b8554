/** LLM.int8 (Dettmers et al. 2022): products in 8-bit integers, columns with outliers apart in full precision. */
import { type DType, isFloat } from '../dtype.ts';
import { DTypeError, ShapeError } from '../errors.ts';
import { defineOp, type Spec } from '../op.ts';
import { scope } from '../scope.ts';
import { type Shape, sameShape, showShape } from '../shape.ts';
import type { Tensor } from '../tensor.ts';
import { div } from './elementwise.ts';
import { matmul } from './matmul.ts';

type None = Readonly<Record<never, never>>;

/** f32 holds whole numbers only from here on, so adding and taking off this number rounds halves to even. */
const rounder = 1.5 * 2 ** 23;

/** See quantizeRowwise. */
export const quantizeRowwiseOp = defineOp<'x', None>({
  name: 'quantizeRowwise',
  inputs: ['x'],
  shape: ({ x }) => {
    if (!isFloat(x.dtype)) throw new DTypeError(`quantizeRowwise: x must be a float: got ${x.dtype}. Use cast('f32').`);
    if (x.shape.length !== 2)
      throw new ShapeError(`quantizeRowwise: x must have two axes: got ${showShape(x.shape)}. Use reshape().`);
    return [
      { shape: x.shape, dtype: 'i8' },
      { shape: [x.shape[0]!], dtype: 'f32' },
    ];
  },
  compose: ({ x }) => {
    const rows = x.cast('f32');
    const absmax = rows.abs().max(1, { keepDims: true });
    const scale = absmax.gt(0).where(div.apply([1, absmax]).mul(127), 0);
    // The reciprocal of a scale below f32's normal numbers is infinite.
    const rounded = rows.mul(scale).minimum(127).maximum(-127).add(rounder).sub(rounder);
    return [rounded.eq(rounded).where(rounded, 0).cast('i8'), absmax.reshape([x.shape[0]!])];
  },
  gradient: {},
  samples: [
    { inputs: { x: { shape: [3, 40], differentiable: false } } },
    { inputs: { x: { shape: [5, 7], dtype: 'f16', differentiable: false } } },
    { inputs: { x: { shape: [1, 1], differentiable: false } } },
    { inputs: { x: { shape: [2, 3], values: [0, 0, 0, 127, 0.5, 1.5], differentiable: false } } },
  ],
  errors: [
    { inputs: { x: { shape: [4] } }, message: 'x must have two axes' },
    { inputs: { x: { shape: [2, 4], dtype: 'i32' } }, message: 'x must be a float' },
  ],
});

/**
 * x [m, k] in signed 8-bit integers: round(x * (1 / absmax * 127)), halves to even, by rows; absmax is f32 [m]. A row of zeros
 * stays zeros. No gradient. Source: bitsandbytes 0.50 `int8_vectorwise_quant` without threshold.
 */
export function quantizeRowwise(x: Tensor): { quantized: Tensor; absmax: Tensor } {
  const [quantized, absmax] = quantizeRowwiseOp.apply({ x }, {});
  return { quantized: quantized!, absmax: absmax! };
}

/** A weight in LLM.int8. */
export interface Weight8bit {
  /** i8 [out, in]. */
  readonly quantized: Tensor;
  /** f32 [out]: the largest magnitude of each row, which bitsandbytes calls SCB. */
  readonly absmax: Tensor;
  /** What it was quantized from, and what dequantizeRowwise gives. */
  readonly dtype: DType;
}

/** 1 / 127 and 1 / 127^2 as bitsandbytes writes them; the second is 2e-5 of itself too large there. */
const [unit, unitSquared] = [Math.fround(7.874015718698502e-3), Math.fround(6.200124e-5)];

interface Matmul8bitAttributes {
  readonly threshold: number;
}

/** Elements of W that the gradient dequantizes at a time. */
const panelElements = 4 * 1024 * 1024;

/** See matmul8bit. */
export const matmul8bitOp = defineOp<'a' | 'quantized' | 'absmax' | 'bias', Matmul8bitAttributes>({
  name: 'matmul8bit',
  inputs: ['a', 'quantized', 'absmax', 'bias'],
  optional: ['bias'],
  shape: ({ a, quantized, absmax, bias }, { threshold }) => {
    checkWeight('matmul8bit', { quantized, absmax });
    const [n, k] = quantized.shape as [number, number];
    if (!isFloat(a.dtype)) throw new DTypeError(`matmul8bit: a must be a float: got ${a.dtype}. Use cast('f32').`);
    if (a.shape.length !== 2 || a.shape[1] !== k)
      throw new ShapeError(
        `matmul8bit: a must be [m, ${k}], the weight being ${showShape([n, k])}: got ${showShape(a.shape)}.`,
      );
    if (bias && !sameShape(bias.shape, [n]))
      throw new ShapeError(`matmul8bit: bias must be [${n}]: got ${showShape(bias.shape)}. One number a column.`);
    if (!(threshold >= 0))
      throw new RangeError(
        `matmul8bit: threshold must be at least 0: got ${threshold}. 0 means no outliers; bitsandbytes takes 6.`,
      );
    return { shape: [a.shape[0]!, n], dtype: a.dtype };
  },
  compose: ({ a, quantized, absmax, bias }, { threshold }) => {
    const half = a.cast('f16').cast('f32');
    const outlier = threshold > 0 && a.size > 0 ? half.abs().ge(threshold) : null;
    const rows = quantizeRowwise(outlier ? outlier.where(0, half) : half);
    const column = outlier?.cast('f32').max(0);
    const integers = rows.quantized.cast('f32');
    const sums = matmul(column ? column.where(0, integers) : integers, quantized.cast('f32'), { transposeB: true });
    const scales = rows.absmax.reshape([a.shape[0]!, 1]).mul(absmax.cast('f32'));
    const scaled = sums.mul(scales).mul(unitSquared);
    const main = (bias ? scaled.add(bias) : scaled).cast(a.dtype);
    if (!column) return main;
    return main.add(matmul(column.where(a, 0), dequantized(quantized, absmax, a.dtype), { transposeB: true }));
  },
  gradient: {
    a: { saves: ['quantized', 'absmax'], rule: ({ grad, saved }) => gradA(grad, saved.quantized!, saved.absmax!) },
    bias: { rule: ({ grad }) => grad },
  },
  samples: [
    matmulSample([3, 40], 5, 0),
    matmulSample([4, 33], 6, 1.9),
    matmulSample([1, 16], 1, 1.9),
    matmulSample([0, 16], 2, 1.9),
    {
      inputs: { ...matmulSample([4, 33], 6, 0).inputs, bias: { shape: [6] } },
      attributes: { threshold: 1.9 },
    },
  ],
  errors: [
    {
      inputs: { ...matmulSample([3, 40], 5, 0).inputs, a: { shape: [3, 41] } },
      attributes: { threshold: 0 },
      message: 'a must be [m, 40]',
    },
    {
      inputs: matmulSample([3, 40], 5, 0).inputs,
      attributes: { threshold: -1 },
      message: 'threshold must be at least 0',
    },
    {
      inputs: { ...matmulSample([3, 40], 5, 0).inputs, absmax: { shape: [4] } },
      attributes: { threshold: 0 },
      message: 'absmax must be f32 [5]',
    },
  ],
});

function checkWeight(op: string, { quantized, absmax }: { quantized: Spec; absmax: Spec }): void {
  if (quantized.dtype !== 'i8' || quantized.shape.length !== 2)
    throw new DTypeError(
      `${op}: the weight must be i8 [out, in]: got ${quantized.dtype} ${showShape(quantized.shape)}. Use quantizeRowwise().`,
    );
  if (!sameShape(absmax.shape, quantized.shape.slice(0, 1)) || !isFloat(absmax.dtype))
    throw new ShapeError(
      `${op}: absmax must be f32 [${quantized.shape[0]}], one number a row: got ${absmax.dtype} ${showShape(absmax.shape)}.`,
    );
}

/** The gradient steps over the rounding (straight-through), so finite differences cannot check `a`. */
function matmulSample(a: Shape, n: number, threshold: number) {
  return {
    inputs: {
      a: { shape: a, differentiable: false },
      quantized: { shape: [n, a[1]!], dtype: 'i8' as const, low: -127, high: 128 },
      absmax: { shape: [n], low: 0.1, high: 2, differentiable: false },
    },
    attributes: { threshold },
  };
}

const dequantized = (quantized: Tensor, absmax: Tensor, dtype: DType): Tensor =>
  quantized
    .cast('f32')
    .mul(absmax.cast('f32').reshape([absmax.size, 1]))
    .mul(unit)
    .cast(dtype);

/** grad [m, n] @ W [n, k], some rows of W at a time. */
function gradA(grad: Tensor, quantized: Tensor, absmax: Tensor): Tensor {
  const [n, k] = quantized.shape as [number, number];
  const step = Math.max(1, Math.floor(panelElements / Math.max(1, k)));
  const part = (start: number): Tensor => {
    const end = Math.min(n, start + step);
    const panel = dequantized(quantized.slice(0, start, end), absmax.slice(0, start, end), 'f32');
    return matmul(grad.slice(1, start, end), panel);
  };
  let total = scope(() => part(0));
  for (let start = step; start < n; start += step) {
    const before = total;
    total = scope(() => before.add(part(start)));
    before.dispose();
  }
  return total;
}

/** The weight as a matrix of floats: quantized * absmax / 127, as bitsandbytes' `int8_vectorwise_dequant`. No gradient. */
export function dequantizeRowwise({ quantized, absmax, dtype }: Weight8bit): Tensor {
  checkWeight('dequantizeRowwise', { quantized, absmax });
  return scope(() => dequantized(quantized, absmax, dtype));
}

export interface Matmul8bitOptions {
  /** Columns of `a` with a magnitude of at least this are multiplied in full precision; 0: none. Default 6, as transformers. */
  readonly threshold?: number;
  /** A second product u [m, r] @ v [n, r]^T on top: LoRA's. */
  readonly add?: readonly [u: Tensor, v: Tensor];
  /** [n], added to every row. */
  readonly bias?: Tensor;
}

/**
 * a [..., in] @ W^T as LLM.int8 computes it: `a` is rounded to f16 and quantized by rows, multiplied with W in integers, and
 * scaled back; columns of `a` with outliers go in full precision against those columns of W. W is frozen; the gradient of
 * `a` is grad @ W with W dequantized. Source: bitsandbytes 0.50 `MatMul8bitLt`.
 */
export function matmul8bit(a: Tensor, w: Weight8bit, { threshold = 6, add, bias }: Matmul8bitOptions = {}): Tensor {
  const rows = a.rank === 2 ? a : a.reshape([a.size / Math.max(1, a.shape.at(-1) ?? 1), a.shape.at(-1) ?? 1]);
  return scope(() => {
    const { quantized, absmax } = w;
    const product = matmul8bitOp.apply({ a: rows, quantized, absmax, bias: bias ?? null }, { threshold })[0]!;
    const full = add ? product.add(matmul(add[0], add[1], { transposeB: true })) : product;
    return a.rank === 2 ? full : full.reshape([...a.shape.slice(0, -1), full.shape[1]!]);
  });
}
