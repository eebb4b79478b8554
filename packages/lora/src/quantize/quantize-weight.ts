/** From float weights to 4 or 8 bits, row block by row block: never a second copy of the matrix. */
import type { TensorSource } from '@lorikeet/nn';
import {
  type Backend,
  bytesPerElement,
  createDynamicMap,
  fromBytes,
  NonFiniteError,
  noGrad,
  openScope,
  type QuantType4bit,
  quantize4bit,
  quantizeBlockwise,
  quantizeRowwise,
  type Tensor,
  tensor,
  type Weight4bit,
  type Weight8bit,
} from '@lorikeet/tensor';
import { meanF32 } from './mean-f32.ts';
import { nestedBlocksize } from './quant-state.ts';

/** How a weight is put into 4 bits. */
export interface Settings4bit {
  readonly quantType: QuantType4bit;
  readonly blocksize: number;
  readonly doubleQuant: boolean;
}

/** A float matrix [out, in] that is given in blocks of rows. */
export interface RowBlocks {
  /** For messages. */
  readonly path: string;
  readonly shape: readonly [outFeatures: number, inFeatures: number];
  readonly dtype: Weight4bit['dtype'];
  readonly backend: Backend;
  /** Rows start .. end as a new tensor; the caller frees it. */
  rows(start: number, end: number): Tensor | Promise<Tensor>;
  /** About this many elements are in float form at a time. @defaultValue 4 Mi */
  readonly blockElements?: number;
}

const gcd = (a: number, b: number): number => (b === 0 ? a : gcd(b, a % b));

/** Row blocks of whole quantization blocks, so that quantizing them one by one is quantizing the matrix. */
function* rowBlocks(
  { shape: [outFeatures, inFeatures], blockElements = 1 << 22 }: RowBlocks,
  blocksize: number,
): Iterable<[number, number]> {
  const unit = blocksize / gcd(blocksize, inFeatures);
  const step = Math.max(1, Math.round(blockElements / (inFeatures * unit))) * unit;
  for (let start = 0; start < outFeatures; start += step) yield [start, Math.min(outFeatures, start + step)];
}

/** The rows of a weight in a checkpoint. */
export const sourceRows = (source: TensorSource, backend: Backend): RowBlocks => ({
  path: source.path,
  shape: source.shape as readonly [number, number],
  dtype: source.dtype as Weight4bit['dtype'],
  backend,
  rows: async (start, end) => {
    const bytes = await source.readRows(start, end);
    const rows = fromBytes(bytes, { backend, dtype: source.dtype, shape: [end - start, source.shape[1]!] });
    source.release?.(bytes);
    return rows;
  },
});

/** The rows of a tensor [out, in]. */
export const tensorRows = (path: string, dense: Tensor): RowBlocks => ({
  path,
  shape: dense.shape as readonly [number, number],
  dtype: (dense.dtype === 'f64' ? 'f32' : dense.dtype) as Weight4bit['dtype'],
  backend: dense.backend,
  rows: (start, end) => dense.slice(0, start, end),
});

function requireFinite(path: string, scales: Float32Array, what: (index: number) => string): void {
  // 60 million scales of a Phi-3-mini pass here: a loop, not a call for each.
  let bad = 0;
  while (bad < scales.length && Number.isFinite(scales[bad])) bad++;
  if (bad < scales.length)
    throw new NonFiniteError(
      `quantize: ${path} must be finite: ${what(bad)} holds NaN or infinity. Download the weights again.`,
    );
}

/** Rows through `quantize`, which gives tensors; their bytes are laid end to end into `into`. The next rows are read meanwhile. */
async function eachBlock(
  blocks: RowBlocks,
  blocksize: number,
  quantize: (rows: Tensor) => readonly Tensor[],
  into: readonly Uint8Array[],
): Promise<void> {
  const ends = into.map(() => 0);
  const ranges = [...rowBlocks(blocks, blocksize)];
  const read = (range: readonly [number, number] | undefined): Promise<Tensor | undefined> => {
    const rows = (async () => range && blocks.rows(...range))();
    rows.catch(() => undefined); // a failure counts when its turn comes, and is not unhandled until then
    return rows;
  };
  let next = read(ranges[0]);
  for (const [i] of ranges.entries()) {
    using made = openScope();
    using rows = (await next)!;
    next = read(ranges[i + 1]);
    try {
      const parts = made.run(() => noGrad(() => quantize(rows)));
      for (const [k, part] of parts.entries()) {
        const bytes = await part.bytes();
        into[k]!.set(bytes, ends[k]!);
        ends[k]! += bytes.length;
      }
    } catch (error) {
      (await next.catch(() => undefined))?.dispose();
      throw error;
    }
  }
}

