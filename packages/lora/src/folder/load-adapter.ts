import { FileError, type FileSystem, joinPath, readJson } from '@lorikeet/files';
import { copyInto, type ModuleLike, namedParameters, type StateSource, setTraining } from '@lorikeet/nn';
import { convertElements, openSafetensors, type TensorReader } from '@lorikeet/safetensors';
import { decode, isFloat, NonFiniteError, type Tensor } from '@lorikeet/tensor';
import { type AdapterState, adapterOf, type InitialPair, rememberAdapter } from '../peft/adapter-state.ts';
import { adaptedLinears, applyLora, unloadAdapter } from '../peft/apply-lora.ts';
import { type OriginalWeights, restoreBase } from '../peft/apply-lora-async.ts';
import { isBaseInit, type LoraConfig } from '../peft/lora-config.ts';
import { parseLoraConfig } from '../peft/parse-lora-config.ts';
import { type AdapterTensor, adapterTensors, keyPrefix, pathOfKey } from './adapter-tensors.ts';
import { adapterConfigName, adapterWeightsName, initialAdapterName, initMetadata } from './save-adapter.ts';

export interface LoadAdapterOptions {
  /** Mark the adapter trainable, to go on training (PEFT's is_trainable). @defaultValue false: everything is frozen */
  readonly trainable?: boolean;
  /** The weights from before quantization, for an adapter that LoftQ began in several alternations; see applyLoraAsync. */
  readonly originalWeights?: OriginalWeights;
  /** The base that is loaded; a warning when the adapter was made for another. */
  readonly baseModelNameOrPath?: string;
}

export interface LoadedAdapter extends AdapterState {
  /** What a person should know: unknown options, target names that match nothing, another base. */
  readonly warnings: readonly string[];
}

// Initializations that only choose first values, which the file replaces. Others have changed the base too: PiSSA, OLoRA and LoftQ are done
// again, as PEFT does; CorDA and LoRA-GA cannot be.
const harmlessInits: ReadonlySet<unknown> = new Set(['gaussian', 'eva', 'orthogonal', 'mica', false]);

/** The configuration in adapter_config.json. Initializations that only chose first values are taken as plain ones. */
export async function readConfig(files: FileSystem, dir: string): Promise<ReturnType<typeof parseLoraConfig>> {
  const path = joinPath(dir, adapterConfigName);
  if (!(await files.exists(path)))
    throw new FileError(
      'ENOENT',
      path,
      `loadAdapter: ${dir} must hold ${adapterConfigName}: it does not. Give the folder that PEFT or saveAdapter wrote.`,
    );
  const json = await readJson(files, path);
  const harmless =
    typeof json === 'object' && json !== null && harmlessInits.has((json as Record<string, unknown>).init_lora_weights);
  const parsed = parseLoraConfig(harmless ? { ...json, init_lora_weights: true } : json, { source: path });
  // Written for PEFT as plain LoRA on a quantized base: what it began from stands beside it.
  const init = (await openInitial(files, dir))?.metadata.get(initMetadata);
  return init === undefined ? parsed : { ...parsed, config: { ...parsed.config, ...beginningOf(init, path) } };
}

/** initLoraWeights and, for LoftQ, its options, as saveAdapter noted them. */
function beginningOf(json: string, source: string): Pick<LoraConfig, 'initLoraWeights' | 'loftqConfig'> {
  const { initLoraWeights, loftqConfig } = JSON.parse(json) as LoraConfig;
  const begun = initLoraWeights === 'loftq' ? { initLoraWeights, loftqConfig } : { initLoraWeights };
  return parseLoraConfig(begun, { source: `${source}: ${initialAdapterName}` }).config;
}

/** adapter_model.safetensors; a pickle is refused. */
export async function openWeights(files: FileSystem, dir: string): Promise<TensorReader> {
  const path = joinPath(dir, adapterWeightsName);
  if (await files.exists(path)) return openSafetensors(files, path);
  if (await files.exists(joinPath(dir, 'adapter_model.bin')))
    throw new FileError(
      'EINVAL',
      path,
      `loadAdapter: ${dir} must hold ${adapterWeightsName}: it holds adapter_model.bin, a Python pickle, which can run any program when it is opened and is never read here. In Python: PeftModel.from_pretrained(base, dir).save_pretrained(dir2).`,
    );
  throw new FileError('ENOENT', path, `loadAdapter: ${dir} must hold ${adapterWeightsName}: it does not.`);
}

interface Pairing {
  readonly tensor: Tensor;
  readonly key: string;
}

/** Pairs the file's tensors with the model's; every mismatch of names, shapes and dtypes in one error. */
function pair(reader: TensorReader, expected: readonly AdapterTensor[]): Pairing[] {
  const keys = new Map([...reader.entries.keys()].map((key) => [pathOfKey(key), key]));
  const problems: string[] = [];
  const pairs: Pairing[] = [];
  for (const { path, tensor } of expected) {
    const key = keys.get(path);
    keys.delete(path);
    if (key === undefined) {
      problems.push(`${path}: missing in the file`);
      continue;
    }
    const entry = reader.entries.get(key)!;
    if (`${entry.shape}` !== `${tensor.shape}`)
      problems.push(`${path}: the model needs [${tensor.shape}], the file has [${entry.shape}]`);
    else if (!['f32', 'f16', 'bf16', 'f64'].includes(entry.dtype))
      problems.push(`${path}: must be floats, the file has ${entry.formatDtype}`);
    else pairs.push({ tensor, key });
  }
  for (const key of keys.values()) problems.push(`${key}: the model has no such place`);
  if (problems.length)
    throw new Error(
      `loadAdapter: the adapter must fit the model: ${problems.length} of its tensors ${problems.length === 1 ? 'does' : 'do'} not:\n  ${problems.join('\n  ')}\nUse the base that the adapter was made for.`,
    );
  return pairs;
}

