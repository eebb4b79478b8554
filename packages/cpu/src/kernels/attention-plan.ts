/** How attention is cut into tasks: by lengths and heads alone, so that sums have one order on any number of threads. */
import type { AttentionAttributes } from '@lorikeet/tensor';
import { blockQueries } from './attention-blocks.ts';
import {
  maxDecodeQueries,
  maxDecodeQueryBytes,
  maxDecodeScoreBytes,
  partFloats,
  partStep,
} from './attention-decode.ts';
import { spanWord } from './attention-grad.ts';

/** Heads of queries and of keys, and their width. */
export interface Heads {
  readonly heads: number;
  readonly kvHeads: number;
  readonly e: number;
}

interface Sequence {
  /** First query's and first key's row in the batch. */
  readonly row: number;
  readonly other: number;
  readonly queries: number;
  readonly keys: number;
}

function sequencesOf({ lengths, keyLengths }: AttentionAttributes): Sequence[] {
  let [row, other] = [0, 0];
  return lengths.map((queries, i) => {
    const sequence = { row, other, queries, keys: keyLengths[i]! };
    row += queries;
    other += sequence.keys;
    return sequence;
  });
}

/** Few queries, whose scaled copies and scores fit a thread's scratch. */
const isDecoded = ({ queries }: Sequence, { heads, e }: Heads): boolean =>
  queries <= maxDecodeQueries &&
  queries * heads * e * 4 <= maxDecodeQueryBytes &&
  queries * heads * 2 * partStep * 4 <= maxDecodeScoreBytes;

/** Blocks of at most `blockQueries` queries, sequence by sequence, as words of `blockWord`; without decoded sequences. */
export function cutBlocks(a: AttentionAttributes, heads: Heads): number[] {
  const words: number[] = [];
  for (const sequence of sequencesOf(a)) {
    if (isDecoded(sequence, heads)) continue;
    const { row, other, queries, keys } = sequence;
    for (let start = 0; start < queries; start += blockQueries)
      words.push(row + start, Math.min(blockQueries, queries - start), start, other, queries, keys);
  }
  return words;
}

/** Parts of a sequence's keys, unless they would be shorter than `shortestPartBytes` of K and V. */
const wantedParts = 16;
const shortestPartBytes = 64 * 1024;

/** Sequences of few queries: words of `partWord` and of `joinedWord`; results lie `sumBytes` long, one after the other. */
export function cutDecode(a: AttentionAttributes, heads: Heads) {
  const [parts, joined]: [number[], number[]] = [[], []];
  let sums = 0;
  for (const sequence of sequencesOf(a)) {
    const { row, other, queries, keys } = sequence;
    if (queries === 0 || !isDecoded(sequence, heads)) continue;
    const first = Math.max(0, keys - (a.causal ? queries - 1 : 0) - (a.slidingWindow ?? keys));
    const perPart = keysOfPart(keys - first, queries, heads);
    joined.push(row, queries, sums, Math.ceil((keys - first) / perPart));
    for (let key = first; key < keys; key += perPart) {
      parts.push(row, queries, other + key, key, Math.min(perPart, keys - key), keys, sums);
      sums += partFloats(queries * heads.heads, heads.e) * 4;
    }
  }
  return { parts, joined, sumBytes: sums };
}

function keysOfPart(keys: number, queries: number, { heads, kvHeads, e }: Heads): number {
  const shortest = Math.ceil(shortestPartBytes / (2 * kvHeads * e * 4));
  const longest = Math.floor(maxDecodeScoreBytes / (queries * heads * 4 * partStep)) * partStep;
  const wanted = Math.max(2 * partStep, shortest, Math.ceil(keys / wantedParts));
  return Math.min(longest, Math.ceil(wanted / partStep) * partStep);
}

/** Spans times heads, at least, that a backward is cut into; where heads and sequences are more, they are not cut. */
const wantedSpans = 16;
/** What the sums of the parts may take. */
const maxPartBytes = 64 * 1024 * 1024;

/** How many parts a sequence's backward is cut into: 1 unless heads and sequences are few and long. */
export function partsOf(a: AttentionAttributes, { heads, kvHeads, e }: Heads): number {
  const sequences = a.lengths.filter((n) => n > 0).length;
  const blocks = Math.ceil(Math.max(...a.lengths, 1) / blockQueries) * (heads / kvHeads);
  const wanted = Math.ceil(wantedSpans / (kvHeads * Math.max(sequences, 1)));
  const bytes = 2 * a.keyLengths.reduce((sum, n) => sum + n, 0) * kvHeads * e * 4;
  return Math.max(1, Math.min(wanted, blocks, Math.floor(maxPartBytes / Math.max(bytes, 1))));
}

/** The sequences in parts as words of `spanWord`, those with most work first, so that no thread ends on a long one. */
export function cutSpans(a: AttentionAttributes, parts: number): number[] {
  const spans: number[][] = [];
  for (const { row, queries, other, keys } of sequencesOf(a))
    for (let part = 0; part < parts; part++) spans.push([row, queries, other, keys, part]);
  const work = (span: readonly number[]) => span[spanWord.queries]! * span[spanWord.keys]!;
  return spans.sort((x, y) => work(y) - work(x)).flat();
}
