/**
 * Blockwise 8-bit quantization with a map of 256 values (Dettmers et al. 2022, "8-bit Optimizers via Block-wise
 * Quantization"), bit for bit as bitsandbytes 0.50 computes it on a CPU.
 */
import { zeros } from '../creation.ts';
import { type DType, isFloat } from '../dtype.ts';
import { DTypeError, ShapeError } from '../errors.ts';
import { defineOp, type Spec } from '../op.ts';
import { type Shape, sameShape, showShape, sizeOf } from '../shape.ts';
import type { Tensor } from '../tensor.ts';
import { div } from './elementwise.ts';
import { indexSelect } from './index-select.ts';

const exponentBits = 7;

/** torch.linspace(0.1, 1, count) in f32: stepped from both ends towards the middle. */
function tenthToOne(count: number): Float32Array {
  const [start, end] = [Math.fround(0.1), 1];
  const step = Math.fround(Math.fround(end - start) / Math.fround(count - 1));
  return Float32Array.from({ length: count }, (_, i) =>
    i < count / 2 ? start + step * i : end - step * (count - 1 - i),
  );
}

/**
 * The dynamic map (bitsandbytes.functional.create_dynamic_map): 256 ascending f32 values in [-1, 1], or in [0, 1] unsigned.
 * Seven decades below 1, each with twice the values of the one below, and 0 and 1 themselves.
 */
export function createDynamicMap(signed: boolean): Float32Array {
  const values = [0, 1];
  for (let i = 0; i < exponentBits; i++) {
    const bounds = tenthToOne(2 ** (signed ? i : i + 1) + 1);
    const decade = Math.fround(10 ** (i - exponentBits + 1));
    for (let k = 0; k + 1 < bounds.length; k++) {
      const mean = Math.fround(Math.fround(bounds[k]! + bounds[k + 1]!) / 2);
      const value = Math.fround(decade * mean);
      values.push(value);
      if (signed) values.push(-value);
    }
  }
  return Float32Array.from(values).sort();
}

interface Blocks {
  readonly blocksize: number;
}

/** Cells of the grid on [-1, 1] that a scaled value is rounded to before the map is searched. */
export const gridCells = 65535;

/** For each cell of the grid on [-1, 1] the place of the nearest value of an ascending map: bitsandbytes' lookup table. */
export function placesOf(map: Float32Array): Uint8Array {
  const table = new Uint8Array(gridCells + 1);
  let place = 0;
  for (let cell = 0; cell <= gridCells; cell++) {
    const value = Math.fround(Math.fround((2 * cell) / gridCells) - 1);
    while (place < 255 && Math.fround(Math.fround(map[place]! + map[place + 1]!) / 2) < value) place++;
    table[cell] = place;
  }
  return table;
}

/** f32; f64 too, which checks in f64 widen inputs to: it is rounded to f32 before use. */
const isWide = (dtype: DType): boolean => dtype === 'f32' || dtype === 'f64';

function needBlocks(op: string, x: Spec, code: Spec, { blocksize }: Blocks): number {
  if (!(Number.isInteger(blocksize) && blocksize >= 1))
    throw new RangeError(
      `${op}: blocksize must be a whole number of at least 1: got ${blocksize}. bitsandbytes has 64 to 4096.`,
    );
  if (!sameShape(code.shape, [256]) || !isWide(code.dtype))
    throw new ShapeError(
      `${op}: code must be f32 [256]: got ${code.dtype} ${showShape(code.shape)}. Make one with createDynamicMap().`,
    );
  return Math.ceil(sizeOf(x.shape) / blocksize);
}

/** x flattened, filled up with zeros, as [blocks, blocksize]. */
function inBlocks(x: Tensor, blocksize: number): Tensor {
  const blocks = Math.ceil(x.size / blocksize);
  return x
    .reshape([x.size])
    .pad(0, 0, blocks * blocksize - x.size)
    .reshape([blocks, blocksize]);
}

