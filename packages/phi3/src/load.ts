import { type FileSystem, joinPath, readJson } from '@lorikeet/files';
import type { LinearFactory, TensorSource } from '@lorikeet/nn';
import {
  convertElements,
  countNonFinite,
  openCheckpoint,
  type TensorEntry,
  type TensorReader,
} from '@lorikeet/safetensors';
import type { Backend, DType } from '@lorikeet/tensor';
import { buildPhi3 } from './build.ts';
import { type Phi3Config, Phi3ConfigError, readPhi3Config } from './config.ts';
import type { NonFiniteWeight, Phi3ForCausalLM } from './model.ts';
import { phi3Linears, phi3Tensors } from './tensors.ts';

/** Where the model is loaded and how its weights are stored. */
export interface LoadPhi3Options {
  readonly backend: Backend;
  /**
   * Makes the linear layers, for example quantized ones. Default: dense, in the stored dtype. A quantized checkpoint needs
   * one that knows its form; such a factory checks the tensors of the linears itself.
   */
  readonly linear?: LinearFactory;
  /** Convert weights to this dtype. Default: as they are stored. */
  readonly dtype?: DType;
  /** Whether weights start with requiresGrad. Default false. */
  readonly trainable?: boolean;
  /** Called after each weight. */
  readonly onProgress?: (progress: { readonly path: string; readonly loaded: number; readonly total: number }) => void;
  /** Gets a sentence for each weight with NaN or infinities, which also stand in the model's nonFiniteWeights. Default console.warn. */
  readonly warn?: (message: string) => void;
}

const loadable = new Set(['f32', 'f16', 'bf16', 'f64']);
/** Buffers of transformers before 4.35, computed here. */
const ignored = /^model\.layers\.\d+\.self_attn\.rotary_emb\.inv_freq$/;

/** Tensors beside the weights of linears, as quantizers leave them: linear -> name below it -> name in the checkpoint. */
function companionNames(config: Phi3Config, names: Iterable<string>): Map<string, Map<string, string>> {
  const found = new Map(phi3Linears(config).map((path) => [path, new Map<string, string>()]));
  for (const name of names) {
    const [, linear = '', rest = ''] = /^(.*?(?:_proj|lm_head))\.(.+)$/.exec(name) ?? [];
    if (rest !== 'weight' && rest !== 'bias') found.get(linear)?.set(rest, name);
  }
  return found;
}

/**
 * Everything in which a checkpoint differs from what the configuration says, by name.
 * @param byFactory names below which the linear factory checks for itself; their weights need only be there
 */
function problemsOf(
  config: Phi3Config,
  entries: ReadonlyMap<string, TensorEntry>,
  byFactory: ReadonlySet<string>,
): string[] {
  const expected = phi3Tensors(config);
  const problems: string[] = [];
  for (const [path, shape] of expected) {
    const entry = entries.get(path);
    if (!entry) problems.push(`${path}: missing, expected [${shape}]`);
    else if (byFactory.has(path)) continue;
    else if (`${entry.shape}` !== `${shape}`) problems.push(`${path}: expected [${shape}], found [${entry.shape}]`);
    else if (!loadable.has(entry.dtype))
      problems.push(`${path}: expected BF16, F16 or F32, found ${entry.formatDtype}`);
  }
  for (const path of entries.keys())
    if (
      !expected.has(path) &&
      !byFactory.has(path) &&
      !ignored.test(path) &&
      !(config.tieWordEmbeddings && path === 'lm_head.weight')
    )
      problems.push(`${path}: not a tensor of this configuration`);
  return problems;
}

function checkTensors(config: Phi3Config, reader: TensorReader, byFactory: ReadonlySet<string>): void {
  const problems = problemsOf(config, reader.entries, byFactory);
  if (problems.length === 0) return;
  const shown = problems.slice(0, 20);
  if (problems.length > shown.length) shown.push(`... and ${problems.length - shown.length} more`);
  throw new Phi3ConfigError(
    `${reader.path}: weights must fit config.json: ${problems.length} ${problems.length === 1 ? 'tensor does' : 'tensors do'} not:\n  ${shown.join('\n  ')}\nUse config.json and weights of one model.`,
  );
}

/** A tensor of a checkpoint as a source; what was read whole is also searched for NaN and infinities. */
function fileSource(
  reader: TensorReader,
  path: string,
  inspect: (bytes: Uint8Array, dtype: DType) => void,
): TensorSource {
  const entry = reader.entry(path);
  const dtype = (entry.dtype === 'f64' ? 'f32' : entry.dtype) as DType;
  return {
    path,
    file: entry.path,
    dtype,
    shape: entry.shape,
    read: async () => {
      const { bytes } = convertElements(entry, await reader.read(path));
      inspect(bytes, dtype);
      return bytes;
    },
    readRows: async (start, end) => convertElements(entry, await reader.readRows(path, start, end)).bytes,
    release: detach,
  };
}

