/** 4-bit blockwise quantization as bitsandbytes has it (NF4 and FP4), bit for bit: quantize4bit, dequantize4bit. */

import type { Attributes, Dense } from '../backend.ts';
import { isFloat } from '../dtype.ts';
import { DTypeError, ShapeError } from '../errors.ts';
import { defineOp, type Sample, type Spec } from '../op.ts';
import { showShape, sizeOf } from '../shape.ts';
import type { Tensor } from '../tensor.ts';
import { code4bit, decision4bit, type QuantType4bit } from './code-4bit.ts';

/** Block sizes that bitsandbytes takes. */
const blocksizes: readonly number[] = [32, 64, 128, 256, 512, 1024, 2048, 4096];
/** The least absmax that a reciprocal is taken of. */
const leastAbsmax = Math.fround(1e-38);

export interface Quantize4bitOptions {
  readonly quantType: QuantType4bit;
  /** Elements that share an absmax: a power of two, 32 .. 4096. bitsandbytes' default is 64. */
  readonly blocksize: number;
}

function checkKind(op: string, { quantType, blocksize }: Quantize4bitOptions): void {
  if (quantType !== 'nf4' && quantType !== 'fp4')
    throw new TypeError(`${op}: quantType must be nf4 or fp4: got ${String(quantType)}. Choose one.`);
  if (!blocksizes.includes(blocksize))
    throw new RangeError(`${op}: blocksize must be one of ${blocksizes.join(', ')}: got ${blocksize}. Choose one.`);
}

/** One block's nibbles: what a full block scales by its reciprocal absmax, the last and shorter one divides. */
function quantizeBlock(
  x: Float64Array,
  blocksize: number,
  { borders, order }: ReturnType<typeof decision4bit>,
): { nibbles: number[]; absmax: number } {
  let absmax = 0;
  for (const value of x) absmax = Math.max(absmax, Math.abs(Math.fround(value)));
  const isFull = x.length === blocksize;
  // Math.max keeps NaN, as torch.max and clamp do.
  const divisor = Math.max(absmax, leastAbsmax);
  const reciprocal = Math.fround(1 / divisor);
  const nibbles = Array.from(x, (value) => {
    const v = Math.fround(value);
    const scaled = Math.fround(isFull ? v * reciprocal : v / divisor);
    const clamped = Math.min(Math.max(scaled, -1), 1);
    // NaN is not at or below any border, so it takes the last nibble, as in torch.bucketize.
    return order[borders.reduce((above, border) => above - Number(clamped <= border), borders.length)]!;
  });
  return { nibbles, absmax: isFull ? absmax : divisor };
}

/** A full block of absmax 1 with every border, and a shorter one. */
function onBorders(quantType: QuantType4bit): Sample<Quantize4bitOptions> {
  const { borders } = decision4bit(quantType);
  const values = [...borders, 1, ...Array.from(borders, (x) => x / 2), -1, ...borders, 1];
  return { inputs: { x: { shape: [values.length], values } }, attributes: { quantType, blocksize: 32 } };
}

