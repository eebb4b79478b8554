/** One tensor of a model folder after an adapter is merged, for each way of merging. */
import type { FileSystem } from '@lorikeet/files';
import { FormatError } from '@lorikeet/files';
import { denseLinear, type LinearLike, type LinearRequest, type TensorSource } from '@lorikeet/nn';
import { countNonFinite, type TensorEntry, type TensorReader, type WriteEntry } from '@lorikeet/safetensors';
import { type Backend, type DType, fromBytes, NonFiniteError, noGrad, scope } from '@lorikeet/tensor';
import type { OriginalWeights } from '../peft/apply-lora-async.ts';
import { isBaseInit } from '../peft/lora-config.ts';
import type { LoraLinear } from '../peft/lora-linear.ts';
import type { BitsAndBytesConfig } from '../quantize/bits-and-bytes-config.ts';
import { type Spool, weightSource } from '../quantize/quantize-checkpoint.ts';
import type { AdapterLayers } from './adapter-layers.ts';

/** How the linears of the base are quantized. */
export interface QuantizedPlan {
  readonly config: BitsAndBytesConfig;
  /** Quantized linears with their shapes. */
  readonly linears: ReadonlyMap<string, readonly number[]>;
  /** dtype of the decoded weights in the result: that of the folder's other weights. */
  readonly dtype: DType;
  factory(request: LinearRequest): LinearLike | Promise<LinearLike>;
}

/** Elements of a row block: 4 Mi, 16 MiB in f32. */
const blockElements = 1 << 22;
const chunkBytes = 4 << 20;

/** Everything that the ways of merging share. */
export interface Merge {
  readonly files: FileSystem;
  readonly reader: TensorReader;
  readonly adapter: AdapterLayers;
  readonly backend: Backend;
  readonly originalWeights: OriginalWeights | undefined;
  readonly progress: (path: string) => void;
}

export const halfOrSingle = (dtype: string): dtype is 'f32' | 'f16' | 'bf16' => ['f32', 'f16', 'bf16'].includes(dtype);

function refuseNonFinite(path: string, row: number): never {
  throw new NonFiniteError(
    `merge: the merged weight of ${path} must be finite: row ${row} or one after it would hold NaN or infinity. The adapter or the base is damaged, or the dtype cannot hold the sum; nothing was written.`,
  );
}

/** A tensor that stays as it is. */
export function copied({ reader }: Merge, { name, dtype, formatDtype, shape }: TensorEntry): WriteEntry {
  const bytes = async function* (): AsyncIterable<Uint8Array> {
    for await (const chunk of reader.chunks(name, chunkBytes)) {
      if (dtype !== 'unsupported' && countNonFinite(chunk, dtype) > 0)
        throw new NonFiniteError(`merge: ${name} must be finite: it holds NaN or infinity. Nothing was written.`);
      yield chunk;
    }
  };
  return { name, dtype: formatDtype, shape, bytes };
}

/** The request for a layer of the folder: its weight and what lies beside it. */
export function requestOf({ reader, backend }: Merge, path: string, shape: readonly number[]): LinearRequest {
  const below = `${path}.`;
  const companions = new Map<string, TensorSource>();
  for (const [name, entry] of reader.entries) {
    const rest = name.startsWith(below) ? name.slice(below.length) : 'weight';
    if (rest !== 'weight' && rest !== 'bias') companions.set(rest, weightSource(reader, entry));
  }
  const [outFeatures = 0, inFeatures = 0] = shape;
  const weight = weightSource(reader, reader.entry(`${path}.weight`));
  return { path, inFeatures, outFeatures, bias: null, weight, companions, backend };
}

/** Runs `use` with a layer as training had it: its base, the adapter over it where it has one. All of it is freed. */
async function withLayer<T>(
  merge: Merge,
  path: string,
  base: LinearLike,
  use: (layer: LinearLike) => Promise<T>,
): Promise<T> {
  let adapted: LoraLinear | undefined;
  try {
    if (merge.adapter.layers.has(path)) adapted = await merge.adapter.layer(path, base, merge.originalWeights);
    return await use(adapted ?? base);
  } finally {
    adapted?.disposeAdapter();
    for (const [, t] of base.stateEntries()) t.dispose();
  }
}

/** W + s B A of a layer in blocks of rows, rounded once to `dtype`. */
async function* denseRows(path: string, layer: LinearLike, dtype: DType): AsyncIterable<Uint8Array> {
  const step = Math.max(1, Math.floor(blockElements / layer.inFeatures));
  for (let start = 0; start < layer.outFeatures; start += step) {
    const end = Math.min(layer.outFeatures, start + step);
    using rows = noGrad(() => scope(() => layer.denseWeight([start, end]).cast('f32').cast(dtype)));
    const bytes = await rows.bytes();
    if (halfOrSingle(dtype) && countNonFinite(bytes, dtype) > 0) refuseNonFinite(path, start);
    yield bytes;
  }
}

