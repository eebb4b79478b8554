/** An adapter merged into the weights of a model folder, one tensor at a time. */
import { type FileSystem, FormatError, joinPath, readJson, writeJson } from '@lorikeet/files';
import { openCheckpoint, type WriteEntry, writeSharded } from '@lorikeet/safetensors';
import { type Backend, type DType, isFloat } from '@lorikeet/tensor';
import {
  type BitsAndBytesConfig,
  bitsAndBytesFloats,
  bitsAndBytesJson,
  isQuantizedPath,
  readQuantizationConfig,
} from '../quantize/bits-and-bytes-config.ts';
import { Spool } from '../quantize/quantize-checkpoint.ts';
import { quantizedLinear } from '../quantize/quantized-factory.ts';
import { openAdapterLayers } from './adapter-layers.ts';
import { checkpointWeights } from './checkpoint-weights.ts';
import {
  copied,
  halfOrSingle,
  type Merge,
  mergedDecoded,
  mergedDense,
  mergedQuantized,
  type QuantizedPlan,
  replaced,
  requestOf,
} from './merged-tensors.ts';

/**
 * What an adapter is merged into. `original`: the 16-bit weights, as they are stored. `dequantized`: the decoded weights of the quantized
 * base it was trained on, written in floats. `quantized`: those again, quantized anew with the same settings (PEFT's merge of a 4-bit layer).
 */
export type MergeInto = 'original' | 'dequantized' | 'quantized';

export const mergeWays: readonly MergeInto[] = ['original', 'dequantized', 'quantized'];

export interface MergeCheckpointOptions {
  readonly backend: Backend;
  /** @defaultValue 'original' */
  readonly into?: MergeInto;
  /** Every linear of the model with its shape [out, in]; for the two ways of a quantized base. */
  readonly linears?: ReadonlyMap<string, readonly number[]>;
  /** How the base was quantized in training, where the folder holds floats. @defaultValue what its config.json says */
  readonly quantization?: BitsAndBytesConfig | undefined;
  /** Most tensor bytes in a file. @defaultValue 5e9 */
  readonly maxShardBytes?: number | undefined;
  /** Called before each tensor that is merged or converted. */
  readonly onProgress?: (progress: { readonly path: string; readonly done: number; readonly total: number }) => void;
}

/** What was written. */
export interface MergedCheckpoint {
  /** Names of the files, config.json last. */
  readonly files: readonly string[];
  /** Layers that were merged. */
  readonly merged: readonly string[];
}

/** @throws TypeError when the base is not quantized, in the folder or by option */
async function quantizedPlan(merge: Merge, dir: string, options: MergeCheckpointOptions): Promise<QuantizedPlan> {
  const stored = await readQuantizationConfig(merge.files, dir);
  const config = stored ?? options.quantization;
  if (!config?.loadIn4bit && !config?.loadIn8bit)
    throw new TypeError(
      `merge: into '${options.into}' must have a quantized base: ${dir} holds floats, and no quantization was given. Say how the base was quantized in training (loadIn4bit), or merge into 'original'.`,
    );
  if (!options.linears)
    throw new TypeError(`merge: into '${options.into}' must be told the model's linears: it was not. Pass linears.`);
  const linears = new Map([...options.linears].filter(([path]) => isQuantizedPath(path, config)));
  const float = [...merge.reader.entries.values()].find(
    ({ dtype, shape }) => halfOrSingle(dtype) && shape.length === 2,
  );
  const factory = quantizedLinear(config);
  await factory.check?.([...linears].map(([path, shape]) => requestOf(merge, path, shape)));
  return { config, linears, factory, dtype: (float?.dtype ?? 'f32') as DType };
}

/** @throws FormatError for a layer or tensor of the adapter that the folder does not have */
function requirePlaces({ reader, adapter }: Merge): void {
  const wanted = [...[...adapter.layers.keys()].map((path) => `${path}.weight`), ...adapter.whole.keys()];
  const missing = wanted.filter((name) => !reader.entries.has(name));
  if (missing.length)
    throw new FormatError(
      reader.path,
      `${reader.path}: must hold every tensor that the adapter changes: ${missing.slice(0, 5).join(', ')} ${missing.length === 1 ? 'is' : 'are'} not there. Use the base that the adapter was made for; a tied output embedding cannot be merged.`,
    );
}

