/** A checkpoint folder's weights quantized into another, one tensor at a time. */
import { type FileSystem, joinPath, readJson, writeJson } from '@lorikeet/files';
import type { LinearRequest, TensorSource } from '@lorikeet/nn';
import {
  convertElements,
  countNonFinite,
  openCheckpoint,
  SafetensorsError,
  type TensorEntry,
  type TensorReader,
  type WriteEntry,
  writeSharded,
} from '@lorikeet/safetensors';
import { type Backend, type DType, NonFiniteError } from '@lorikeet/tensor';
import {
  type BitsAndBytesConfig,
  bitsAndBytesFloats,
  bitsAndBytesJson,
  isQuantizedPath,
} from './bits-and-bytes-config.ts';
import { quantizedLinear } from './quantized-factory.ts';

export interface QuantizeCheckpointOptions {
  readonly backend: Backend;
  /** Paths of the model's linears; those that the configuration skips stay as they are. */
  readonly linears: Iterable<string>;
  /** Most tensor bytes in a file. @defaultValue 5e9 */
  readonly maxShardBytes?: number | undefined;
  /** Called after each tensor of the source. */
  readonly onProgress?: (progress: { readonly path: string; readonly done: number; readonly total: number }) => void;
}

/** What was written. */
export interface QuantizedCheckpoint {
  /** Names of the files, config.json last. */
  readonly files: readonly string[];
  /** Linears that were quantized. */
  readonly quantized: readonly string[];
  /** Bytes of all tensors before and after. */
  readonly bytesBefore: number;
  readonly bytesAfter: number;
}

const spoolName = '.quantized';
const chunkBytes = 4 << 20;

/** Bytes that wait on the disk for their place in a file: sizes are known only when everything is quantized. */
export class Spool {
  readonly #files: FileSystem;
  readonly #path: string;
  #size = 0;
  constructor(files: FileSystem, dir: string) {
    this.#files = files;
    this.#path = joinPath(dir, spoolName);
  }
  async add(bytes: Uint8Array): Promise<() => AsyncIterable<Uint8Array>> {
    const [files, path, start, end] = [this.#files, this.#path, this.#size, this.#size + bytes.length];
    if (bytes.length > 0) await files.append(path, bytes);
    this.#size = end;
    return async function* () {
      for (let at = start; at < end; at += chunkBytes) yield files.readRange(path, at, Math.min(chunkBytes, end - at));
    };
  }
  remove(): Promise<void> {
    return this.#files.remove(this.#path);
  }
}

/** A linear's weight as a source in a dtype that can be quantized. */
export function weightSource(reader: TensorReader, entry: TensorEntry): TensorSource {
  const { name, shape, path: file } = entry;
  const converted = (bytes: Uint8Array): Uint8Array => convertElements(entry, bytes).bytes;
  return {
    ...{ path: name, file, shape },
    dtype: (entry.dtype === 'f64' ? 'f32' : entry.dtype) as DType,
    read: async () => converted(await reader.read(name)),
    readRows: async (start, end) => converted(await reader.readRows(name, start, end)),
  };
}

/** A tensor that stays as it is, searched for NaN and infinities while it is copied. */
function copied(reader: TensorReader, { name, dtype, formatDtype, shape }: TensorEntry): WriteEntry {
  const bytes = async function* (): AsyncIterable<Uint8Array> {
    for await (const chunk of reader.chunks(name, chunkBytes)) {
      if (dtype !== 'unsupported' && countNonFinite(chunk, dtype) > 0)
        throw new NonFiniteError(
          `quantize: ${name} must be finite: it holds NaN or infinity. Download the weights again.`,
        );
      yield chunk;
    }
  };
  return { name, dtype: formatDtype, shape, bytes };
}

/** Quantizes one linear and spools its tensors. */
async function quantized(request: LinearRequest, config: BitsAndBytesConfig, spool: Spool): Promise<WriteEntry[]> {
  const factory = quantizedLinear(config);
  await factory.check?.([request]);
  const layer = await factory(request);
  const tensors = [...layer.stateEntries()];
  const entries: WriteEntry[] = [];
  try {
    for (const [below, t] of tensors) {
      const bytes = await spool.add(await t.bytes());
      entries.push({ name: `${request.path}.${below}`, dtype: t.dtype, shape: t.shape, bytes });
    }
    return entries;
  } finally {
    for (const [, t] of tensors) t.dispose();
  }
}

/** config.json of the source; refuses a model that is quantized already. */
async function readConfig(files: FileSystem, dir: string): Promise<Readonly<Record<string, unknown>>> {
  const path = joinPath(dir, 'config.json');
  const json = (await readJson(files, path)) as Readonly<Record<string, unknown>>;
  if (json.quantization_config !== undefined)
    throw new SafetensorsError(
      path,
      `${path}: the model must not be quantized yet: it has a quantization_config. Start from the 16-bit model.`,
    );
  return json;
}

/**
 * Writes the weights of a model folder quantized, in bitsandbytes' form, with a config.json that says so: transformers and
 * this package load the result. Peak memory is one quantized tensor and a block of rows; packed bytes wait in a file in `to`,
 * which needs room for them twice.
 *
 * @param to a folder without weights: the draft of writeDirectoryAtomic, so that a failure leaves nothing
 * @throws NonFiniteError that names a weight with NaN or infinity; SafetensorsError, FileError
 */
export async function quantizeCheckpoint(
  files: FileSystem,
  from: string,
  to: string,
  config: BitsAndBytesConfig,
  { backend, linears, maxShardBytes, onProgress }: QuantizeCheckpointOptions,
): Promise<QuantizedCheckpoint> {
  const json = await readConfig(files, from);
  const reader = await openCheckpoint(files, from);
  const wanted = new Set([...linears].filter((path) => isQuantizedPath(path, config)));
  for (const path of wanted) reader.entry(`${path}.weight`); // each must be there before one is read
  const spool = new Spool(files, to);
  const entries: WriteEntry[] = [];
  const done: string[] = [];
  let count = 0;
  for (const [name, entry] of reader.entries) {
    const path = name.replace(/\.weight$/, '');
    if (path !== name && wanted.has(path)) {
      const [outFeatures = 0, inFeatures = 0] = entry.shape;
      const weight = weightSource(reader, reader.entry(name));
      entries.push(...(await quantized({ path, inFeatures, outFeatures, bias: null, weight, backend }, config, spool)));
      done.push(path);
    } else entries.push(copied(reader, entry));
    onProgress?.({ path: name, done: ++count, total: reader.entries.size });
  }
  const sharding = maxShardBytes === undefined ? {} : { maxShardBytes };
  const written = await writeSharded(files, to, entries, { ...sharding, metadata: { format: 'pt' } });
  await spool.remove();
  const stated = { ...json, quantization_config: bitsAndBytesJson(config) };
  await writeJson(files, joinPath(to, 'config.json'), stated, { floatKeys: bitsAndBytesFloats });
  const sum = (sizes: Iterable<number>): number => [...sizes].reduce((total, size) => total + size, 0);
  const after = await openCheckpoint(files, to);
  return {
    files: [...written, 'config.json'],
    quantized: done,
    bytesBefore: sum([...reader.entries.values()].map((e) => e.byteLength)),
    bytesAfter: sum([...after.entries.values()].map((e) => e.byteLength)),
  };
}
