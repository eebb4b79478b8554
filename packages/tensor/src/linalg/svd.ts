import { normal, tensor } from '../creation.ts';
import type { RandomKey } from '../random.ts';
import { openScope } from '../scope.ts';
import type { Tensor } from '../tensor.ts';
import { columnsOf, requireFinite, requireMatrix, tensorOf, transposedTensorOf, workDType } from './host-matrix.ts';
import { type HostSvd, jacobiSvd } from './jacobi.ts';
import { orthonormalBasis, requireWhole, runIn, tallOperator } from './tall-operator.ts';

/** a = u diag(s) vh: u [m, k] and vh [k, n] orthonormal, s [k] descending. */
export interface Svd {
  readonly u: Tensor;
  readonly s: Tensor;
  readonly vh: Tensor;
}

/** SVD on the host of a matrix that is there, whatever its form. */
async function hostSvd(a: Tensor): Promise<HostSvd & { readonly tall: boolean }> {
  const [m, n] = a.shape as [number, number];
  const tall = m >= n;
  // Row-major rows are the columns of the transpose.
  const columns = tall ? await columnsOf(a) : Float64Array.from(await a.data());
  return { ...jacobiSvd(columns, Math.max(m, n), Math.min(m, n)), tall };
}

function svdTensors({ u, s, v, tall }: HostSvd & { readonly tall: boolean }, a: Tensor): Svd {
  const [m, n] = a.shape as [number, number];
  const [k, made] = [Math.min(m, n), { backend: a.backend, dtype: workDType(a) }];
  const [left, right] = tall ? [u, v] : [v, u];
  return { u: tensorOf(left, m, k, a), s: tensor(s, made), vh: transposedTensorOf(right, n, k, a) };
}

/**
 * The thin singular value decomposition (torch.linalg.svd with full_matrices=False), up to the signs of pairs of vectors and the choice
 * of a basis where singular values are equal. Computed on the host in f64: about 40 min(m, n)^3 operations, so seconds at 512 and minutes
 * at 2000; for the first few of a large matrix use truncatedSvd. No gradient. f32, or f64 for f64.
 *
 * @param a matrix [m, n] of floats, not empty
 * @throws ShapeError, DTypeError; NonFiniteError when a holds NaN or infinity
 */
export async function svd(a: Tensor): Promise<Svd> {
  requireMatrix('svd', a);
  await requireFinite('svd', a);
  return svdTensors(await hostSvd(a), a);
}

export interface SvdLowrankOptions {
  /** Columns that are found. @defaultValue min(6, m, n) */
  readonly q?: number;
  /** Subspace iterations. @defaultValue 2 */
  readonly niter?: number;
  /** Source of the random test matrix. */
  readonly key: RandomKey;
}

/**
 * The first q singular triplets, nearly: a ~ u diag(s) v^T with u [m, q], s [q], v [n, q] (torch.svd_lowrank, whose steps these are:
 * Halko, Martinsson, Tropp 2009, algorithms 4.4 and 5.1). Products run on the backend, a few an iteration.
 *
 * @throws ShapeError, DTypeError, RangeError; NonFiniteError when a holds NaN or infinity
 */
export async function svdLowrank(a: Tensor, options: SvdLowrankOptions): Promise<{ u: Tensor; s: Tensor; v: Tensor }> {
  const [m, n] = requireMatrix('svdLowrank', a);
  const { q = Math.min(6, m, n), niter = 2, key } = options;
  requireWhole('svdLowrank: q', q, 1, Math.min(m, n));
  requireWhole('svdLowrank: niter', niter, 0, 1000);
  await requireFinite('svdLowrank', a);
  using made = openScope();
  const run = runIn(made);
  const { short, turned, forward, backward } = tallOperator(a);
  const test = run(() => normal([short, q], { backend: a.backend, dtype: workDType(a), key }));
  let range = await orthonormalBasis(
    run(() => forward(test)),
    made,
  );
  for (let i = 0; i < niter; i++) {
    const across = await orthonormalBasis(
      run(() => backward(range)),
      made,
    );
    range = await orthonormalBasis(
      run(() => forward(across)),
      made,
    );
  }
  const small = run(() => backward(range)); // [short, q]: the transpose of Q^T A
  const { u, s, v } = jacobiSvd(await columnsOf(small), short, q);
  const found = run(() => {
    const tallSide = range.matmul(tensorOf(v, q, q, a));
    const shortSide = tensorOf(u, short, q, a);
    const values = tensor(s, { backend: a.backend, dtype: workDType(a) });
    return turned ? { u: shortSide, s: values, v: tallSide } : { u: tallSide, s: values, v: shortSide };
  });
  for (const t of Object.values(found)) made.keep(t);
  return found;
}
