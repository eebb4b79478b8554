import type { LinearLike, StateEntry } from '@lorikeet/nn';
import { NonFiniteError, noGrad, scope, type Tensor } from '@lorikeet/tensor';
import type { MergeOptions } from './lora-layer.ts';
import type { RowBlocks } from './quantize/quantize-weight.ts';

/** Elements of a row block: 16 MiB in f32. */
const blockElements = 1 << 22;

/** A base whose weight can be quantized anew. */
export interface Requantizable extends LinearLike {
  setDenseWeight(dense: Tensor | RowBlocks): Promise<void>;
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
  readonly #delta: (start: number, end: number) => Tensor;
  #merged = false;

  /** @param delta the update of rows start .. end */
  constructor(base: Requantizable, path: () => string, delta: (start: number, end: number) => Tensor) {
    this.#base = base;
    this.#path = path;
    this.#delta = delta;
  }
  get merged(): boolean {
    return this.#merged;
  }

  /** @throws NonFiniteError that names the layer and the first bad block of rows */
  async check(): Promise<void> {
    const { outFeatures, inFeatures } = this.#base;
    const step = Math.max(1, Math.floor(blockElements / inFeatures));
    for (let start = 0; start < outFeatures; start += step) {
      using sum = this.#sum(start, Math.min(outFeatures, start + step));
      using probe = noGrad(() => scope(() => sum.mul(0).sum()));
      if ((await probe.item()) !== 0)
        throw new NonFiniteError(
          `merge: the merged weight of ${this.#name} must be finite: row ${start} or one after it would hold NaN or infinity. The adapter or the base is damaged; nothing was written.`,
        );
    }
  }

  /** @throws TypeError unless `keepOriginal` is false */
  async merge({ safe = true, keepOriginal = true }: MergeOptions = {}): Promise<void> {
    const name = this.#name;
    if (keepOriginal)
      throw new TypeError(
        `merge: keepOriginal must be false for a quantized base: ${name} is quantized, and its codes are not kept. Use mergeAndUnload.`,
      );
    if (this.#merged) throw new Error(`merge: ${name} must not be merged yet: it is.`);
    if (safe) await this.check();
    await this.#base.setDenseWeight(this.#rows());
    this.#merged = true;
  }

  unmerge(): void {
    throw new Error(
      `unmerge: ${this.#name} must have its original weight: it was quantized anew. Load the base again.`,
    );
  }

  get #name(): string {
    return this.#path() || 'the layer';
  }
  #rows(): RowBlocks {
    const { outFeatures, inFeatures } = this.#base;
    const [[, { backend }]] = [...this.#base.stateEntries()] as [StateEntry];
    const rows = (start: number, end: number): Tensor => this.#sum(start, end);
    return { path: this.#name, shape: [outFeatures, inFeatures], dtype: 'f32', backend, rows };
  }
  #sum(start: number, end: number): Tensor {
    return noGrad(() => scope(() => this.#base.denseWeight([start, end]).cast('f32').add(this.#delta(start, end))));
  }
}