/** See quantize4bit. */
export const quantize4bitOp = defineOp<'x', Quantize4bitOptions>({
  name: 'quantize4bit',
  inputs: ['x'],
  shape: ({ x }, attributes) => {
    checkKind('quantize4bit', attributes);
    if (!isFloat(x.dtype)) throw new DTypeError(`quantize4bit: x must be floats: got ${x.dtype}. Use cast('f32').`);
    const n = sizeOf(x.shape);
    return [
      { shape: [(n + 1) >> 1, 1], dtype: 'u8' },
      { shape: [Math.ceil(n / attributes.blocksize)], dtype: 'f32' },
    ];
  },
  reference: ([x], [packed, absmax], attributes) => {
    const { quantType, blocksize } = attributes as unknown as Quantize4bitOptions;
    const decision = decision4bit(quantType);
    const n = x!.data.length;
    for (let block = 0; block * blocksize < n; block++) {
      const start = block * blocksize;
      const made = quantizeBlock(x!.data.subarray(start, Math.min(n, start + blocksize)), blocksize, decision);
      absmax!.data[block] = made.absmax;
      // Odd lengths are filled up with the nibble of zero.
      if (made.nibbles.length % 2) made.nibbles.push(decision.order[decision.borders.findIndex((b) => b >= 0)]!);
      for (let i = 0; i < made.nibbles.length; i += 2)
        packed!.data[(start + i) / 2] = made.nibbles[i]! * 16 + made.nibbles[i + 1]!;
    }
  },
  samples: [
    { inputs: { x: { shape: [4, 64] } }, attributes: { quantType: 'nf4', blocksize: 64 } },
    { inputs: { x: { shape: [3, 43] } }, attributes: { quantType: 'nf4', blocksize: 32 } },
    { inputs: { x: { shape: [5, 64] } }, attributes: { quantType: 'fp4', blocksize: 128 } },
    { inputs: { x: { shape: [2, 128], dtype: 'bf16' } }, attributes: { quantType: 'nf4', blocksize: 64 } },
    { inputs: { x: { shape: [259], dtype: 'f16' } }, attributes: { quantType: 'fp4', blocksize: 64 } },
    { inputs: { x: { shape: [70], low: 0, high: 1e-38 } }, attributes: { quantType: 'nf4', blocksize: 64 } },
    { inputs: { x: { shape: [0] } }, attributes: { quantType: 'nf4', blocksize: 64 } },
    onBorders('nf4'),
    onBorders('fp4'),
  ],
  errors: [
    {
      inputs: { x: { shape: [64], dtype: 'i32' } },
      attributes: { quantType: 'nf4', blocksize: 64 },
      message: 'must be floats',
    },
    { inputs: { x: { shape: [64] } }, attributes: { quantType: 'nf4', blocksize: 48 }, message: 'blocksize must be' },
    {
      inputs: { x: { shape: [64] } },
      attributes: { quantType: 'int4' as 'nf4', blocksize: 64 },
      message: 'nf4 or fp4',
    },
  ],
});

/**
 * x of any shape, f32, f16 or bf16, in blocks over its flattened row-major elements (bitsandbytes.functional.quantize_4bit,
 * double quantization apart). packed: u8 [(n+1)>>1, 1], element 2i in the high nibble; absmax: f32 [ceil(n/blocksize)].
 * A block with NaN or an infinity gets a NaN or infinite absmax and says nothing else: whoever quantizes weights checks
 * absmax and refuses them by name.
 */
export function quantize4bit(x: Tensor, { quantType, blocksize }: Quantize4bitOptions): Packed4bit {
  const [packed, absmax] = quantize4bitOp.apply({ x }, { quantType, blocksize });
  return { packed: packed!, absmax: absmax! };
}

export interface Packed4bit {
  readonly packed: Tensor;
  readonly absmax: Tensor;
}

/** Double quantization: absmax of block i = code[absmax[i]] * nested.absmax[i / blocksize] + offset, in f32. */
export interface NestedAbsmax {
  /** f32 [ceil(blocks / blocksize)]. */
  readonly absmax: Tensor;
  /** f32 [256]. */
  readonly code: Tensor;
  readonly offset: number;
  /** bitsandbytes: 256. */
  readonly blocksize: number;
}

/** A matrix [out, in] in 4 bits. absmax is f32 [blocks], or u8 [blocks] where `nested` is given (double quantization). */
export interface Weight4bit extends Packed4bit, Quantize4bitOptions {
  readonly nested?: NestedAbsmax | undefined;
  /** [out, in]. */
  readonly shape: readonly [number, number];
  /** What code * absmax, computed in f32, is rounded to before it is used (bitsandbytes: quant_state.dtype). */
  readonly dtype: 'f32' | 'f16' | 'bf16';
}

/** A Weight4bit without its tensors. */
export interface Layout4bit extends Quantize4bitOptions {
  readonly shape: readonly [number, number];
  readonly dtype: Weight4bit['dtype'];
  readonly offset: number;
  readonly nestedBlocksize: number;
}

export type WeightInput4bit = 'packed' | 'absmax' | 'nestedAbsmax' | 'nestedCode';

export const layoutOf = ({ shape, dtype, quantType, blocksize, nested }: Weight4bit): Layout4bit => ({
  ...{ shape, dtype, quantType, blocksize },
  offset: nested?.offset ?? 0,
  nestedBlocksize: nested?.blocksize ?? 256,
});

