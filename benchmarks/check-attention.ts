/** Attention of one head in 64-bit floats, forward and backward, by the textbook. */
import type { Expected } from './check.ts';
import type { AttentionSpec } from './peer.ts';

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
  // ds = p (dp - sum_j p dp), dp = gradient . v: the gradient of the scores.
  const ds = new Float64Array(queries * keys);
  for (let i = 0; i < queries; i++) {
    let mean = 0;
    const visible = keys - queries + i + 1;
    for (let j = 0; j < visible; j++) {
      let dp = 0;
      for (let e = 0; e < width; e++) dp += gradient[index(i, e)]! * v[index(j, e)]!;
      ds[i * keys + j] = dp;
      mean += p[i * keys + j]! * dp;
    }
    for (let j = 0; j < visible; j++) ds[i * keys + j] = p[i * keys + j]! * (ds[i * keys + j]! - mean);
  }
  const scale = 1 / Math.sqrt(width);
  for (const [output, count, weight, other, factor] of [
    [1, queries, (i: number, j: number) => ds[i * keys + j]!, k, scale],
    [2, keys, (j: number, i: number) => ds[i * keys + j]!, q, scale],
    [3, keys, (j: number, i: number) => p[i * keys + j]!, gradient, 1],
  ] as const)
    for (const row of rowsOf(count))
      for (let e = 0; e < width; e += 7) {
        let [sum, size] = [0, 0];
        const terms = output === 1 ? keys : queries;
        for (let step = 0; step < terms; step++) {
          const x = factor * weight(row, step) * other[index(step, e)]!;
          sum += x;
          size += Math.abs(x);
        }
        // The score's gradient is a difference of near values: its own rounding counts as a few units of the terms.
        yield entry(output, index(row, e), sum, 4 * size + 1e-3, terms);
      }
}