/** Frees the memory of bytes that nobody else has. */
function detach({ buffer, byteOffset, byteLength }: Uint8Array): void {
  if (byteOffset === 0 && byteLength === buffer.byteLength) (buffer as Partial<ArrayBuffer>).transfer?.(0);
}

/** Every tensor of the linears. */
const namesOf = (companions: ReadonlyMap<string, ReadonlyMap<string, string>>): Set<string> =>
  new Set([...companions].flatMap(([path, names]) => [`${path}.weight`, ...names.values()]));

/** Without a factory that knows its form, a quantized checkpoint cannot be read. */
function refuseQuantized(
  config: Phi3Config,
  reader: TensorReader,
  companions: ReadonlyMap<string, ReadonlyMap<string, string>>,
): void {
  const [name] = [...companions.values()].flatMap((names) => [...names.values()]);
  const stated = config.source.quantization_config !== undefined && 'config.json has a quantization_config';
  const why = name ? `it holds ${name}` : stated;
  if (why)
    throw new Phi3ConfigError(
      `${reader.path}: the checkpoint must be dense: ${why}. Load it with linear: quantizedLinear(...) of @lorikeet/lora.`,
    );
}

const article = (count: number): string => `${count} value${count === 1 ? '' : 's'}`;

/** Stop tokens of generation_config.json, or null when the file or the key is not there. */
async function readStopTokenIds(files: FileSystem, dir: string, vocabSize: number): Promise<readonly number[] | null> {
  const path = joinPath(dir, 'generation_config.json');
  if ((await files.kind(path)) !== 'file') return null;
  const json = await readJson(files, path);
  const value =
    json !== null && typeof json === 'object' && Object.hasOwn(json, 'eos_token_id')
      ? (json as Record<string, unknown>).eos_token_id
      : null;
  if (value === null) return null;
  const ids = Array.isArray(value) ? value : [value];
  if (ids.every((id) => Number.isInteger(id) && id >= 0 && id < vocabSize)) return ids as number[];
  throw new Phi3ConfigError(
    `${path}: eos_token_id: expected ids below vocab_size ${vocabSize}, found ${JSON.stringify(value)}. Correct the file or remove it.`,
  );
}

/**
 * Loads a model folder in Hugging Face's form: config.json, generation_config.json if there, and the weights in
 * safetensors, streamed tensor by tensor. All names, shapes and dtypes are checked before the first weight is read. The
 * model is in eval mode, as from_pretrained leaves it. With a quantizing `linear` each weight is packed while it streams in,
 * and a checkpoint that is quantized already is taken as it is.
 * @throws Phi3ConfigError, SafetensorsError, FileError, FormatError
 */
export async function loadPhi3(files: FileSystem, dir: string, options: LoadPhi3Options): Promise<Phi3ForCausalLM> {
  const { backend, linear, dtype, trainable, onProgress, warn = (message: string) => console.warn(message) } = options;
  const config = await readPhi3Config(files, dir);
  const stopTokenIds = await readStopTokenIds(files, dir, config.vocabSize);
  const reader = await openCheckpoint(files, dir);
  const companions = companionNames(config, reader.entries.keys());
  if (linear === undefined) refuseQuantized(config, reader, companions);
  checkTensors(config, reader, linear?.check ? namesOf(companions) : new Set());
  const packed = new Set([...companions].flatMap(([path, { size }]) => (size > 0 ? [`${path}.weight`] : [])));
  const counts = new Map<string, number>();
  const total = phi3Tensors(config).size;
  let loaded = 0;
  const source = (path: string): TensorSource =>
    fileSource(reader, path, (bytes, stored) => {
      // Packed weights may be stored under a float dtype, and are none.
      const found = packed.has(path) ? 0 : countNonFinite(bytes, stored);
      if (found > 0) counts.set(path, (counts.get(path) ?? 0) + found);
    });
  const model = await buildPhi3(config, source, {
    ...{ backend, linear, dtype, trainable },
    companionsOf: (path) => new Map([...companions.get(path)!].map(([below, name]) => [below, source(name)])),
    onMade: (path) => onProgress?.({ path, loaded: ++loaded, total }),
  });
  const nonFinite: NonFiniteWeight[] = [...counts].map(([path, count]) => ({ path, count }));
  for (const { path, count } of nonFinite)
    warn(`${dir}: ${path} holds ${article(count)} that are NaN or infinite. Download the weights again.`);
  model.nonFiniteWeights = nonFinite;
  if (stopTokenIds) model.stopTokenIds = stopTokenIds;
  return model.eval();
}