export const inputsOf = ({ packed, absmax, nested }: Weight4bit): Record<WeightInput4bit, Tensor | null> => ({
  packed,
  absmax,
  nestedAbsmax: nested?.absmax ?? null,
  nestedCode: nested?.code ?? null,
});

const isWide = (dtype: Spec['dtype']): boolean => dtype === 'f32' || dtype === 'f64';

/** Throws unless the parts of a quantized matrix agree in sizes and dtypes. */
export function checkWeight4bit(
  op: string,
  parts: Readonly<Partial<Record<WeightInput4bit, Spec | null>>>,
  layout: Layout4bit,
): void {
  checkKind(op, layout);
  const { shape, dtype, blocksize, nestedBlocksize } = layout;
  if (shape.length !== 2 || !shape.every((size) => Number.isInteger(size) && size >= 0))
    throw new ShapeError(`${op}: the weight's shape must be [out, in]: got ${showShape(shape)}. Give both sizes.`);
  if (dtype !== 'f32' && dtype !== 'f16' && dtype !== 'bf16')
    throw new DTypeError(`${op}: the weight's dtype must be f32, f16 or bf16: got ${String(dtype)}. Choose one.`);
  const n = sizeOf(shape);
  const blocks = Math.ceil(n / blocksize);
  const expect = (name: WeightInput4bit, count: number, isRight: (d: Spec['dtype']) => boolean, kind: string): void => {
    const given = parts[name];
    if (!given || sizeOf(given.shape) !== count || !isRight(given.dtype))
      throw new ShapeError(
        `${op}: ${name} of a ${showShape(shape)} weight in blocks of ${blocksize} must be ${count} elements of ${kind}: ` +
          `got ${given ? `${showShape(given.shape)} ${given.dtype}` : 'nothing'}. Check its file or its quantization settings.`,
      );
  };
  expect('packed', (n + 1) >> 1, (d) => d === 'u8', 'u8');
  const isNested = Boolean(parts.nestedAbsmax ?? parts.nestedCode);
  expect('absmax', blocks, (d) => (isNested ? d === 'u8' : isWide(d)), isNested ? 'u8' : 'f32');
  if (!isNested) return;
  if (!(nestedBlocksize >= 1 && Number.isInteger(Math.log2(nestedBlocksize))))
    throw new RangeError(
      `${op}: the blocksize of nested must be a power of two: got ${nestedBlocksize}. bitsandbytes writes 256.`,
    );
  expect('nestedAbsmax', Math.ceil(blocks / nestedBlocksize), isWide, 'f32');
  expect('nestedCode', 256, isWide, 'f32');
}

/** absmax of every block in f32; a product and a sum, each rounded. */
function absmaxOf(
  [, absmax, nestedAbsmax, nestedCode]: readonly (Dense | null)[],
  { offset, nestedBlocksize }: Layout4bit,
): Float64Array {
  if (!nestedAbsmax || !nestedCode) return absmax!.data;
  return absmax!.data.map((q, block) => {
    const scale = nestedAbsmax.data[Math.floor(block / nestedBlocksize)]!;
    return Math.fround(Math.fround(nestedCode.data[q]! * scale) + Math.fround(offset));
  });
}

export interface Dequantize4bitAttributes extends Layout4bit {
  /** Rows of the matrix to give: start .. end. */
  readonly rows: readonly [start: number, end: number];
}

const checkRows = ([start, end]: Dequantize4bitAttributes['rows'], out: number): void => {
  const isRange = Number.isInteger(start) && Number.isInteger(end) && 0 <= start && start <= end && end <= out;
  if (!isRange)
    throw new RangeError(`dequantize4bit: rows must lie in 0 .. ${out}: got ${start} .. ${end}. Give start and end.`);
};

