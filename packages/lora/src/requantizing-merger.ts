import type { LinearLike } from '@lorikeet/nn';
import { NonFiniteError, noGrad, scope, type Tensor } from '@lorikeet/tensor';
import type { MergeOptions } from './lora-layer.ts';

/** A base whose weight can be quantized anew. */
export interface Requantizable extends LinearLike {
  setDenseWeight(dense: Tensor): Promise<void>;
}

/** Whether a base's weight can be quantized anew, by its form. */
export const isRequantizable = (base: LinearLike): base is Requantizable => 'setDenseWeight' in base;

/**
 * Puts an update into a quantized weight: decoded, summed in f32, quantized anew with its own settings (PEFT's merge of a 4-bit layer).
 * Quantizing rounds, so the merged layer differs a little from base and adapter, and nothing brings the old codes back.
 */
export class RequantizingMerger {
  readonly #base: Requantizable;
  readonly #path: () => string;
  readonly #delta: () => Tensor;
  #merged = false;

  /** @param delta the update [out, in] */
  constructor(base: Requantizable, path: () => string, delta: () => Tensor) {
    this.#base = base;
    this.#path = path;
    this.#delta = delta;
  }
  get merged(): boolean {
    return this.#merged;
  }

  /** @throws NonFiniteError that names the layer */
  async check(): Promise<void> {
    using sum = this.#sum();
    using probe = noGrad(() => scope(() => sum.mul(0).sum()));
    if ((await probe.item()) !== 0)
      throw new NonFiniteError(
        `merge: the merged weight of ${this.#path() || 'the layer'} must be finite: it would hold NaN or infinity. The adapter or the base is damaged; nothing was written.`,
      );
  }

  /** @throws TypeError unless `keepOriginal` is false */
  async merge({ safe = true, keepOriginal = true }: MergeOptions = {}): Promise<void> {
    const name = this.#path() || 'the layer';
    if (keepOriginal)
      throw new TypeError(
        `merge: keepOriginal must be false for a quantized base: ${name} is quantized, and its codes are not kept. Use mergeAndUnload.`,
      );
    if (this.#merged) throw new Error(`merge: ${name} must not be merged yet: it is.`);
    if (safe) await this.check();
    using sum = this.#sum();
    await this.#base.setDenseWeight(sum);
    this.#merged = true;
  }

  unmerge(): void {
    throw new Error(
      `unmerge: ${this.#path() || 'the layer'} must have its original weight: it was quantized anew. Load the base again.`,
    );
  }

  #sum(): Tensor {
    return noGrad(() => scope(() => this.#base.denseWeight().cast('f32').add(this.#delta())));
  }
}
