import { concat, noGrad, openScope, type Tensor, tensor } from '@lorikeet/tensor';
import type { AttentionCache } from './key-value-cache.ts';

interface LayerCache {
  readonly k: Tensor;
  readonly v: Tensor;
}

/** A tensor that no scope around the call frees. */
function unscoped(make: () => Tensor): Tensor {
  using scope = openScope();
  const made = scope.run(() => noGrad(make));
  scope.keep(made);
  return made;
}

/**
 * Keys and values of several sequences, one behind another as attention wants them, packed anew at every step: a copy that
 * costs little beside the model, since one step then serves all sequences. Belongs to no scope: dispose it.
 */
export class PackedCache implements AttentionCache {
  readonly #layers: LayerCache[] = [];
  #held: readonly number[] = [];
  #going: readonly number[] | null = null;
  #keyLengths: readonly number[] = [];
  #places: Tensor | null = null;

  get heldLengths(): readonly number[] {
    return this.#going?.map((i) => this.#held[i]!) ?? this.#held;
  }
  get keyLengths(): readonly number[] {
    return this.#keyLengths;
  }

  /** Only these of the held sequences go on from the next step, in this order. */
  select(sequences: readonly number[]): void {
    this.#going = sequences.map((i) => this.#going?.[i] ?? i);
  }

  begin(fresh: readonly number[], backend: Tensor['backend']): void {
    if (this.#held.length === 0) {
      this.#keyLengths = fresh;
      return;
    }
    const going = this.#going ?? this.#held.map((_, i) => i);
    const total = this.#held.reduce((sum, n) => sum + n, 0);
    const starts = runningSums(this.#held);
    const freshStarts = runningSums(fresh);
    const range = (from: number, n: number): number[] => Array.from({ length: n }, (_, j) => from + j);
    // Rows of (held keys, then fresh keys), in the order: what a sequence held, then what is new of it.
    const rows = going.flatMap((old, i) => [
      ...range(starts[old]!, this.#held[old]!),
      ...range(total + freshStarts[i]!, fresh[i]!),
    ]);
    this.#places?.dispose();
    this.#places = unscoped(() => tensor(Int32Array.from(rows), { backend, dtype: 'i32' }));
    this.#keyLengths = going.map((old, i) => this.#held[old]! + fresh[i]!);
  }

  append(layer: number, k: Tensor, v: Tensor): LayerCache {
    const old = this.#layers[layer];
    const places = this.#places;
    const packed = (held: Tensor | undefined, fresh: Tensor): Tensor =>
      unscoped(() => (held && places ? concat([held, fresh], 0).indexSelect(places, 0) : fresh.alias()));
    const next = { k: packed(old?.k, k), v: packed(old?.v, v) };
    old?.k.dispose();
    old?.v.dispose();
    this.#layers[layer] = next;
    return next;
  }

  end(): void {
    this.#held = this.#keyLengths;
    this.#going = null;
  }

  /** Forgets all sequences. */
  clear(): void {
    for (const { k, v } of this.#layers) {
      k.dispose();
      v.dispose();
    }
    this.#layers.length = 0;
    this.#places?.dispose();
    this.#places = null;
    this.#held = [];
    this.#going = null;
  }
  dispose(): void {
    this.clear();
  }
  [Symbol.dispose](): void {
    this.clear();
  }
}

/** Where each part begins when parts of these lengths lie one behind another. */
function runningSums(lengths: readonly number[]): number[] {
  let sum = 0;
  return lengths.map((n) => {
    const start = sum;
    sum += n;
    return start;
  });
}