/** The tensors of the result, in the order of the folder. */
async function entriesOf(merge: Merge, plan: QuantizedPlan | null, spool: Spool | null): Promise<WriteEntry[]> {
  const { reader, adapter } = merge;
  const entries: WriteEntry[] = [];
  const quantized = [...(plan?.linears.keys() ?? [])];
  const ownerOf = (name: string): string | undefined => quantized.find((path) => name.startsWith(`${path}.`));
  for (const [name, entry] of reader.entries) {
    const path = name.replace(/\.weight$/, '');
    const owner = ownerOf(name);
    const shape = owner === undefined ? undefined : plan!.linears.get(owner)!;
    if (owner !== undefined && name.startsWith(`${owner}.`) && name !== `${owner}.weight`) {
      if (spool && !adapter.layers.has(owner)) entries.push(copied(merge, entry));
    } else if (owner !== undefined) {
      const asStored = !adapter.layers.has(owner) && !isFloat(entry.dtype as DType);
      if (!spool) entries.push(mergedDecoded(merge, owner, shape!, plan!));
      else if (asStored) entries.push(copied(merge, entry));
      else entries.push(...(await mergedQuantized(merge, owner, shape!, { ...plan!, spool })));
    } else if (adapter.layers.has(path)) entries.push(mergedDense(merge, path, adapter.layers.get(path)!.shape));
    else entries.push(adapter.whole.has(name) ? replaced(merge, name, entry) : copied(merge, entry));
  }
  return entries;
}

/** config.json of the result. */
async function configOf(files: FileSystem, from: string, into: MergeInto, plan: QuantizedPlan | null): Promise<object> {
  const { quantization_config: stored, ...json } = (await readJson(files, joinPath(from, 'config.json'))) as Readonly<Record<string, unknown>>; // biome-ignore format: one line
  return into === 'quantized' ? { ...json, quantization_config: stored ?? bitsAndBytesJson(plan!.config) } : json;
}

/**
 * Merges an adapter that PEFT or saveAdapter wrote into the weights of a model folder: W + s B A, summed in f32 and rounded once. Works
 * tensor by tensor from file to file: into 'original' never more than a block of rows of one weight is in memory, else one layer. Every
 * result is checked for NaN and infinity.
 *
 * @param from the base: floats, or quantized in bitsandbytes' form
 * @param to a folder without weights: the draft of writeDirectoryAtomic, so that a failure leaves nothing
 * @throws NonFiniteError that names the weight; TypeError, FormatError, SafetensorsError or FileError for what does not fit
 */
export async function mergeCheckpoint(
  files: FileSystem,
  from: string,
  adapterDir: string,
  to: string,
  options: MergeCheckpointOptions,
): Promise<MergedCheckpoint> {
  const { backend, into = 'original', maxShardBytes, onProgress } = options;
  const adapter = await openAdapterLayers(files, adapterDir);
  const reader = await openCheckpoint(files, from);
  let done = 0;
  const total = into === 'original' ? adapter.layers.size : (options.linears?.size ?? 0);
  const progress = (path: string): void => onProgress?.({ path, done: done++, total });
  // The folder's own floats are the weights from before quantization.
  const hasFloats = (await readQuantizationConfig(files, from)) === undefined;
  const originalWeights = hasFloats ? await checkpointWeights(files, from, backend) : undefined;
  const merge: Merge = { files, reader, adapter, backend, originalWeights, progress };
  requirePlaces(merge);
  const plan = into === 'original' ? null : await quantizedPlan(merge, from, { ...options, into });
  const spool = into === 'quantized' ? new Spool(files, to) : null;
  const entries = await entriesOf(merge, plan, spool);
  const sharding = maxShardBytes === undefined ? {} : { maxShardBytes };
  const written = await writeSharded(files, to, entries, { ...sharding, metadata: { format: 'pt' } });
  await spool?.remove();
  const json = await configOf(files, from, into, plan);
  await writeJson(files, joinPath(to, 'config.json'), json, { floatKeys: bitsAndBytesFloats });
  return { files: [...written, 'config.json'], merged: [...adapter.layers.keys()] };
}
