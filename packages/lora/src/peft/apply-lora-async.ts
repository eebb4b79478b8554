/** applyLora for every initialization, those that read the base's weights too. */
import { copyInto, type LinearLike, type ModuleLike } from '@lorikeet/nn';
import { fromBytes, noGrad, normal, type RandomKey, randomKey, scope, type Tensor, writeRows } from '@lorikeet/tensor';
import { isRequantizable } from '../requantizing-merger.ts';
import { WeightMerger } from '../weight-merger.ts';
import { type AdapterState, type InitialPair, rememberAdapter } from './adapter-state.ts';
import { type ApplyOptions, adaptedLinears, applyLora, unloadAdapter } from './apply-lora.ts';
import {
  decompose,
  disposeFactors,
  type InitialFactors,
  orthogonalFactors,
  type Rounding,
  roundingOf,
  roundTrip,
  without,
} from './base-initialization.ts';
import { type CompleteLoraConfig, completeLoraConfig, isBaseInit, type LoraConfig } from './lora-config.ts';
import type { LoraLinear } from './lora-linear.ts';

/** The weight [out, in] of a layer in floats, by the layer's path; the caller frees it. */
export type OriginalWeights = (path: string) => Tensor | Promise<Tensor>;

export interface ApplyAsyncOptions extends ApplyOptions {
  /**
   * The weights as they were before they were quantized: LoftQ needs them on a quantized base, PiSSA and OLoRA decompose them instead of
   * the decoded ones. See checkpointWeights.
   */
  readonly originalWeights?: OriginalWeights | undefined;
  /** Called after each layer whose weight was decomposed: seconds each on a large model. */
  readonly onProgress?: (progress: { readonly path: string; readonly done: number; readonly total: number }) => void;
}

/** How a quantized base rounds; null for a dense one. */
function ownRounding(base: LinearLike): Rounding | null {
  const { settings } = base as { settings?: Rounding };
  if (settings !== undefined) return settings;
  return 'weight8bit' in base ? 'int8' : null;
}

/** The weight that an initialization decomposes. */
function weightOf(path: string, layer: LoraLinear, { originalWeights }: ApplyAsyncOptions): Tensor | Promise<Tensor> {
  return originalWeights?.(path) ?? layer.base.denseWeight();
}

async function factorsOf(
  path: string,
  layer: LoraLinear,
  config: CompleteLoraConfig,
  options: ApplyAsyncOptions & { readonly key: RandomKey },
): Promise<InitialFactors> {
  const { initLoraWeights: init, loftqConfig } = config;
  const own = ownRounding(layer.base);
  if (!isBaseInit(init)) throw new TypeError(`applyLora: ${init} does not read the base.`);
  if (init === 'loftq' && own !== null && !options.originalWeights)
    throw new TypeError(
      `applyLora: initLoraWeights 'loftq' must have the weights from before quantization: ${path} is quantized. Pass originalWeights, or load the base unquantized.`,
    );
  using weight = await weightOf(path, layer, options);
  const { r, scaling } = layer;
  const rounding = own ?? roundingOf(loftqConfig);
  return await decompose(weight, { init, path, r, scaling, key: options.key.fold(path), loftqConfig, rounding });
}

/** Puts into the base what its initialization leaves of the weight. */
async function replaceBase(
  path: string,
  layer: LoraLinear,
  { initLoraWeights, loftqConfig }: CompleteLoraConfig,
  taken: InitialFactors['taken'],
  options: ApplyAsyncOptions,
): Promise<void> {
  const { base } = layer;
  if (isRequantizable(base)) {
    using weight = await weightOf(path, layer, options);
    using rest = without(weight, taken);
    await base.setDenseWeight(rest);
    return;
  }
  const stored = [...base.stateEntries()].find(([name]) => name === 'weight')![1];
  if (initLoraWeights === 'loftq') {
    using rest = without(stored, taken);
    using rounded = await roundTrip(path, rest, roundingOf(loftqConfig));
    noGrad(() => scope(() => void writeRows(stored, rounded.cast(stored.dtype), 0)));
  } else if (taken) await subtract(path, stored, taken);
}

/** stored -= scale b a, summed in f32 and rounded once, in blocks of rows. */
function subtract(path: string, stored: Tensor, { a, b, scale }: NonNullable<InitialFactors['taken']>): Promise<void> {
  const merger = new WeightMerger({
    path: () => path,
    weight: () => stored,
    delta: (start, end) => scope(() => b.slice(0, start, end).matmul(a).mul(-scale)),
  });
  return merger.merge({ keepOriginal: false });
}

