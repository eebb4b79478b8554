/** Attention of one head in 64-bit floats, forward and backward, by the textbook. */
import type { AttentionSpec } from './peer.ts';

/** One output entry that must be `want` within `bound`. */
export interface Expected {
  readonly output: number;
  readonly at: number;
  readonly want: number;
  readonly bound: number;
}

const unit = 2 ** -24;

/** All probabilities of head `h`, [queries, keys], 0 where a query does not see. */
function probabilities({ heads, width, queries, keys, q, k }: AttentionSpec, h: number): Float64Array {
  const p = new Float64Array(queries * keys);
  const scale = 1 / Math.sqrt(width);
  for (let i = 0; i < queries; i++) {
    const visible = keys - queries + i + 1;
    let total = 0;
    for (let j = 0; j < visible; j++) {
      let score = 0;
      for (let e = 0; e < width; e++) score += q[(i * heads + h) * width + e]! * k[0]![(j * heads + h) * width + e]!;
      total += p[i * keys + j] = Math.exp(score * scale);
    }
    for (let j = 0; j < visible; j++) p[i * keys + j]! /= total;
  }
  return p;
}

/** The last head's output and gradients: entries of a few rows, all of them in the sums. */
export function* checkAttention(spec: AttentionSpec): Iterable<Expected> {
  const { heads, width, queries, keys, direction, q, gradient } = spec;
  const [k, v] = [spec.k[0]!, spec.v[0]!];
  const h = heads - 1;
  const index = (row: number, e: number): number => (row * heads + h) * width + e;
  const p = probabilities(spec, h);
  const entry = (output: number, at: number, want: number, size: number, terms: number): Expected => ({
    output,
    at,
    want,
    bound: 16 * Math.sqrt(terms) * unit * size + 16 * unit * Math.abs(want),
  });
  const rowsOf = (count: number): number[] =>
    [...new Set([0, Math.floor(count / 3), count - 2, count - 1])].filter((r) => r >= 0);
  for (const i of rowsOf(queries))
    for (let e = 0; e < width; e += 7) {
      let [sum, size] = [0, 0];
      for (let j = 0; j < keys; j++) {
        const term = p[i * keys + j]! * v[index(j, e)]!;
        sum += term;
        size += Math.abs(term);
      }
      yield entry(0, index(i, e), sum, size, width);
    }
  if (direction === 'forward') return;
  const { ds, sizes } = scoreGradients(spec, p, index);
  const scale = 1 / Math.sqrt(width);
  for (const [output, count, at, other, factor, isScore] of [
    [1, queries, (i: number, j: number) => i * keys + j, k, scale, true],
    [2, keys, (j: number, i: number) => i * keys + j, q, scale, true],
    [3, keys, (j: number, i: number) => i * keys + j, gradient, 1, false],
  ] as const)
    for (const row of rowsOf(count))
      for (let e = 0; e < width; e += 7) {
        let [sum, size] = [0, 0];
        for (let step = 0; step < (output === 1 ? keys : queries); step++) {
          const [w, x] = [at(row, step), factor * other[index(step, e)]!];
          sum += x * (isScore ? ds[w]! : p[w]!);
          size += Math.abs(x) * (isScore ? sizes[w]! : p[w]!);
        }
        yield entry(output, index(row, e), sum, size, width);
      }
}

/** ds = p (dp - sum_j p dp) with dp = gradient . v, and the sizes of what is subtracted: a query with one key has ds = 0. */
function scoreGradients(
  { width, queries, keys, v, gradient }: AttentionSpec,
  p: Float64Array,
  index: (row: number, e: number) => number,
): { readonly ds: Float64Array; readonly sizes: Float64Array } {
  const [ds, sizes] = [new Float64Array(queries * keys), new Float64Array(queries * keys)];
  for (let i = 0; i < queries; i++) {
    let [mean, meanSize] = [0, 0];
    const visible = keys - queries + i + 1;
    for (let j = 0; j < visible; j++) {
      const at = i * keys + j;
      for (let e = 0; e < width; e++) {
        const term = gradient[index(i, e)]! * v[0]![index(j, e)]!;
        ds[at]! += term;
        sizes[at]! += Math.abs(term);
      }
      mean += p[at]! * ds[at]!;
      meanSize += p[at]! * sizes[at]!;
    }
    for (let at = i * keys; at < i * keys + visible; at++) {
      ds[at] = p[at]! * (ds[at]! - mean);
      sizes[at] = p[at]! * (sizes[at]! + meanSize);
    }
  }
  return { ds, sizes };
}
