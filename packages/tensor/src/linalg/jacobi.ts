/**
 * Singular values in f64 on the host: QR with column pivoting, then one-sided Jacobi on R^T (Drmac and Veselic, "New fast and
 * accurate Jacobi SVD algorithm I", SIAM J. Matrix Anal. 29, 2008). Small singular values come out to full relative accuracy.
 */
import { householder, orthogonalFactor, triangularFactor } from './householder.ts';

/** Column-major factors of a [m, n], m >= n: u [m, n], s [n] descending, v [n, n]. */
export interface HostSvd {
  readonly u: Float64Array;
  readonly s: Float64Array;
  readonly v: Float64Array;
}

const sweepLimit = 60;

/** Rotates columns p and q of a [rows, .] by the angle with cosine c and sine s. */
function rotate(a: Float64Array, rows: number, p: number, q: number, c: number, s: number): void {
  for (let i = 0; i < rows; i++) {
    const [x, y] = [a[p * rows + i]!, a[q * rows + i]!];
    a[p * rows + i] = c * x - s * y;
    a[q * rows + i] = s * x + c * y;
  }
}

/** One rotation that makes columns p and q orthogonal; false when they are already. */
function orthogonalize(a: Float64Array, v: Float64Array, n: number, p: number, q: number): boolean {
  let [pp, qq, pq] = [0, 0, 0];
  for (let i = 0; i < n; i++) {
    const [x, y] = [a[p * n + i]!, a[q * n + i]!];
    pp += x * x;
    qq += y * y;
    pq += x * y;
  }
  // Below the square root of the smallest normal number the products have no digits left to be orthogonal in.
  if (pq === 0 || Math.abs(pq) <= 1e-15 * Math.sqrt(pp) * Math.sqrt(qq) || Math.abs(pq) < 1e-290) return false;
  const zeta = (qq - pp) / (2 * pq);
  const tangent = (zeta < 0 ? -1 : 1) / (Math.abs(zeta) + Math.hypot(1, zeta));
  const cosine = 1 / Math.hypot(1, tangent);
  rotate(a, n, p, q, cosine, cosine * tangent);
  rotate(v, n, p, q, cosine, cosine * tangent);
  return true;
}

/** Gives the columns of u [rows, n] that `missing` names unit vectors orthogonal to all others. */
function complete(u: Float64Array, rows: number, missing: readonly number[]): void {
  const n = u.length / rows;
  const open = new Set(missing);
  for (const column of missing) {
    for (let candidate = 0; candidate < rows; candidate++) {
      const trial = new Float64Array(rows);
      trial[candidate] = 1;
      for (let pass = 0; pass < 2; pass++)
        for (let c = 0; c < n; c++) {
          if (open.has(c)) continue;
          let sum = 0;
          for (let i = 0; i < rows; i++) sum += u[c * rows + i]! * trial[i]!;
          for (let i = 0; i < rows; i++) trial[i]! -= sum * u[c * rows + i]!;
        }
      const length = Math.hypot(...trial);
      // Some unit vector keeps at least sqrt((rows - found) / rows) of its length.
      if (length * length * rows < 0.5) continue;
      for (let i = 0; i < rows; i++) u[column * rows + i] = trial[i]! / length;
      break;
    }
    open.delete(column);
  }
}

/** U and the lengths of the columns of a = U diag(s), sorted; `order` says where each came from. */
function normalize(a: Float64Array, n: number): { u: Float64Array; s: Float64Array; order: number[] } {
  const lengths = Array.from({ length: n }, (_, j) => {
    let squares = 0;
    for (let i = 0; i < n; i++) squares += a[j * n + i]! ** 2;
    return Math.sqrt(squares);
  });
  const order = lengths.map((_, j) => j).sort((i, j) => lengths[j]! - lengths[i]!);
  const u = new Float64Array(n * n);
  const s = Float64Array.from(order, (j) => lengths[j]!);
  const missing: number[] = [];
  order.forEach((from, j) => {
    if (s[j]! < 1e-140) missing.push(j);
    else for (let i = 0; i < n; i++) u[j * n + i] = a[from * n + i]! / s[j]!;
  });
  complete(u, n, missing);
  return { u, s, order };
}

/** left [m, k] times right [k, n], column-major. */
function product(left: Float64Array, m: number, right: Float64Array, k: number, n: number): Float64Array {
  const out = new Float64Array(m * n);
  for (let j = 0; j < n; j++)
    for (let c = 0; c < k; c++) {
      const factor = right[j * k + c]!;
      if (factor !== 0) for (let i = 0; i < m; i++) out[j * m + i]! += left[c * m + i]! * factor;
    }
  return out;
}

/** Thin SVD of a [m, n] with m >= n, whose entries are finite; a is overwritten. */
export function jacobiSvd(a: Float64Array, m: number, n: number): HostSvd {
  // The largest entry becomes 1: squares neither overflow nor vanish.
  const largest = a.reduce((most, x) => Math.max(most, Math.abs(x)), 0);
  if (largest > 0) for (let i = 0; i < a.length; i++) a[i]! /= largest;
  const pivots = Int32Array.from({ length: n }, (_, j) => j);
  const reflectors = householder(a, m, n, pivots);
  const r = triangularFactor(reflectors, n);
  const lower = new Float64Array(n * n);
  for (let i = 0; i < n; i++) for (let j = 0; j < n; j++) lower[i * n + j] = r[j * n + i]!;
  const turned = new Float64Array(n * n);
  for (let j = 0; j < n; j++) turned[j * n + j] = 1;
  let changed = true;
  for (let sweep = 0; changed; sweep++) {
    if (sweep === sweepLimit) throw new Error(`svd: must converge within ${sweepLimit} sweeps: it did not.`);
    changed = false;
    for (let p = 0; p < n - 1; p++)
      for (let q = p + 1; q < n; q++) changed = orthogonalize(lower, turned, n, p, q) || changed;
  }
  // R^T = u diag(s) turned^T, so a = (Q turned) diag(s) (P u)^T.
  const { u, s, order } = normalize(lower, n);
  const sorted = new Float64Array(n * n);
  order.forEach((from, j) => {
    sorted.set(turned.subarray(from * n, (from + 1) * n), j * n);
  });
  const v = new Float64Array(n * n);
  for (let j = 0; j < n; j++) for (let i = 0; i < n; i++) v[j * n + pivots[i]!] = u[j * n + i]!;
  return { u: product(orthogonalFactor(reflectors, n), m, sorted, n, n), s: s.map((x) => x * largest), v };
}