/** Inputs of a sample weight. */
export function weightSample(
  layout: Partial<Layout4bit> & Pick<Layout4bit, 'shape'>,
  isNested = false,
): { inputs: Sample<unknown>['inputs']; attributes: Layout4bit } {
  const attributes: Layout4bit = {
    ...{ quantType: 'nf4', blocksize: 64, dtype: 'f32', offset: isNested ? 0.75 : 0, nestedBlocksize: 256 },
    ...layout,
  };
  const blocks = Math.ceil(sizeOf(attributes.shape) / attributes.blocksize);
  const fixed = { differentiable: false } as const;
  return {
    attributes,
    inputs: {
      packed: { shape: [(sizeOf(attributes.shape) + 1) >> 1, 1], dtype: 'u8', low: 0, high: 256 },
      absmax: isNested
        ? { shape: [blocks], dtype: 'u8', low: 0, high: 256 }
        : { shape: [blocks], low: 0.25, high: 2, ...fixed },
      ...(isNested && {
        nestedAbsmax: { shape: [Math.ceil(blocks / attributes.nestedBlocksize)], low: 0.1, high: 0.5, ...fixed },
        nestedCode: { shape: [256], low: -1, high: 1, ...fixed },
      }),
    },
  };
}

const rowsOf = (sample: ReturnType<typeof weightSample>, rows: readonly [number, number]) => ({
  ...sample,
  attributes: { ...sample.attributes, rows },
});

/** See dequantize4bit. */
export const dequantize4bitOp = defineOp<WeightInput4bit, Dequantize4bitAttributes>({
  name: 'dequantize4bit',
  inputs: ['packed', 'absmax', 'nestedAbsmax', 'nestedCode'],
  optional: ['nestedAbsmax', 'nestedCode'],
  shape: (parts, attributes) => {
    checkWeight4bit('dequantize4bit', parts, attributes);
    const { rows, shape, dtype } = attributes;
    checkRows(rows, shape[0]);
    return { shape: [rows[1] - rows[0], shape[1]], dtype };
  },
  reference: (inputs, [out], attributes: Attributes) => {
    const layout = attributes as unknown as Dequantize4bitAttributes;
    const code = code4bit(layout.quantType);
    const absmax = absmaxOf(inputs, layout);
    const packed = inputs[0]!.data;
    const first = layout.rows[0] * layout.shape[1];
    for (let i = 0; i < out!.data.length; i++) {
      const at = first + i;
      const byte = packed[at >> 1]!;
      const index = at % 2 === 0 ? byte >> 4 : byte & 15;
      // Rounded to f32 here and to the dtype when it is stored.
      out!.data[i] = Math.fround(code[index]! * absmax[Math.floor(at / layout.blocksize)]!);
    }
  },
  samples: [
    rowsOf(weightSample({ shape: [4, 64] }), [0, 4]),
    rowsOf(weightSample({ shape: [6, 96], dtype: 'bf16' }), [2, 5]),
    rowsOf(weightSample({ shape: [5, 128], dtype: 'f16', quantType: 'fp4', blocksize: 128 }, true), [0, 5]),
    rowsOf(weightSample({ shape: [7, 19], blocksize: 32, nestedBlocksize: 2 }, true), [1, 7]),
    rowsOf(weightSample({ shape: [3, 5], quantType: 'fp4' }), [1, 2]),
    rowsOf(weightSample({ shape: [4, 64] }), [2, 2]),
  ],
  errors: [
    { ...rowsOf(weightSample({ shape: [4, 64] }), [0, 5]), message: 'rows must lie in 0 .. 4' },
    {
      ...rowsOf(weightSample({ shape: [4, 64] }), [0, 4]),
      inputs: { ...weightSample({ shape: [4, 64] }).inputs, absmax: { shape: [5] } },
      message: 'absmax of a [4, 64] weight in blocks of 64 must be 4 elements of f32',
    },
    {
      ...rowsOf(weightSample({ shape: [4, 64] }, true), [0, 4]),
      inputs: { ...weightSample({ shape: [4, 64] }, true).inputs, nestedCode: { shape: [16] } },
      message: 'nestedCode of a [4, 64] weight',
    },
    { ...rowsOf(weightSample({ shape: [4, 64], blocksize: 100 }), [0, 4]), message: 'blocksize must be one of' },
  ],
});

/**
 * The matrix [out, in], or its rows start .. end, in the weight's dtype (bitsandbytes.functional.dequantize_4bit):
 * code * absmax in f32, rounded once. No gradient.
 */
export const dequantize4bit = (w: Weight4bit, rows: readonly [number, number] = [0, w.shape[0]]): Tensor =>
  dequantize4bitOp.apply(inputsOf(w), { ...layoutOf(w), rows })[0]!;
