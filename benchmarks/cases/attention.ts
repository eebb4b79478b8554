import { type BenchCase, boundBy } from '../case.ts';
import { draw } from '../data.ts';
import type { AttentionSpec } from '../peer.ts';
import { type SpecCase, specCase } from '../spec-case.ts';

/** Phi-3-mini's heads. */
const [heads, width] = [32, 96];

function specOf(direction: 'forward' | 'both', queries: number, keys = queries, turns = 1): AttentionSpec {
  const caches = (seed: number): Float32Array[] =>
    Array.from({ length: turns }, (_, i) => draw(keys * heads * width, seed + 2 * i));
  return {
    op: 'attention', direction, heads, width, queries, keys,
    q: draw(queries * heads * width, 1), k: caches(2), v: caches(3), gradient: draw(queries * heads * width, 9),
  }; // biome-ignore format: a record
}

/** Two products forward, five backward, over the half that is seen. */
const flopOf = ({ direction, queries }: AttentionSpec): number =>
  (direction === 'forward' ? 2 : 7) * queries * (queries + 1) * width * heads;

const prompt = (
  name: string,
  direction: 'forward' | 'both',
  tokens: number,
  also?: SpecCase<AttentionSpec>['also'],
): BenchCase =>
  specCase({
    name,
    shape: `${heads} heads x ${width}, ${tokens} tokens, causal`,
    unit: 'GFLOP/s',
    variants: { '': () => specOf(direction, tokens) },
    work: flopOf,
    limit: () => boundBy('multiply-add'),
    ...(also && { also }),
  });

/** One query on caches of 288 MiB in turn: keys and values are read once. */
const decode = specCase({
  name: 'attention decode',
  shape: `${heads} heads x ${width}, 1 query, 1024 keys, 12 caches in turn`,
  unit: 'GB/s',
  variants: { '': () => specOf('forward', 1, 1024, 12) },
  work: ({ keys }) => 2 * 4 * keys * heads * width,
  limit: () => boundBy('stream'),
});

export const attentionCases: readonly BenchCase[] = [
  prompt('attention forward', 'forward', 2048, 'main'),
  prompt('attention forward + backward', 'both', 2048, 'main'),
  prompt('attention forward + backward', 'both', 512),
  decode,
];