/** How many of the 255 ascending borders lie below each value: i32, the shape of `value`. */
function countBelow(value: Tensor, borders: Tensor): Tensor {
  const flat = value.reshape([value.size]);
  let place = zeros([value.size], { backend: value.backend, dtype: 'i32' });
  for (let step = 128; step >= 1; step /= 2) {
    const probe = indexSelect(borders, place.add(step - 1));
    place = place.add(probe.lt(flat).cast('i32').mul(step));
  }
  return place.reshape(value.shape);
}

/** See quantizeBlockwise. */
export const quantizeBlockwiseOp = defineOp<'x' | 'code', Blocks>({
  name: 'quantizeBlockwise',
  inputs: ['x', 'code'],
  shape: ({ x, code }, attributes) => {
    if (!isFloat(x.dtype))
      throw new DTypeError(`quantizeBlockwise: x must be a float: got ${x.dtype}. Use cast('f32').`);
    const blocks = needBlocks('quantizeBlockwise', x, code, attributes);
    return [
      { shape: x.shape, dtype: 'u8' },
      { shape: [blocks], dtype: 'f32' },
    ];
  },
  compose: ({ x, code: given }, { blocksize }) => {
    const { backend, shape } = x;
    if (x.size === 0) return [zeros(shape, { backend, dtype: 'u8' }), zeros([0], { backend })];
    const code = given.cast('f32');
    const blocks = inBlocks(x.cast('f32'), blocksize);
    const magnitude = blocks.abs();
    const absmax = magnitude.eq(magnitude).where(magnitude, 0).max(1, { keepDims: true });
    const scaled = blocks.mul(div.apply([1, absmax]));
    // What is not a number counts as -1, as it does in bitsandbytes' table.
    const bounded = scaled.eq(scaled).where(scaled, -1).maximum(-1).minimum(1);
    const cell = bounded.add(1).mul(0.5).mul(gridCells).add(0.5).cast('i32').cast('f32');
    const value = cell.mul(2).div(gridCells).sub(1);
    const borders = code
      .slice(0, 0, 255)
      .add(code.slice(0, 1, 256))
      .mul(0.5);
    const found = countBelow(value, borders).mul(absmax.gt(0).cast('i32'));
    return [found.cast('u8').reshape([found.size]).slice(0, 0, x.size).reshape(shape), absmax.reshape([absmax.size])];
  },
  gradient: {},
  samples: [
    quantizeSample([3, 40], 64),
    quantizeSample([5, 7, 3], 16),
    quantizeSample([1], 64),
    quantizeSample([0, 3], 64),
  ],
  errors: [
    { ...quantizeSample([4], 0), message: 'blocksize must be a whole number' },
    {
      inputs: { x: { shape: [4] }, code: { shape: [16] } },
      attributes: { blocksize: 64 },
      message: 'code must be f32 [256]',
    },
    {
      inputs: { x: { shape: [4], dtype: 'i32' }, code: dynamicSample() },
      attributes: { blocksize: 64 },
      message: 'x must be a float',
    },
  ],
});

function dynamicSample() {
  return { shape: [256], values: [...createDynamicMap(true)], differentiable: false };
}
function quantizeSample(shape: Shape, blocksize: number) {
  return { inputs: { x: { shape, differentiable: false }, code: dynamicSample() }, attributes: { blocksize } };
}

interface DequantizeAttributes extends Blocks {
  readonly dtype: DType;
}