/**
 * A matrix in 4 bits, bit for bit what bitsandbytes.functional.quantize_4bit makes of the whole (portable backend; the offset
 * of double quantization summed as torch sums it on one thread). The result belongs to no scope.
 * @throws NonFiniteError that names the weight and the first bad block
 */
export async function quantizeWeight4bit(blocks: RowBlocks, settings: Settings4bit): Promise<Weight4bit> {
  const { quantType, blocksize, doubleQuant } = settings;
  const { shape, dtype, backend, path } = blocks;
  const count = shape[0] * shape[1];
  const packed = new Uint8Array((count + 1) >> 1);
  const absmax = new Float32Array(Math.ceil(count / blocksize));
  const quantize = (rows: Tensor): readonly Tensor[] => {
    const made = quantize4bit(rows, { quantType, blocksize });
    return [made.packed, made.absmax];
  };
  await eachBlock(blocks, blocksize, quantize, [packed, new Uint8Array(absmax.buffer)]);
  requireFinite(path, absmax, (block) => `row ${Math.floor((block * blocksize) / shape[1])}`);
  const layout = { quantType, blocksize, shape, dtype };
  const scales = doubleQuant ? await doubleQuantize(absmax, backend) : { absmax: floats(absmax, backend) };
  return { ...layout, ...scales, packed: fromBytes(packed, { backend, dtype: 'u8', shape: [packed.length, 1] }) };
}

/** A vector without a conversion of its elements. */
const floats = (values: Float32Array, backend: Backend): Tensor =>
  fromBytes(new Uint8Array(values.buffer, values.byteOffset, values.byteLength), {
    ...{ backend, dtype: 'f32' },
    shape: [values.length],
  });

/** Scales in 8 bits: their mean taken off, then blocks of 256 on the signed dynamic map. */
async function doubleQuantize(absmax: Float32Array, backend: Backend): Promise<Pick<Weight4bit, 'absmax' | 'nested'>> {
  const offset = meanF32(absmax);
  const centred = new Float32Array(absmax.length);
  for (let i = 0; i < absmax.length; i++) centred[i] = absmax[i]! - offset;
  using made = openScope();
  return made.run(() => {
    const code = tensor(createDynamicMap(true), { backend });
    const x = floats(centred, backend);
    const { quantized, absmax: nestedAbsmax } = quantizeBlockwise(x, code, { blocksize: nestedBlocksize });
    for (const kept of [code, quantized, nestedAbsmax]) made.keep(kept);
    return { absmax: quantized, nested: { absmax: nestedAbsmax, code, offset, blocksize: nestedBlocksize } };
  });
}

/**
 * A matrix in 8 bits with one scale a row, as bitsandbytes' Int8Params: the weight goes through f16 first, as in Python.
 * @throws NonFiniteError that names the weight and the first bad row, values beyond f16 included
 */
export async function quantizeWeight8bit(blocks: RowBlocks): Promise<Weight8bit> {
  const { shape, dtype, backend, path } = blocks;
  const codes = new Uint8Array(shape[0] * shape[1]);
  const absmax = new Float32Array(shape[0]);
  const quantize = (rows: Tensor): readonly Tensor[] => {
    const made = quantizeRowwise(rows.cast('f16'));
    return [made.quantized, made.absmax];
  };
  await eachBlock(blocks, 1, quantize, [codes, new Uint8Array(absmax.buffer)]);
  requireFinite(path, absmax, (row) => `row ${row}, in f16,`);
  return {
    quantized: fromBytes(codes, { backend, dtype: 'i8', shape }),
    absmax: floats(absmax, backend),
    dtype,
  };
}

/** Bytes that `elements` weights take in this form, their scales included. */
export function quantizedBytes(elements: number, settings: Settings4bit | 'int8', outFeatures = 0): number {
  if (settings === 'int8') return elements + outFeatures * bytesPerElement.f32;
  const blocks = Math.ceil(elements / settings.blocksize);
  const scales = settings.doubleQuant ? blocks + 4 * Math.ceil(blocks / nestedBlocksize) + 1024 : 4 * blocks;
  return ((elements + 1) >> 1) + scales + 64;
}
