/**
 * The tokens with which several sequences of a batch begin, such as a system prompt, computed once for all of them. In a causal
 * model they have the same hidden states, keys and values in each: nothing before them differs, and nothing after them counts.
 */
import type { Phi3Config } from './config.ts';
import { RopeTable } from './rope-table.ts';
import { type PlacedTokens, placeTokens, type TokenBatch } from './token-batch.ts';

/** What of a batch is computed, c tokens of t: its sequences are segments, each of which continues another one or begins anew. */
export interface SharedPrefixes extends PlacedTokens {
  /** Keys of each segment: those of the segments it continues, in order, then its own; they sum to s. */
  readonly keyLengths: readonly number[];
  /** [s], row of each key among the c tokens. */
  readonly keyRows: Int32Array;
  /** [t], row among the c tokens of each token of the batch. */
  readonly rows: Int32Array;
}

/**
 * A run that saves fewer tokens stays with its rows: products go by tiles of 6 rows, of which it would save two, and attention
 * would have a segment more.
 */
const leastSavedByRun = 16;
/**
 * Below this part of a batch nothing is shared. What sharing costs, rows of keys and values gathered and their gradients added, is
 * a few passes over memory: about 1/250 of the work of a layer of width 1024, and more of a narrower one's.
 */
const leastSavedPart = 1 / 64;

interface Segment {
  readonly parent: Segment | null;
  /** Place in the batch of its first token. */
  readonly start: number;
  readonly length: number;
  /** Its first row among the computed ones. */
  readonly row: number;
  /** Tokens of it and of those it continues. */
  readonly keys: number;
}

/** Finds the runs, each token looked at twice at most. */
class PrefixFinder {
  readonly segments: Segment[] = [];
  readonly rows: Int32Array;
  readonly #batch: PlacedTokens;
  readonly #starts: readonly number[];
  #computed = 0;

  constructor(batch: PlacedTokens) {
    this.#batch = batch;
    this.rows = new Int32Array(batch.ids.length);
    let sum = 0;
    this.#starts = batch.lengths.map((length) => (sum += length) - length);
    this.#part(batch.lengths.map((_, i) => i), 0, 0, null); // biome-ignore format: one call
  }

  get computed(): number {
    return this.#computed;
  }

  #isSame(a: number, b: number): boolean {
    const { ids, positions, long } = this.#batch;
    return ids[a] === ids[b] && positions[a] === positions[b] && long[a] === long[b];
  }

  /** Sequences that are the same below `at`, of which `parent` and what it continues hold the tokens below `from`. */
  #grow(group: readonly number[], from: number, at: number, parent: Segment | null): void {
    const { lengths } = this.#batch;
    const [first] = group as [number];
    const shortest = Math.min(...group.map((i) => lengths[i]!));
    let end = group.length === 1 ? shortest : at;
    const agree = (): boolean => group.every((i) => this.#isSame(this.#starts[i]! + end, this.#starts[first]! + end));
    while (end < shortest && agree()) end++;
    const worth = group.length === 1 ? end > from : (group.length - 1) * (end - from) >= leastSavedByRun;
    if (!worth) this.#part(group, from, end, parent);
    else this.#part(group, end, end, this.#add(group, from, end, parent));
  }

  /** Goes on with those that have the same token at `at`; those that end there alone. */
  #part(group: readonly number[], from: number, at: number, parent: Segment | null): void {
    const { ids, lengths, positions, long } = this.#batch;
    const parts = new Map<string, number[]>();
    for (const i of group) {
      const place = this.#starts[i]! + at;
      if (at === lengths[i]) {
        if (from < at) this.#add([i], from, at, parent);
        continue;
      }
      const token = `${ids[place]} ${positions[place]} ${long[place]}`;
      const part = parts.get(token);
      if (part) part.push(i);
      else parts.set(token, [i]);
    }
    for (const part of parts.values()) this.#grow(part, from, at, parent);
  }

  #add(group: readonly number[], from: number, end: number, parent: Segment | null): Segment {
    const row = this.#computed;
    for (const i of group) for (let j = from; j < end; j++) this.rows[this.#starts[i]! + j] = row + j - from;
    const segment = { parent, start: this.#starts[group[0]!]! + from, length: end - from, row, keys: end };
    this.segments.push(segment);
    this.#computed += segment.length;
    return segment;
  }
}

/** Which tokens of a batch need not be computed again; null where too few to pay. */
export function sharePrefixes(batch: PlacedTokens): SharedPrefixes | null {
  const t = batch.ids.length;
  const { segments, rows, computed } = new PrefixFinder(batch);
  if (t - computed < Math.max(leastSavedByRun, leastSavedPart * t)) return null;
  const kept = new Int32Array(computed); // places in the batch
  const keyRows = new Int32Array(segments.reduce((sum, { keys }) => sum + keys, 0));
  let end = 0;
  for (const segment of segments) {
    for (let j = 0; j < segment.length; j++) kept[segment.row + j] = segment.start + j;
    let at = (end += segment.keys);
    for (let part: Segment | null = segment; part; part = part.parent)
      for (let j = part.length - 1; j >= 0; j--) keyRows[--at] = part.row + j;
  }
  return {
    ids: kept.map((i) => batch.ids[i]!),
    positions: kept.map((i) => batch.positions[i]!),
    long: Uint8Array.from(kept, (i) => batch.long[i]!),
    lengths: segments.map(({ length }) => length),
    keyLengths: segments.map(({ keys }) => keys),
    keyRows,
    rows,
  };
}

/** Tokens of a batch that Phi3ForCausalLM.sharePrefix leaves out where nothing is drawn for each token: they are others' again. */
export function countSharedTokens(config: Phi3Config, batch: TokenBatch): number {
  const shared = sharePrefixes(placeTokens(batch, config, new RopeTable(config)));
  return shared ? batch.ids.length - shared.ids.length : 0;
}