type Source = Extract<StateSource, { readonly bytes: Uint8Array }>;

/** A tensor of floats that is finite. */
export async function readSource(reader: TensorReader, key: string): Promise<Source> {
  const entry = reader.entry(key);
  const { dtype, bytes } = convertElements(entry, await reader.read(key));
  if (dtype !== 'f32' && dtype !== 'f16' && dtype !== 'bf16')
    throw new TypeError(`loadAdapter: ${key} must be floats: got ${dtype}.`);
  const bad = decode(bytes, dtype).find((value: number) => !Number.isFinite(value));
  if (bad !== undefined)
    throw new NonFiniteError(
      `loadAdapter: every number must be finite: ${key} in ${reader.path} holds ${bad}. The adapter is damaged; use another checkpoint.`,
    );
  return { dtype, shape: entry.shape, bytes };
}

/** initial_adapter.safetensors, where it is there. */
export async function openInitial(files: FileSystem, dir: string): Promise<TensorReader | undefined> {
  const path = joinPath(dir, initialAdapterName);
  return (await files.exists(path)) ? openSafetensors(files, path) : undefined;
}

/** The first values that an adapter took out of its base, where they were kept beside it. */
async function readInitial(files: FileSystem, dir: string, model: ModuleLike): Promise<AdapterState['initial']> {
  const reader = await openInitial(files, dir);
  if (!reader) return undefined;
  const pairs = new Map<string, InitialPair>();
  for (const [layer, { lora_A, lora_B }] of adaptedLinears(model)) {
    const read = async (factor: string, like: Tensor): Promise<Uint8Array> => {
      const source = await readSource(reader, `${keyPrefix}${layer}.lora_${factor}.weight`);
      if (source.dtype !== 'f32' || `${source.shape}` !== `${like.shape}`)
        throw new Error(
          `loadAdapter: ${reader.path} must hold the first values of ${adapterWeightsName}: lora_${factor} of ${layer} is [${source.shape}] ${source.dtype}, not [${like.shape}] f32.`,
        );
      return source.bytes;
    };
    pairs.set(layer, { a: await read('A', lora_A.weight), b: await read('B', lora_B.weight) });
  }
  return pairs;
}

function warningsOf(
  unknownKeys: readonly string[],
  { unmatched, config, initial }: AdapterState,
  { base, kept }: { readonly base: string | undefined; readonly kept: boolean },
): string[] {
  const warnings: string[] = [];
  if (initial && !kept && /niter/.test(String(config.initLoraWeights)))
    warnings.push(
      `init_lora_weights ${config.initLoraWeights}: the random decomposition was done again, and the base may differ a little from the one that was trained. Save such an adapter converted to plain LoRA`,
    );
  const made = config.baseModelNameOrPath;
  if (unknownKeys.length) warnings.push(`adapter_config.json: unknown options are ignored: ${unknownKeys.join(', ')}`);
  if (unmatched.length)
    warnings.push(`target_modules: ${unmatched.join(', ')} match no linear of this model and never did anything`);
  if (base !== undefined && made !== undefined && made !== base)
    warnings.push(`the adapter was made for ${made}, and the base is ${base}`);
  return warnings;
}

/**
 * Puts an adapter that PEFT or saveAdapter wrote on a base model: reads adapter_config.json, applies LoRA, loads the tensors.
 * As in PEFT, a target name that matches nothing is passed over (there it is silent, here a warning) while others match.
 *
 * An adapter of PiSSA, OLoRA or LoftQ that was not converted changes the base as its training did, from initial_adapter.safetensors or
 * by the same decomposition.
 *
 * @throws TypeError for an option we do not have; Error with all tensors that do not fit and both their shapes; FileError,
 * SafetensorsError or NonFiniteError for the file. The model then has no adapter and the values it had (all of it frozen).
 */
export async function loadAdapter(
  files: FileSystem,
  dir: string,
  model: ModuleLike,
  { trainable = false, baseModelNameOrPath, originalWeights }: LoadAdapterOptions = {},
): Promise<LoadedAdapter> {
  if (adapterOf(model))
    throw new Error(
      'loadAdapter: the model must have no adapter yet: it has one. Call unloadAdapter or mergeAndUnload first.',
    );
  const { config, unknownKeys } = await readConfig(files, dir);
  const reader = await openWeights(files, dir);
  let state = applyLora(model, config, { unmatched: 'ignore', initialize: false });
  let kept: AdapterState['initial'];
  try {
    const pairs = pair(reader, adapterTensors(model, state));
    // All is read before the first is written: trained biases go into the base's own tensors.
    const sources = new Map<Tensor, Source>();
    for (const { tensor, key } of pairs) sources.set(tensor, await readSource(reader, key));
    if (isBaseInit(config.initLoraWeights)) {
      if (config.initLoraWeights !== 'loftq') kept = await readInitial(files, dir, model);
      state = await restoreBase(model, state, kept, { originalWeights });
      rememberAdapter(model, state);
    }
    for (const [tensor, source] of sources) copyInto(tensor, source);
  } catch (error) {
    unloadAdapter(model);
    throw error;
  }
  if (!trainable)
    for (const { tensor } of namedParameters(model)) if (isFloat(tensor.dtype)) tensor.requiresGrad = false;
  if (!trainable) setTraining(model, false);
  return {
    ...state,
    warnings: warningsOf(unknownKeys, state, { base: baseModelNameOrPath, kept: kept !== undefined }),
  };
}
