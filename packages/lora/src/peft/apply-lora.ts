/** PEFT's way: adapters put on a whole model by name, and taken off again. */
import { type ModuleLike, namedModules, replaceModule } from '@lorikeet/nn';
import { type RandomKey, randomKey } from '@lorikeet/tensor';
import { loraLayers } from '../lora-layer.ts';
import { markOnlyLoraAsTrainable } from '../mark-trainable.ts';
import { type AdapterState, adapterOf, forgetAdapter, rememberAdapter, requireAdapter } from './adapter-state.ts';
import { type CompleteLoraConfig, completeLoraConfig, isBaseInit, type LoraConfig } from './lora-config.ts';
import { isLoraLinear, LoraLinear } from './lora-linear.ts';
import { copySavedModules, dropSaved, enableSaved } from './saved-modules.ts';
import { type LoraTarget, linearsOf, type ResolveOptions, resolveTargets } from './target-matching.ts';

export interface ApplyOptions extends ResolveOptions {
  /** Source of the initial lora_A; each layer folds its path into it. @defaultValue randomKey(0, 'lora') */
  readonly key?: RandomKey;
  /** false leaves lora_A zero, for values that are loaded next. @defaultValue true */
  readonly initialize?: boolean;
}

/** Every LoraLinear of a model with its path. */
export function adaptedLinears(model: ModuleLike): Map<string, LoraLinear> {
  const found = new Map<string, LoraLinear>();
  for (const [path, module] of namedModules(model)) if (isLoraLinear(module)) found.set(path, module);
  return found;
}

function wrap(
  model: ModuleLike,
  targets: readonly LoraTarget[],
  config: CompleteLoraConfig,
  { key = randomKey(0, 'lora'), initialize = true }: ApplyOptions,
): void {
  const linears = linearsOf(model);
  const made: LoraLinear[] = [];
  const placed: string[] = [];
  const { loraDropout, useRslora } = config;
  const initLoraWeights = initialize ? (config.initLoraWeights as boolean | 'gaussian') : ('zeros' as const);
  try {
    const layers = targets.map(({ path, r, loraAlpha }) => {
      const options = { r, loraAlpha, loraDropout, useRslora, initLoraWeights, key: key.fold(path) };
      const layer = new LoraLinear(linears.get(path)!, options);
      made.push(layer);
      return [path, layer] as const;
    });
    for (const [path, layer] of layers) {
      replaceModule(model, path, () => layer);
      placed.push(path);
    }
  } catch (error) {
    for (const path of placed) replaceModule(model, path, (layer) => (layer as LoraLinear).base);
    for (const layer of made) layer.disposeAdapter();
    throw error;
  }
}

/**
 * Puts a LoRA adapter on every linear that `config.targetModules` means, and freezes everything else (as PEFT's
 * get_peft_model). The model is changed in place: each target becomes a LoraLinear over the old layer, whose checkpoint keys
 * do not move; `<path>.lora_A.weight` and `<path>.lora_B.weight` stand beside them, in f32. With the default initialization
 * the model computes what it computed before, exactly.
 *
 * @throws TypeError for a wrong configuration, or an initialization that needs applyLoraAsync; Error when an entry of targetModules matches no linear (with the list of linears)
 * or the model has an adapter already. Nothing is changed then.
 */
export function applyLora(model: ModuleLike, config: LoraConfig = {}, options: ApplyOptions = {}): AdapterState {
  if (adapterOf(model))
    throw new Error(
      'applyLora: the model must have no adapter yet: it has one. Call unloadAdapter or mergeAndUnload first.',
    );
  const complete = completeLoraConfig(config);
  const { initLoraWeights: init } = complete;
  if (options.initialize !== false && (isBaseInit(init) || init === 'orthogonal'))
    throw new TypeError(
      `applyLora: initLoraWeights must be true, false or 'gaussian' in a call that does not wait: got '${init}'. Use await applyLoraAsync.`,
    );
  const { targets, unmatched } = resolveTargets(model, complete, options);
  wrap(model, targets, complete, options);
  try {
    const saved = copySavedModules(model, complete.modulesToSave);
    const state: AdapterState = { config: complete, targets, unmatched, saved };
    rememberAdapter(model, state);
    markOnlyLoraAsTrainable(model, complete.bias);
    return state;
  } catch (error) {
    unwrapLinears(model);
    throw error;
  }
}

/** Puts the base layers back and frees the adapters'. */
export function unwrapLinears(model: ModuleLike): void {
  for (const [path, layer] of adaptedLinears(model)) {
    replaceModule(model, path, () => layer.base);
    layer.disposeAdapter();
  }
}

/**
 * Takes the adapter off and frees it (PEFT's unload): the model is the base again, still frozen, but for biases that were
 * trained in place, and without what PiSSA, OLoRA or LoftQ took out of it. A merged adapter is unmerged first.
 */
export function unloadAdapter(model: ModuleLike): void {
  const { saved } = requireAdapter('unloadAdapter', model);
  for (const layer of adaptedLinears(model).values()) if (layer.merged) layer.unmerge();
  dropSaved(saved);
  unwrapLinears(model);
  forgetAdapter(model);
}

/**
 * Turns the adapters of a model on or off, those of loralib's layers too. Off, the model computes what the base computes
 * (but for biases that were trained). A merged adapter cannot be turned off.
 */
export function setAdapterEnabled(model: ModuleLike, enabled: boolean): void {
  const layers = [...loraLayers(model)];
  const merged = layers.find(([, layer]) => layer.merged && layer.r > 0);
  if (merged && !enabled)
    throw new Error(`setAdapterEnabled: the adapter must not be merged: ${merged[0]} is. Call unmergeAdapter first.`);
  for (const [, layer] of layers) layer.enabled = enabled;
  const state = adapterOf(model);
  if (state) enableSaved(state.saved, enabled);
}

const isPromise = (value: object): value is Promise<unknown> =>
  typeof (value as PromiseLike<unknown>).then === 'function';
const isIterator = (value: object): boolean => typeof (value as Iterator<unknown>).next === 'function';

/**
 * Runs `fn` with the adapter off and puts it back as it was, whether fn returns, throws or awaits (PEFT's disable_adapter). While
 * an asynchronous fn runs, the model is the base for everybody who uses it. A generator would run after fn has returned, so it is
 * refused: consume it inside fn.
 */
export function disableAdapter<T>(model: ModuleLike, fn: () => T): T {
  const enabled = [...loraLayers(model)].some(([, layer]) => layer.enabled);
  setAdapterEnabled(model, false);
  const restore = (): void => setAdapterEnabled(model, enabled);
  let waits = false;
  try {
    const result = fn();
    if (typeof result !== 'object' || result === null) return result;
    if (isIterator(result))
      throw new TypeError(
        'disableAdapter: fn must finish its work: it returned a generator. Consume it inside an async fn.',
      );
    waits = isPromise(result);
    return isPromise(result) ? (result.finally(restore) as T) : result;
  } finally {
    if (!waits) restore();
  }
}