/** A layer of floats merged in its own dtype. Read row by row, unless its first values came from the whole weight. */
export function mergedDense(merge: Merge, path: string, shape: readonly number[]): WriteEntry {
  const { reader, adapter, progress } = merge;
  const entry = reader.entry(`${path}.weight`);
  const { dtype } = entry;
  if (!halfOrSingle(dtype) || `${entry.shape}` !== `${shape}`)
    throw new FormatError(
      entry.path,
      `${entry.path}: ${entry.name} must be floats [${shape}] to merge into: it is ${entry.formatDtype} [${entry.shape}]. Give the folder of the original 16-bit weights, or merge into 'dequantized' or 'quantized'.`,
    );
  const fromBase = isBaseInit(adapter.config.initLoraWeights);
  const bytes = async function* (): AsyncIterable<Uint8Array> {
    progress(path);
    const request = requestOf(merge, path, shape);
    if (!fromBase) yield* sumRows(merge, request, dtype);
    else yield* await withLayer(merge, path, await denseLinear()(request), (layer) => allRows(path, layer, dtype));
  };
  return { name: entry.name, dtype, shape, bytes };
}

async function allRows(path: string, layer: LinearLike, dtype: DType): Promise<Uint8Array[]> {
  const pieces: Uint8Array[] = [];
  for await (const piece of denseRows(path, layer, dtype)) pieces.push(piece);
  return pieces;
}

/** W + s B A straight from the file: never more than a block of rows in memory. */
async function* sumRows(
  { adapter, backend }: Merge,
  { path, weight, outFeatures, inFeatures }: LinearRequest,
  dtype: DType,
): AsyncIterable<Uint8Array> {
  const { a, b, scaling } = await adapter.factors(path, backend);
  const step = Math.max(1, Math.floor(blockElements / inFeatures));
  try {
    for (let start = 0; start < outFeatures; start += step) {
      const end = Math.min(outFeatures, start + step);
      using rows = fromBytes(await weight.readRows(start, end), {
        backend,
        dtype: weight.dtype,
        shape: [end - start, inFeatures],
      });
      using sum = noGrad(() =>
        scope(() =>
          rows
            .cast('f32')
            .add(b.slice(0, start, end).mul(scaling).matmul(a))
            .cast(dtype),
        ),
      );
      const merged = await sum.bytes();
      if (halfOrSingle(dtype) && countNonFinite(merged, dtype) > 0) refuseNonFinite(path, start);
      yield merged;
    }
  } finally {
    for (const t of [a, b]) t.dispose();
  }
}

/** A layer of a quantized base, decoded and merged, in floats. */
export function mergedDecoded(merge: Merge, path: string, shape: readonly number[], plan: QuantizedPlan): WriteEntry {
  const bytes = async function* (): AsyncIterable<Uint8Array> {
    merge.progress(path);
    const base = await plan.factory(requestOf(merge, path, shape));
    yield* await withLayer(merge, path, base, (layer) => allRows(path, layer, plan.dtype));
  };
  return { name: `${path}.weight`, dtype: plan.dtype, shape, bytes };
}

/** A layer of a quantized base, merged and quantized anew with its own settings; its tensors wait in the spool. */
export async function mergedQuantized(
  merge: Merge,
  path: string,
  shape: readonly number[],
  { factory, spool }: QuantizedPlan & { readonly spool: Spool },
): Promise<WriteEntry[]> {
  merge.progress(path);
  const base = await factory(requestOf(merge, path, shape));
  return withLayer(merge, path, base, async (layer) => {
    if (layer !== base) await (layer as LoraLinear).merge({ keepOriginal: false });
    const entries: WriteEntry[] = [];
    for (const [below, t] of base.stateEntries()) {
      const bytes = await spool.add(await t.bytes());
      entries.push({ name: `${path}.${below}`, dtype: t.dtype, shape: t.shape, bytes });
    }
    return entries;
  });
}

/** A whole tensor that the adapter trained, in the place and the dtype of the base's. */
export function replaced({ adapter, backend }: Merge, path: string, entry: TensorEntry): WriteEntry {
  const { name, dtype, shape } = entry;
  if (!halfOrSingle(dtype) || `${adapter.shapeOf(path)}` !== `${shape}`)
    throw new FormatError(
      entry.path,
      `${entry.path}: ${name} must be floats [${adapter.shapeOf(path)}], as the adapter saved it: it is ${entry.formatDtype} [${shape}]. Use the base that the adapter was made for.`,
    );
  return { name, dtype, shape, bytes: () => adapter.wholeBytes(path, dtype, backend) };
}
