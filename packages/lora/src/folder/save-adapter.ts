import { FileError, type FileSystem, joinPath, manifestName, writeAtomic, writeDirectoryAtomic } from '@lorikeet/files';
import type { ModuleLike } from '@lorikeet/nn';
import { type WriteEntry, writeSafetensors } from '@lorikeet/safetensors';
import { decode, NonFiniteError } from '@lorikeet/tensor';
import { type AdapterState, requireAdapter } from '../peft/adapter-state.ts';
import { adapterConfigJson } from './adapter-config-json.ts';
import { adapterTensors } from './adapter-tensors.ts';
import { modelCard } from './model-card.ts';

/** File names of PEFT's folder. */
export const adapterConfigName = 'adapter_config.json';
export const adapterWeightsName = 'adapter_model.safetensors';
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
}

export interface SaveAdapterOptions extends WriteAdapterOptions {
  /** Replace an adapter folder that is there; a folder that holds anything else is never replaced. @defaultValue false */
  readonly overwrite?: boolean;
}

/** Reads the adapter back and refuses one that holds NaN or infinity, or changes nothing. */
async function checkedEntries(model: ModuleLike, state: AdapterState, allowZero: boolean): Promise<WriteEntry[]> {
  const entries: WriteEntry[] = [];
  const changing = new Map<string, number>();
  for (const { path, key, tensor } of adapterTensors(model, state)) {
    const bytes = await tensor.bytes();
    const values = decode(bytes, tensor.dtype);
    const bad = values.findIndex((value: number) => !Number.isFinite(value));
    if (bad >= 0)
      throw new NonFiniteError(
        `saveAdapter: every number must be finite: ${path} holds ${values[bad]} at element ${bad}. Training has diverged; use an earlier checkpoint or a lower learning rate. Nothing was written.`,
      );
    const layer = path.replace(/\.lora_[AB]\.weight$/, '');
    if (values.some((value: number) => value !== 0)) changing.set(layer, (changing.get(layer) ?? 0) + 1);
    entries.push({ name: key, dtype: tensor.dtype, shape: tensor.shape, bytes });
  }
  // An update changes something where both of its factors do; a saved bias or module always may.
  const changes = (path: string): boolean => (changing.get(path) ?? 0) >= 2;
  if (
    !allowZero &&
    state.saved.length === 0 &&
    state.config.bias === 'none' &&
    !state.targets.some(({ path }) => changes(path))
  )
    throw new Error(
      'saveAdapter: the adapter must change something: every update B A is zero, so it was not trained. Train it, or pass allowZero: true. Nothing was written.',
    );
  return entries;
}

/**
 * Writes adapter_model.safetensors, adapter_config.json, README.md and, where one is given, chat_template.jinja into a directory that is there, each file atomically.
 * For a folder of its own use saveAdapter; this is for a part of something larger (a checkpoint that is written as a whole).
 */
export async function writeAdapterFiles(
  files: FileSystem,
  dir: string,
  model: ModuleLike,
  { baseModelNameOrPath, allowZero = false, chatTemplate }: WriteAdapterOptions = {},
): Promise<void> {
  const state = requireAdapter('saveAdapter', model);
  const config = baseModelNameOrPath === undefined ? state.config : { ...state.config, baseModelNameOrPath };
  const entries = await checkedEntries(model, state, allowZero);
  await writeSafetensors(files, joinPath(dir, adapterWeightsName), entries, { format: 'pt' });
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
  const ours = new Set([adapterConfigName, adapterWeightsName, readmeName, chatTemplateName, manifestName]);
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
