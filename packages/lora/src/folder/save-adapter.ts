import { FileError, type FileSystem, joinPath, manifestName, writeAtomic, writeDirectoryAtomic } from '@lorikeet/files';
import type { ModuleLike } from '@lorikeet/nn';
import { type WriteEntry, writeSafetensors } from '@lorikeet/safetensors';
import { decode, NonFiniteError } from '@lorikeet/tensor';
import { type AdapterState, requireAdapter } from '../peft/adapter-state.ts';
import { adaptedLinears } from '../peft/apply-lora.ts';
import type { CompleteLoraConfig } from '../peft/lora-config.ts';
import { isRequantizable } from '../requantizing-merger.ts';
import { adapterConfigJson } from './adapter-config-json.ts';
import { type AdapterTensor, adapterTensors } from './adapter-tensors.ts';
import { modelCard } from './model-card.ts';
import { plainA, plainB, plainConfig } from './plain-lora.ts';

/** File names of PEFT's folder. */
export const adapterConfigName = 'adapter_config.json';
export const adapterWeightsName = 'adapter_model.safetensors';
/** First values of lora_A and lora_B where the base lacks them, beside an adapter that is saved as it is trained. PEFT passes it over. */
export const initialAdapterName = 'initial_adapter.safetensors';
const readmeName = 'README.md';
/** Where transformers looks for a chat template. */
export const chatTemplateName = 'chat_template.jinja';

export interface WriteAdapterOptions {
  /** Written to adapter_config.json so that Python finds the base. @defaultValue the configuration's */
  readonly baseModelNameOrPath?: string;
  /** Write an adapter whose every update is zero, as it is before the first step. @defaultValue false: an error */
  readonly allowZero?: boolean;
  /** The chat template it was trained with, where that is not the base's own: written beside it as chat_template.jinja, as TRL does. */
  readonly chatTemplate?: string | undefined;
  /**
   * Where PiSSA or OLoRA took first values out of the base: write plain LoRA of twice the rank, which fits the original base, in Python
   * too (PEFT's path_initial_model_for_weight_conversion). false writes the adapter as it is trained, and initial_adapter.safetensors
   * beside it. LoftQ is always written as it is trained: its base is the quantized one. @defaultValue true
   */
  readonly convertToLora?: boolean;
}

export interface SaveAdapterOptions extends WriteAdapterOptions {
  /** Replace an adapter folder that is there; a folder that holds anything else is never replaced. @defaultValue false */
  readonly overwrite?: boolean;
}

const loraName = /^(.*)\.lora_([AB])\.weight$/;
const sameBytes = (x: Uint8Array, y: Uint8Array): boolean => x.length === y.length && x.every((v, i) => v === y[i]);

/** A tensor of the adapter, read back and found finite. */
interface CheckedTensor extends AdapterTensor {
  readonly bytes: Uint8Array;
}

async function checkedTensors(model: ModuleLike, state: AdapterState): Promise<CheckedTensor[]> {
  const checked: CheckedTensor[] = [];
  for (const found of adapterTensors(model, state)) {
    const { path, tensor } = found;
    const bytes = await tensor.bytes();
    const values = decode(bytes, tensor.dtype);
    const bad = values.findIndex((value: number) => !Number.isFinite(value));
    if (bad >= 0)
      throw new NonFiniteError(
        `saveAdapter: every number must be finite: ${path} holds ${values[bad]} at element ${bad}. Training has diverged; use an earlier checkpoint or a lower learning rate. Nothing was written.`,
      );
    checked.push({ ...found, bytes });
  }
  return checked;
}

/** Refuses an adapter that changes nothing: every update is zero, or still what was taken out of the base. */
function requireChange(
  tensors: readonly CheckedTensor[],
  { state, plain }: { state: AdapterState; plain: boolean },
): void {
  if (state.saved.length > 0 || state.config.bias !== 'none') return;
  const count = new Map<string, number>();
  for (const { path, bytes } of tensors) {
    const [, layer = '', factor = ''] = loraName.exec(path) ?? [];
    const first = plain ? state.initial?.get(layer) : undefined;
    // An update changes something where neither factor is zero or, beside first values, where one has moved.
    const changes = first
      ? !sameBytes(bytes, factor === 'A' ? first.a : first.b)
      : decode(bytes, 'f32').some((v: number) => v !== 0);
    if (changes) count.set(layer, (count.get(layer) ?? 0) + (first ? 2 : 1));
  }
  if ([...count.values()].some((factors) => factors >= 2)) return;
  throw new Error(
    'saveAdapter: the adapter must change something: every update B A is zero, so it was not trained. Train it, or pass allowZero: true. Nothing was written.',
  );
}

/** One tensor of the plain adapter: both factors twice as wide, all else as it is. */
function plainEntry({ key, path, tensor, bytes }: CheckedTensor, state: AdapterState): WriteEntry {
  const { dtype, shape } = tensor;
  const [, layer = '', factor = ''] = loraName.exec(path) ?? [];
  const first = state.initial?.get(layer);
  if (!first) return { name: key, dtype, shape, bytes };
  const [rows, columns] = shape as [number, number];
  return factor === 'A'
    ? { name: key, dtype, shape: [2 * rows, columns], bytes: plainA(bytes, first) }
    : { name: key, dtype, shape: [rows, 2 * columns], bytes: plainB(bytes, first, columns) };
}

