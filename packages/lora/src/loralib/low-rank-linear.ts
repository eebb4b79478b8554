import { Linear as PlainLinear } from '@lorikeet/nn';
import { scope, type Tensor } from '@lorikeet/tensor';
import type { LoraLayer, MergeOptions } from '../lora-layer.ts';
import { checkLoraOptions, forwardWithUpdate, initialPair, loraScaling, type Pair } from '../low-rank.ts';
import { WeightMerger } from '../weight-merger.ts';
import type { LinearOptions } from './linear.ts';

/** Shapes of the adapter; null for a plain layer. */
export interface AdapterShapes {
  readonly a: readonly [rows: number, inFeatures: number];
  readonly b: readonly [rows: number, r: number];
}

/** What loralib's `Linear` and `MergedLinear` share: a dense layer that owns its frozen weight and the update beside it. */
export abstract class LowRankLinear extends PlainLinear implements LoraLayer {
  lora_A?: Tensor;
  lora_B?: Tensor;
  readonly r: number;
  readonly scaling: number;
  readonly loraDropout: number;
  enabled = true;
  readonly #op: string;
  readonly #merger: WeightMerger;

  constructor(
    op: string,
    size: readonly [inFeatures: number, outFeatures: number],
    options: LinearOptions,
    shapes: AdapterShapes | null,
  ) {
    const { r = 0, loraAlpha = 1, loraDropout = 0, backend, key } = options;
    checkLoraOptions(op, { r, loraAlpha, loraDropout });
    const plain = PlainLinear.init(size[0], size[1], options);
    super(plain.weight, plain.bias);
    this.#op = op;
    this.r = shapes ? r : 0;
    this.scaling = shapes ? loraScaling(r, loraAlpha) : 0;
    this.loraDropout = loraDropout;
    if (shapes) {
      const { a, b } = initialPair(shapes.a, shapes.b, { backend, key });
      this.lora_A = a;
      this.lora_B = b;
      this.weight.requiresGrad = false;
    }
    this.#merger = new WeightMerger({
      hasUpdate: this.r > 0,
      path: () => this.path,
      weight: () => this.weight,
      delta: (start, end) => this.deltaWeight([start, end]),
    });
  }

  /** [out, rows of lora_A]: what multiplies lora_A to give the update. Called inside a scope; may be a tensor of the layer. */
  protected abstract columns(): Tensor;

  get merged(): boolean {
    return this.#merger.merged;
  }
  get #active(): boolean {
    return this.r > 0 && this.enabled && !this.merged;
  }
  get drawsPerRow(): boolean {
    return this.#active && this.training && this.loraDropout > 0;
  }

  override forward(x: Tensor, add?: Pair): Tensor {
    if (!this.#active) return super.forward(x, add);
    const { path, training, loraDropout: p, scaling } = this;
    return scope(() => {
      const [a, plain] = [this.lora_A!, { weight: this.weight, bias: this.bias }];
      const update = { op: this.#op, a, b: this.columns(), scaling, dropout: { p, training, path }, plain };
      return forwardWithUpdate((rows, pair) => super.forward(rows, pair), x, update, add);
    });
  }

  /** The update [out, in] or rows of it, in f32. Only with r > 0. */
  deltaWeight(rows: readonly [start: number, end: number] = [0, this.outFeatures]): Tensor {
    return scope(() => this.columns().slice(0, rows[0], rows[1]).matmul(this.lora_A!).mul(this.scaling));
  }
  /** W and the update: what the layer multiplies by without dropout. */
  override denseWeight(rows?: readonly [start: number, end: number]): Tensor {
    if (!this.#active) return super.denseWeight(rows);
    return scope(() => super.denseWeight(rows).add(this.deltaWeight(rows)));
  }

  checkMerge(): Promise<void> {
    return this.#merger.check();
  }
  /** Adds the update to the weight; a plain layer (r = 0) has none and stays. */
  merge(options?: MergeOptions): Promise<void> {
    return this.#merger.merge(options);
  }
  unmerge(): void {
    this.#merger.unmerge();
  }
}
