import { isLinearLike, type LinearLike, Module, type ModuleLike, plainWeightOf, type StateEntry } from '@lorikeet/nn';
import { isFloat, type RandomKey, ShapeError, scope, showShape, type Tensor } from '@lorikeet/tensor';
import { isLoraLayer, type LoraLayer, type MergeOptions } from '../lora-layer.ts';
import { checkLoraOptions, forwardWithUpdate, initialPair, loraScaling, type Pair } from '../low-rank.ts';
import { isRequantizable, RequantizingMerger } from '../requantizing-merger.ts';
import { WeightMerger } from '../weight-merger.ts';

export interface LoraLinearOptions {
  readonly r: number;
  readonly loraAlpha: number;
  /** @defaultValue 0 */
  readonly loraDropout?: number;
  /** @defaultValue false */
  readonly useRslora?: boolean;
  /** See LoraConfig; 'zeros' where the values are loaded next. @defaultValue true */
  readonly initLoraWeights?: boolean | 'gaussian' | 'zeros';
  /** Source of the initial lora_A. */
  readonly key: RandomKey;
}

/**
 * A linear layer with an adapter over it: y = base(x) + s B A dropout(x), the second product summed in the base's own pass.
 * The base may be anything with the linear contract, a quantized one too; its checkpoint keys do not move, and
 * `lora_A.weight` [r, in] and `lora_B.weight` [out, r] stand beside them (PEFT's names). It is itself a LinearLike.
 */
export class LoraLinear extends Module implements LinearLike, LoraLayer {
  readonly lora_A: { readonly weight: Tensor };
  readonly lora_B: { readonly weight: Tensor };
  readonly r: number;
  readonly loraAlpha: number;
  readonly loraDropout: number;
  readonly scaling: number;
  enabled = true;
  readonly #base: LinearLike;
  readonly #merger: WeightMerger | RequantizingMerger;

  constructor(base: LinearLike, options: LoraLinearOptions) {
    super();
    const { r, loraAlpha, loraDropout = 0, useRslora = false, initLoraWeights = true, key } = options;
    checkLoraOptions('LoraLinear', { r, loraAlpha, loraDropout });
    if (r === 0) throw new RangeError('LoraLinear: r must be at least 1: got 0. Leave the layer as it is instead.');
    if (isLoraLayer(base))
      throw new TypeError(
        'LoraLinear: the base must be a layer without an adapter: it has one. Merge or unload that first.',
      );
    const [first] = base.stateEntries();
    if (!first) throw new TypeError('LoraLinear: the base must have a weight: its stateEntries are empty.');
    const { a, b } = initialPair([r, base.inFeatures], [base.outFeatures, r], {
      backend: first[1].backend,
      key,
      init: initLoraWeights,
    });
    this.lora_A = { weight: a };
    this.lora_B = { weight: b };
    this.r = r;
    this.loraAlpha = loraAlpha;
    this.loraDropout = loraDropout;
    this.scaling = loraScaling(r, loraAlpha, useRslora);
    this.#base = base;
    const path = (): string => this.path;
    this.#merger = isRequantizable(base)
      ? new RequantizingMerger(base, path, (start, end) => this.deltaWeight([start, end]))
      : new WeightMerger({
          path,
          weight: () => this.#storedWeight(),
          delta: (start, end) => this.deltaWeight([start, end]),
        });
  }

  get base(): LinearLike {
    return this.#base;
  }
  get inFeatures(): number {
    return this.#base.inFeatures;
  }
  get outFeatures(): number {
    return this.#base.outFeatures;
  }
  get bias(): Tensor | undefined {
    return this.#base.bias;
  }
  get merged(): boolean {
    return this.#merger.merged;
  }
  get #active(): boolean {
    return this.enabled && !this.merged;
  }
  get drawsPerRow(): boolean {
    return this.#active && this.training && this.loraDropout > 0;
  }

  forward(x: Tensor, add?: Pair): Tensor {
    if (!this.#active) return this.#base.forward(x, add);
    const { path, training, loraDropout: p, scaling } = this;
    const [a, b] = [this.lora_A.weight, this.lora_B.weight];
    const plain = { weight: plainWeightOf(this.#base), bias: undefined };
    const update = { op: 'LoraLinear', a, b, scaling, dropout: { p, training, path }, plain };
    return forwardWithUpdate((rows, pair) => this.#base.forward(rows, pair), x, update, add);
  }

  /** s B A [out, in] or rows of it, in f32. */
  deltaWeight(rows: readonly [start: number, end: number] = [0, this.outFeatures]): Tensor {
    return scope(() => this.lora_B.weight.slice(0, rows[0], rows[1]).mul(this.scaling).matmul(this.lora_A.weight));
  }

  /** W + s B A: what the layer multiplies by without dropout. */
  denseWeight(rows?: readonly [start: number, end: number]): Tensor {
    if (!this.#active) return this.#base.denseWeight(rows);
    return scope(() => this.#base.denseWeight(rows).add(this.deltaWeight(rows)));
  }

  override *stateEntries(): Iterable<StateEntry> {
    yield* this.#base.stateEntries();
    yield ['lora_A.weight', this.lora_A.weight];
    yield ['lora_B.weight', this.lora_B.weight];
  }
  /** The base is hidden: nothing finds it and puts another adapter on it. */
  override childModules(): [] {
    return [];
  }

  checkMerge(): Promise<void> {
    return this.#merger.check();
  }
  merge(options?: MergeOptions): Promise<void> {
    return this.#merger.merge(options);
  }
  unmerge(): void {
    this.#merger.unmerge();
  }
  /** Frees lora_A and lora_B and leaves the base alone, which goes back into the model. */
  disposeAdapter(): void {
    this.lora_A.weight.dispose();
    this.lora_B.weight.dispose();
  }

  /** The tensor that a merge writes into. */
  #storedWeight(): Tensor {
    for (const [name, tensor] of this.#base.stateEntries()) {
      if (name !== 'weight') continue;
      const whole = tensor.rank === 2 && tensor.shape[0] === this.outFeatures && tensor.shape[1] === this.inFeatures;
      if (whole && isFloat(tensor.dtype)) return tensor;
      throw new ShapeError(
        `merge: the weight of ${this.path} must be floats [${this.outFeatures}, ${this.inFeatures}]: got ${showShape(tensor.shape)} ${tensor.dtype}. Load the base unquantized to merge.`,
      );
    }
    throw new ShapeError(
      `merge: the base of ${this.path} must hold its matrix as "weight": it does not. Load it unquantized.`,
    );
  }
}

/** Whether a module is the wrapper that applyLora puts on, by its form. */
export const isLoraLinear = (module: ModuleLike): module is LoraLinear =>
  isLoraLayer(module) && isLinearLike(module) && 'base' in module && 'disposeAdapter' in module;
