/**
 * Householder reflections in f64 on the host, as LAPACK's dgeqr2, dorg2r and dlarft do them (Golub and Van Loan, "Matrix
 * Computations", 5.2): signs come out as PyTorch's. Matrices are column-major: element (i, j) of [m, n] is data[j * m + i].
 */
export interface Reflectors {
  readonly m: number;
  /** R on and above the diagonal; below it the vectors v, whose leading 1 is not stored. [m, n] */
  readonly data: Float64Array;
  /** H_j = I - tau_j v_j v_j^T, one a reflection. */
  readonly tau: Float64Array;
}

const dot = (x: Float64Array, i: number, y: Float64Array, j: number, count: number): number => {
  let sum = 0;
  for (let k = 0; k < count; k++) sum += x[i + k]! * y[j + k]!;
  return sum;
};

/** Subtracts `factor` times x from y, both from their offsets on. */
const subtract = (y: Float64Array, j: number, factor: number, x: Float64Array, i: number, count: number): void => {
  for (let k = 0; k < count; k++) y[j + k]! -= factor * x[i + k]!;
};

/** Makes the reflection that zeroes a column below `at`; returns its tau. The diagonal gets beta = -sign(alpha) norm. */
function reflect(data: Float64Array, at: number, count: number): number {
  const alpha = data[at]!;
  const rest = Math.sqrt(dot(data, at + 1, data, at + 1, count - 1));
  if (rest === 0) return 0;
  const beta = -(alpha < 0 || Object.is(alpha, -0) ? -1 : 1) * Math.hypot(alpha, rest);
  const scale = 1 / (alpha - beta);
  for (let k = 1; k < count; k++) data[at + k]! *= scale;
  data[at] = beta;
  return (beta - alpha) / beta;
}

/** Applies H = I - tau v v^T to one column; v lies from `v` on with a leading 1 that is not stored. */
function applyTo(data: Float64Array, column: number, vectors: Float64Array, v: number, tau: number, n: number): void {
  const sum = tau * (data[column]! + dot(vectors, v + 1, data, column + 1, n - 1));
  data[column]! -= sum;
  subtract(data, column + 1, sum, vectors, v + 1, n - 1);
}

function swapColumns(data: Float64Array, m: number, i: number, j: number): void {
  const kept = data.slice(i * m, (i + 1) * m);
  data.copyWithin(i * m, j * m, (j + 1) * m);
  data.set(kept, j * m);
}

/** The column from j on that is longest below row j. */
function longest(data: Float64Array, m: number, n: number, j: number): number {
  let [best, squares] = [j, -1];
  for (let c = j; c < n; c++) {
    const length = dot(data, c * m + j, data, c * m + j, m - j);
    if (length > squares) [best, squares] = [c, length];
  }
  return best;
}

/**
 * Factorizes a [m, n] in place: min(m, n) reflections. With `pivots` (0 .. n-1 on entry) the longest remaining column goes
 * first, and pivots[j] names the column of a that stands at j.
 */
export function householder(data: Float64Array, m: number, n: number, pivots?: Int32Array): Reflectors {
  const tau = new Float64Array(Math.min(m, n));
  for (let j = 0; j < tau.length; j++) {
    const best = pivots ? longest(data, m, n, j) : j;
    if (pivots && best !== j) {
      swapColumns(data, m, j, best);
      [pivots[j], pivots[best]] = [pivots[best]!, pivots[j]!];
    }
    const at = j * m + j;
    tau[j] = reflect(data, at, m - j);
    if (tau[j] !== 0) for (let c = j + 1; c < n; c++) applyTo(data, c * m + j, data, at, tau[j]!, m - j);
  }
  return { m, data, tau };
}

/** The first `columns` columns of Q = H_0 H_1 ..., [m, columns]. */
export function orthogonalFactor({ m, data, tau }: Reflectors, columns: number): Float64Array {
  const q = new Float64Array(m * columns);
  for (let j = 0; j < columns; j++) q[j * m + j] = 1;
  for (let j = tau.length - 1; j >= 0; j--)
    if (tau[j] !== 0) for (let c = j; c < columns; c++) applyTo(q, c * m + j, data, j * m + j, tau[j]!, m - j);
  return q;
}

/** The first `rows` rows of R, [rows, n]. */
export function triangularFactor({ m, data }: Reflectors, rows: number): Float64Array {
  const n = data.length / Math.max(1, m);
  const r = new Float64Array(rows * n);
  for (let c = 0; c < n; c++) r.set(data.subarray(c * m, c * m + Math.min(rows, c + 1)), c * rows);
  return r;
}

/** V [m, k] with its ones and zeros, and T [k, k] upper triangular: H_0 ... H_(k-1) = I - V T V^T (dlarft). */
export function compactForm({ m, data, tau }: Reflectors): { readonly v: Float64Array; readonly t: Float64Array } {
  const k = tau.length;
  const v = new Float64Array(m * k);
  const t = new Float64Array(k * k);
  for (let j = 0; j < k; j++) {
    v[j * m + j] = 1;
    v.set(data.subarray(j * m + j + 1, (j + 1) * m), j * m + j + 1);
    const projected = Float64Array.from({ length: j }, (_, i) => dot(v, i * m, v, j * m, m));
    for (let i = 0; i < j; i++) {
      let sum = 0;
      for (let c = i; c < j; c++) sum += t[c * k + i]! * projected[c]!;
      t[j * k + i] = -tau[j]! * sum;
    }
    t[j * k + j] = tau[j]!;
  }
  return { v, t };
}
