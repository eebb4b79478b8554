import { type Backend, noGrad, openScope, ShapeError, type Tensor, writeRows, zeros } from '@lorikeet/tensor';
import type { Phi3Config } from './config.ts';

/** Keys and values of one layer, [capacity, kv, e]. */
interface LayerCache {
  k: Tensor;
  v: Tensor;
}

/** Keys and values of tokens seen before, as the attention layers use them during one forward: begin, append a layer, end. */
export interface AttentionCache {
  /** Tokens held of each sequence; empty before the first forward. */
  readonly heldLengths: readonly number[];
  /** Between begin and end: keys of each sequence, the new ones included. */
  readonly keyLengths: readonly number[];
  /** Prepares for this many new tokens of each sequence. */
  begin(fresh: readonly number[], backend: Backend): void;
  /** Takes a layer's new keys and values [t, kv, e] and returns those of all tokens. The cache owns them. */
  append(layer: number, k: Tensor, v: Tensor): { readonly k: Tensor; readonly v: Tensor };
  /** The new tokens count as held. */
  end(): void;
}

/**
 * Keys and values of the tokens of one sequence that the model has seen, layer by layer, written in place. Capacity grows
 * by doubling. Belongs to no scope: dispose it.
 */
export class KeyValueCache implements AttentionCache {
  readonly #layers: LayerCache[] = [];
  readonly #config: Phi3Config;
  readonly #backend: Backend;
  #capacity = 0;
  #length = 0;
  #fresh = 0;

  constructor(config: Phi3Config, backend: Backend) {
    this.#config = config;
    this.#backend = backend;
  }

  /** Tokens held. */
  get length(): number {
    return this.#length;
  }

  get heldLengths(): readonly number[] {
    return this.#length > 0 ? [this.#length] : [];
  }
  get keyLengths(): readonly number[] {
    return [this.#length + this.#fresh];
  }

  begin(fresh: readonly number[]): void {
    if (fresh.length !== 1)
      throw new ShapeError(`KeyValueCache: holds one sequence: got ${fresh.length}. Use one cache a sequence.`);
    this.#fresh = fresh[0]!;
    this.#reserve(this.#fresh);
  }

  /** Makes room for `count` more tokens in every layer. */
  #reserve(count: number): void {
    const needed = this.#length + count;
    if (needed <= this.#capacity) return;
    const capacity = Math.max(needed, 2 * this.#capacity, 32);
    for (let i = 0; i < this.#config.numHiddenLayers; i++) {
      const old = this.#layers[i];
      this.#layers[i] = { k: this.#grown(old?.k, capacity), v: this.#grown(old?.v, capacity) };
      old?.k.dispose();
      old?.v.dispose();
    }
    this.#capacity = capacity;
  }

  #grown(old: Tensor | undefined, capacity: number): Tensor {
    const { numKeyValueHeads, headDim } = this.#config;
    using made = openScope();
    return made.run(() =>
      noGrad(() => {
        const t = zeros([capacity, numKeyValueHeads, headDim], { backend: this.#backend });
        if (old && this.#length > 0) writeRows(t, old.slice(0, 0, this.#length), 0);
        made.keep(t);
        return t;
      }),
    );
  }

  /** Writes a layer's new keys and values [n, kv, e] behind those held and returns all of them, as views. */
  append(layer: number, k: Tensor, v: Tensor): { k: Tensor; v: Tensor } {
    const cache = this.#layers[layer]!;
    const end = this.#length + k.shape[0]!;
    writeRows(cache.k, k, this.#length);
    writeRows(cache.v, v, this.#length);
    return { k: cache.k.slice(0, 0, end), v: cache.v.slice(0, 0, end) };
  }

  end(): void {
    this.#length += this.#fresh;
    this.#fresh = 0;
  }

  /** Forgets all tokens and keeps the memory. */
  clear(): void {
    this.#length = 0;
  }

  dispose(): void {
    for (const { k, v } of this.#layers) {
      k.dispose();
      v.dispose();
    }
    this.#layers.length = 0;
    this.#capacity = 0;
    this.#length = 0;
  }
  [Symbol.dispose](): void {
    this.dispose();
  }
}
