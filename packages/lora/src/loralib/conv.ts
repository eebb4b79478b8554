import { Module, Conv1d as PlainConv1d, Conv2d as PlainConv2d } from '@lorikeet/nn';
import { scope, type Tensor } from '@lorikeet/tensor';
import type { LoraLayer, MergeOptions } from '../lora-layer.ts';
import { checkLoraOptions, initialPair, loraScaling } from '../low-rank.ts';
import { WeightMerger } from '../weight-merger.ts';
import type { LoraLayerOptions } from './options.ts';

/** loralib's convolutions ignore lora_dropout; here there is no such option. */
export interface ConvOptions extends LoraLayerOptions {
  /** @defaultValue 1 */
  readonly stride?: number;
  /** @defaultValue 0 */
  readonly padding?: number;
  /** @defaultValue 1 */
  readonly dilation?: number;
  /** @defaultValue 1 */
  readonly groups?: number;
  /** @defaultValue true */
  readonly bias?: boolean;
}

/** What the two convolutions of nn have in common for an update of the weight. */
interface PlainConv extends Module {
  weight: Tensor;
  forward(x: Tensor, weight?: Tensor): Tensor;
}

/**
 * loralib's ConvLoRA (0.1.2): the base convolution is `conv`, its weight frozen; `lora_A` [r k, in k] and `lora_B`
 * [out / groups k, r k] give an update B A that is read in the weight's shape. Merging is explicit, as in `Linear`.
 */
abstract class LoraConv<C extends PlainConv> extends Module implements LoraLayer {
  readonly conv: C;
  lora_A?: Tensor;
  lora_B?: Tensor;
  readonly r: number;
  readonly scaling: number;
  enabled = true;
  readonly #merger: WeightMerger;

  constructor(
    op: string,
    conv: C,
    updateRows: number,
    updateColumns: number,
    kernelSize: number,
    options: ConvOptions,
  ) {
    super();
    const { r = 0, loraAlpha = 1, backend, key } = options;
    checkLoraOptions(op, { r, loraAlpha });
    this.conv = conv;
    this.r = r;
    this.scaling = r > 0 ? loraScaling(r, loraAlpha) : 0;
    if (r > 0) {
      const rank = r * kernelSize;
      const { a, b } = initialPair([rank, updateColumns], [updateRows, rank], { backend, key });
      this.lora_A = a;
      this.lora_B = b;
      conv.weight.requiresGrad = false;
    }
    this.#merger = new WeightMerger({
      hasUpdate: this.r > 0,
      path: () => this.path,
      weight: () => this.conv.weight,
      delta: (start, end) => this.deltaWeight().slice(0, start, end),
    });
  }

  get merged(): boolean {
    return this.#merger.merged;
  }
  forward(x: Tensor): Tensor {
    if (this.r === 0 || !this.enabled || this.merged) return this.conv.forward(x);
    return scope(() => this.conv.forward(x, this.conv.weight.add(this.deltaWeight())));
  }
  /** s B A in the shape of the weight, f32; only with r > 0. */
  deltaWeight(): Tensor {
    return scope(() => this.lora_B!.matmul(this.lora_A!).mul(this.scaling).reshape(this.conv.weight.shape));
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

function checkConv(op: string, outChannels: number, kernelSize: number, groups: number): void {
  if (!Number.isSafeInteger(kernelSize) || kernelSize < 1)
    throw new RangeError(`${op}: kernelSize must be one whole number of at least 1, as in loralib: got ${kernelSize}.`);
  if (outChannels % groups !== 0)
    throw new RangeError(`${op}: groups must divide outChannels: ${groups} does not divide ${outChannels}.`);
}

/** loralib.Conv2d over [b, c, h, w], with a square kernel. */
export class Conv2d extends LoraConv<PlainConv2d> {
  constructor(inChannels: number, outChannels: number, kernelSize: number, options: ConvOptions) {
    const { groups = 1 } = options;
    checkConv('lora.Conv2d', outChannels, kernelSize, groups);
    const conv = PlainConv2d.init(inChannels, outChannels, kernelSize, options);
    super('lora.Conv2d', conv, (outChannels / groups) * kernelSize, inChannels * kernelSize, kernelSize, options);
  }
}

/**
 * Conv1d over [b, c, l]. loralib's own works for kernelSize 1 only: its update has kernelSize times too many elements for a
 * weight [out, in / groups, k]. Here `lora_B` is [out / groups, r k], which is the same where loralib's works.
 */
export class Conv1d extends LoraConv<PlainConv1d> {
  constructor(inChannels: number, outChannels: number, kernelSize: number, options: ConvOptions) {
    const { groups = 1 } = options;
    checkConv('lora.Conv1d', outChannels, kernelSize, groups);
    const conv = PlainConv1d.init(inChannels, outChannels, kernelSize, options);
    super('lora.Conv1d', conv, outChannels / groups, inChannels * kernelSize, kernelSize, options);
  }
}