/** See dequantizeBlockwise. */
export const dequantizeBlockwiseOp = defineOp<'quantized' | 'absmax' | 'code', DequantizeAttributes>({
  name: 'dequantizeBlockwise',
  inputs: ['quantized', 'absmax', 'code'],
  shape: ({ quantized, absmax, code }, attributes) => {
    if (quantized.dtype !== 'u8')
      throw new DTypeError(
        `dequantizeBlockwise: quantized must be u8: got ${quantized.dtype}. Pass what quantizeBlockwise gave.`,
      );
    const blocks = needBlocks('dequantizeBlockwise', quantized, code, attributes);
    if (!sameShape(absmax.shape, [blocks]) || !isWide(absmax.dtype))
      throw new ShapeError(
        `dequantizeBlockwise: absmax must be f32 [${blocks}], one a block of ${attributes.blocksize}: got ${absmax.dtype} ${showShape(absmax.shape)}. Use the blocksize of quantizing.`,
      );
    if (!isFloat(attributes.dtype))
      throw new DTypeError(`dequantizeBlockwise: dtype must be a float: got ${attributes.dtype}.`);
    return { shape: quantized.shape, dtype: attributes.dtype };
  },
  compose: ({ quantized, absmax, code }, { blocksize, dtype }) => {
    if (quantized.size === 0) return zeros(quantized.shape, { backend: quantized.backend, dtype });
    const values = indexSelect(code.cast('f32'), quantized.reshape([quantized.size]).cast('i32'));
    const scaled = inBlocks(values, blocksize).mul(absmax.cast('f32').reshape([absmax.size, 1]));
    return scaled.reshape([scaled.size]).slice(0, 0, quantized.size).reshape(quantized.shape).cast(dtype);
  },
  gradient: {},
  samples: [
    dequantizeSample([3, 40], 64, 'f32'),
    dequantizeSample([131], 16, 'bf16'),
    dequantizeSample([9, 8], 64, 'f16'),
  ],
  errors: [
    {
      inputs: {
        quantized: { shape: [70], dtype: 'u8', low: 0, high: 256 },
        absmax: { shape: [1] },
        code: dynamicSample(),
      },
      attributes: { blocksize: 64, dtype: 'f32' },
      message: 'absmax must be f32 [2]',
    },
    {
      inputs: { quantized: { shape: [3], dtype: 'i32' }, absmax: { shape: [1] }, code: dynamicSample() },
      attributes: { blocksize: 64, dtype: 'f32' },
      message: 'quantized must be u8',
    },
  ],
});

function dequantizeSample(shape: Shape, blocksize: number, dtype: DType) {
  return {
    inputs: {
      quantized: { shape, dtype: 'u8' as const, low: 0, high: 256 },
      absmax: { shape: [Math.ceil(sizeOf(shape) / blocksize)], low: 0.1, high: 3, differentiable: false },
      code: dynamicSample(),
    },
    attributes: { blocksize, dtype },
  };
}

export interface QuantizedBlocks {
  /** u8 in x's shape: places in the map. */
  readonly quantized: Tensor;
  /** f32 [ceil(n / blocksize)]: the largest magnitude of each block. */
  readonly absmax: Tensor;
}

/**
 * x, any float of any shape, in 8 bits: each block of `blocksize` consecutive elements is scaled to [-1, 1] by its largest
 * magnitude, rounded to a grid of 65535 cells, and put to the nearest of the 256 values of `code`. A block of zeros gets
 * place 0. No gradient. Source: csrc/cpu_ops.cpp `quantize_cpu_impl` of bitsandbytes 0.50, equal bit for bit; its CUDA
 * kernels have no grid, so values under 1.5e-5 of the largest may lie on other places there.
 */
export function quantizeBlockwise(x: Tensor, code: Tensor, { blocksize }: Blocks): QuantizedBlocks {
  const [quantized, absmax] = quantizeBlockwiseOp.apply({ x, code }, { blocksize });
  return { quantized: quantized!, absmax: absmax! };
}

/** code[quantized] * absmax of its block, in f32, rounded to `dtype` (f32 unless given). No gradient. */
export function dequantizeBlockwise(
  quantized: Tensor,
  absmax: Tensor,
  code: Tensor,
  { blocksize, dtype = 'f32' }: Blocks & { readonly dtype?: DType },
): Tensor {
  return dequantizeBlockwiseOp.apply({ quantized, absmax, code }, { blocksize, dtype })[0]!;
}