/** Key in the metadata of initial_adapter.safetensors: what the adapter began from. */
export const initMetadata = 'init';

/**
 * LoftQ without alternation on a quantized base: the base is what quantizing makes of the weights anyway, and the adapter is plain LoRA
 * for it. It is written as that, because PEFT would begin anew from a configuration that says loftq.
 */
const isPlainOnQuantized = (model: ModuleLike, { initLoraWeights, loftqConfig }: CompleteLoraConfig): boolean =>
  initLoraWeights === 'loftq' &&
  loftqConfig.loftqIter === 1 &&
  [...adaptedLinears(model).values()].every(({ base }) => isRequantizable(base));

/** The first values under the names that the trained ones have. */
const initialEntries = (tensors: readonly CheckedTensor[], state: AdapterState): WriteEntry[] =>
  tensors.flatMap(({ key, path, tensor: { dtype, shape } }) => {
    const [, layer = '', factor = ''] = loraName.exec(path) ?? [];
    const first = state.initial?.get(layer);
    return first ? [{ name: key, dtype, shape, bytes: factor === 'A' ? first.a : first.b }] : [];
  });

/**
 * Writes adapter_model.safetensors, adapter_config.json, README.md and, where one is given, chat_template.jinja into a directory that is there, each file atomically.
 * For a folder of its own use saveAdapter; this is for a part of something larger (a checkpoint that is written as a whole).
 */
export async function writeAdapterFiles(
  files: FileSystem,
  dir: string,
  model: ModuleLike,
  { baseModelNameOrPath, allowZero = false, chatTemplate, convertToLora = true }: WriteAdapterOptions = {},
): Promise<void> {
  const state = requireAdapter('saveAdapter', model);
  const base = baseModelNameOrPath === undefined ? state.config : { ...state.config, baseModelNameOrPath };
  const tookFromBase = state.initial !== undefined && base.initLoraWeights !== 'loftq';
  const plain = tookFromBase && convertToLora;
  const forQuantized = isPlainOnQuantized(model, base);
  const config = plain ? plainConfig(base) : forQuantized ? { ...base, initLoraWeights: true } : base;
  const tensors = await checkedTensors(model, state);
  if (!allowZero) requireChange(tensors, { state, plain });
  const entries = tensors.map((found) =>
    plain
      ? plainEntry(found, state)
      : { name: found.key, dtype: found.tensor.dtype, shape: found.tensor.shape, bytes: found.bytes },
  );
  await writeSafetensors(files, joinPath(dir, adapterWeightsName), entries, { format: 'pt' });
  if (state.initial && !plain && (tookFromBase || forQuantized))
    await writeSafetensors(files, joinPath(dir, initialAdapterName), initialEntries(tensors, state), {
      [initMetadata]: JSON.stringify({ initLoraWeights: base.initLoraWeights, loftqConfig: base.loftqConfig }),
    });
  await writeAtomic(files, joinPath(dir, adapterConfigName), adapterConfigJson(config, state.targets));
  await writeAtomic(files, joinPath(dir, readmeName), modelCard(config, state.targets));
  if (chatTemplate !== undefined) await writeAtomic(files, joinPath(dir, chatTemplateName), chatTemplate);
}

/** What stands at the target must be nothing, an empty directory, or (with overwrite) an adapter folder and nothing else. */
async function checkTarget(files: FileSystem, dir: string, overwrite: boolean): Promise<void> {
  const kind = await files.kind(dir);
  if (kind === undefined) return;
  if (kind === 'file') throw new FileError('ENOTDIR', dir, `saveAdapter: ${dir} must be a directory: it is a file.`);
  const names = await files.list(dir);
  if (names.length === 0) return;
  const ours = new Set([
    adapterConfigName,
    adapterWeightsName,
    initialAdapterName,
    readmeName,
    chatTemplateName,
    manifestName,
  ]);
  const foreign = names.filter((name) => !ours.has(name));
  if (foreign.length > 0)
    throw new FileError(
      'EEXIST',
      dir,
      `saveAdapter: ${dir} must be new or hold an adapter alone: it holds ${foreign.slice(0, 5).join(', ')}. Choose another directory.`,
    );
  if (!overwrite)
    throw new FileError(
      'EEXIST',
      dir,
      `saveAdapter: ${dir} must not exist yet: an adapter is there. Pass overwrite: true to replace it.`,
    );
}

/**
 * Writes the adapter of a model as a folder that PEFT reads: adapter_model.safetensors (keys `base_model.model.<path>.lora_A.weight`,
 * f32), adapter_config.json and README.md, and our MANIFEST.json with their hashes. The folder is complete or not there at all.
 *
 * @throws NonFiniteError or Error when the adapter holds NaN or changes nothing; FileError when something stands at `dir` or the
 * disk fails
 */
export async function saveAdapter(
  files: FileSystem,
  dir: string,
  model: ModuleLike,
  { overwrite = false, ...options }: SaveAdapterOptions = {},
): Promise<void> {
  requireAdapter('saveAdapter', model);
  await checkTarget(files, dir, overwrite);
  // writeDirectoryAtomic exchanges what is there, an empty directory too.
  await writeDirectoryAtomic(files, dir, (draft) => writeAdapterFiles(files, draft, model, options));
}
