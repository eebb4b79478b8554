import { copyInto } from '@lorikeet/nn';
import { NonFiniteError, noGrad, scope, sizeOf, type Tensor, writeRows } from '@lorikeet/tensor';
import type { MergeOptions } from './lora-layer.ts';

/** The layer whose weight is merged into. */
export interface MergeTarget {
  /** False for a plain layer (r = 0): merging and unmerging then do nothing. @defaultValue true */
  readonly hasUpdate?: boolean;
  /** For messages. */
  path(): string;
  /** The stored weight, floats, rows first. */
  weight(): Tensor;
  /** The update of rows start .. end, in the weight's shape. */
  delta(start: number, end: number): Tensor;
}

/** Puts an update into a stored weight and takes it out again. Asynchronous because checking and keeping read the weight back. */
export class WeightMerger {
  readonly #target: MergeTarget;
  readonly #blockElements: number;
  #state: 'apart' | 'merged' = 'apart';
  #original: Uint8Array | null = null;

  /** @param blockElements rows are taken in blocks of about this size (16 MiB in f32), so that merging needs no second weight in memory */
  constructor(target: MergeTarget, blockElements = 1 << 22) {
    this.#target = target;
    this.#blockElements = blockElements;
  }
  get merged(): boolean {
    return this.#state === 'merged';
  }

  /** @throws NonFiniteError that names the layer and the first bad row */
  async check(): Promise<void> {
    if (this.#isPlain) return;
    for (const [start, end] of this.#blocks()) {
      using block = this.#mergedRows(start, end);
      const values = await block.data();
      const bad = values.findIndex((value: number) => !Number.isFinite(value));
      if (bad >= 0)
        throw new NonFiniteError(
          `merge: the merged weight of ${this.#name} must be finite: row ${start + Math.floor((bad * (end - start)) / values.length)} would hold ${values[bad]}. The adapter or the base is damaged, or ${block.dtype} cannot hold the sum; nothing was written.`,
        );
    }
  }

  async merge({ safe = true, keepOriginal = true }: MergeOptions = {}): Promise<void> {
    if (this.#isPlain) return;
    if (this.merged) throw new Error(`merge: ${this.#name} must not be merged yet: it is. Call unmerge() first.`);
    if (safe) await this.check();
    const weight = this.#target.weight();
    this.#original = keepOriginal ? await weight.bytes() : null;
    for (const [start, end] of this.#blocks()) {
      using block = this.#mergedRows(start, end);
      noGrad(() => writeRows(weight, block, start));
    }
    this.#state = 'merged';
  }

  unmerge(): void {
    if (this.#isPlain) return;
    if (!this.merged) throw new Error(`unmerge: ${this.#name} must be merged: it is not.`);
    const bytes = this.#original;
    if (!bytes)
      throw new Error(
        `unmerge: ${this.#name} must have its original weight: it was merged with keepOriginal: false. Load the base again.`,
      );
    const weight = this.#target.weight();
    copyInto(weight, { dtype: weight.dtype, shape: weight.shape, bytes });
    this.#original = null;
    this.#state = 'apart';
  }

  get #isPlain(): boolean {
    return this.#target.hasUpdate === false;
  }
  get #name(): string {
    return this.#target.path() || 'the layer';
  }
  *#blocks(): Iterable<readonly [start: number, end: number]> {
    const [rows = 0, ...rest] = this.#target.weight().shape;
    const step = Math.max(1, Math.floor(this.#blockElements / Math.max(1, sizeOf(rest))));
    for (let start = 0; start < rows; start += step) yield [start, Math.min(rows, start + step)];
  }
  /** W + update, summed in f32 (f64 weights in f64) and rounded once. */
  #mergedRows(start: number, end: number): Tensor {
    return noGrad(() =>
      scope(() => {
        const weight = this.#target.weight();
        const wide = weight.dtype === 'f64' ? 'f64' : 'f32';
        const sum = weight.slice(0, start, end).cast(wide).add(this.#target.delta(start, end).cast(wide));
        return sum.cast(weight.dtype);
      }),
    );
  }
}