async function initializeFromBase(
  model: ModuleLike,
  state: AdapterState,
  options: ApplyAsyncOptions & { readonly key: RandomKey },
): Promise<AdapterState> {
  const layers = adaptedLinears(model);
  const found = new Map<string, InitialFactors>();
  try {
    // All decompositions before the first weight changes: what can fail fails while the model is whole.
    for (const [path, layer] of layers) {
      found.set(path, await factorsOf(path, layer, state.config, options));
      options.onProgress?.({ path, done: found.size, total: layers.size });
    }
    const pairs = new Map<string, InitialPair>();
    for (const [path, factors] of found) {
      const { lora_A, lora_B } = layers.get(path)!;
      copyInto(lora_A.weight, factors.a);
      copyInto(lora_B.weight, factors.b);
      pairs.set(path, { a: await lora_A.weight.bytes(), b: await lora_B.weight.bytes() });
      await replaceBase(path, layers.get(path)!, state.config, factors.taken, options);
    }
    return { ...state, initial: pairs };
  } finally {
    for (const factors of found.values()) disposeFactors(factors);
  }
}

/** Without alternation LoftQ's base is the weight quantized: a quantized base is that already. */
const isAsItIs = ({ initLoraWeights: init, loftqConfig }: CompleteLoraConfig, { base }: LoraLinear): boolean =>
  init === 'loftq' && loftqConfig.loftqIter === 1 && isRequantizable(base);

/**
 * Makes the base again what it was when an adapter with values from the base was trained, for an adapter that is loaded: from the first
 * values where they were kept, else by the same decompositions.
 */
export async function restoreBase(
  model: ModuleLike,
  state: AdapterState,
  kept: ReadonlyMap<string, InitialPair> | undefined,
  options: ApplyAsyncOptions,
): Promise<AdapterState> {
  const { config } = state;
  const key = options.key ?? randomKey(0, 'lora');
  const layers = [...adaptedLinears(model)];
  if (layers.every(([, layer]) => isAsItIs(config, layer))) return state;
  if (!kept) return initializeFromBase(model, state, { ...options, key });
  for (const [path, layer] of layers) await restoreLayer(path, layer, config, kept.get(path), options);
  return { ...state, initial: kept };
}

/** restoreBase for one layer, which may stand alone. */
export async function restoreLayer(
  path: string,
  layer: LoraLinear,
  config: CompleteLoraConfig,
  kept: InitialPair | undefined,
  options: ApplyAsyncOptions,
): Promise<void> {
  if (isAsItIs(config, layer)) return;
  if (!kept) {
    const factors = await factorsOf(path, layer, config, { ...options, key: options.key ?? randomKey(0, 'lora') });
    await replaceBase(path, layer, config, factors.taken, options).finally(() => disposeFactors(factors));
    return;
  }
  const { r, scaling: scale, inFeatures, outFeatures } = layer;
  const made = { backend: layer.lora_A.weight.backend };
  using a = fromBytes(kept.a, { ...made, shape: [r, inFeatures] });
  using b = fromBytes(kept.b, { ...made, shape: [outFeatures, r] });
  await replaceBase(path, layer, config, { a, b, scale }, options);
}

async function initializeOrthogonal(model: ModuleLike, key: RandomKey): Promise<void> {
  for (const [path, { base, lora_A, lora_B, r }] of adaptedLinears(model)) {
    const { backend } = lora_A.weight;
    const { a, b } = await orthogonalFactors([base.outFeatures, base.inFeatures], r, (shape, name) =>
      normal(shape, { backend, key: key.fold(path).fold(name) }),
    );
    copyInto(lora_A.weight, a);
    copyInto(lora_B.weight, b);
    for (const t of [a, b]) t.dispose();
  }
}

/**
 * applyLora for every `initLoraWeights`. PiSSA and OLoRA put the first directions of each weight into the adapter and leave the rest as
 * base; LoftQ makes the base what quantizing leaves of the weight and the adapter what makes up for it. On a quantized base the rest is
 * quantized with the layer's own settings. The base changes, so a saved adapter is converted to plain LoRA for the original base (see saveAdapter).
 *
 * @throws what applyLora throws; RangeError when r is larger than a weight's sides; NonFiniteError. The model has no adapter then, and
 * its weights are as they were unless memory ran out while they were replaced.
 */
export async function applyLoraAsync(
  model: ModuleLike,
  config: LoraConfig = {},
  options: ApplyAsyncOptions = {},
): Promise<AdapterState> {
  const { initLoraWeights: init } = completeLoraConfig(config);
  const key = options.key ?? randomKey(0, 'lora');
  if (options.initialize === false || (!isBaseInit(init) && init !== 'orthogonal'))
    return applyLora(model, config, options);
  const state = applyLora(model, config, { ...options, initialize: false });
  try {
    if (init === 'orthogonal') {
      await initializeOrthogonal(model, key);
      return state;
    }
    const initialized = await initializeFromBase(model, state, { ...options, key });
    rememberAdapter(model, initialized);
    return initialized;
  } catch (error) {
    unloadAdapter(model);
    throw error;
  }
}
