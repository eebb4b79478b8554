/** Matrices between a backend and the host, where the sequential part of a decomposition runs in f64. */
import { noGrad } from '../autograd.ts';
import { tensor } from '../creation.ts';
import { type DType, isFloat } from '../dtype.ts';
import { DTypeError, NonFiniteError, ShapeError } from '../errors.ts';
import { scope } from '../scope.ts';
import { showShape } from '../shape.ts';
import type { Tensor } from '../tensor.ts';

/** What a decomposition of this matrix computes in on the backend, and returns. */
export const workDType = (a: Tensor): DType => (a.dtype === 'f64' ? 'f64' : 'f32');

/** @throws ShapeError, DTypeError for anything but a matrix of floats */
export function requireMatrix(op: string, a: Tensor): [m: number, n: number] {
  if (a.rank !== 2) throw new ShapeError(`${op}: a must be a matrix: got ${showShape(a.shape)}. Use reshape.`);
  if (!isFloat(a.dtype)) throw new DTypeError(`${op}: a must be floats: got ${a.dtype}. Use cast('f32').`);
  return [a.shape[0]!, a.shape[1]!];
}

/** @throws NonFiniteError when the matrix holds NaN or infinity */
export async function requireFinite(op: string, a: Tensor): Promise<void> {
  using probe = noGrad(() => scope(() => a.cast(workDType(a)).mul(0).sum()));
  if ((await probe.item()) !== 0)
    throw new NonFiniteError(`${op}: every number of a must be finite: it holds NaN or infinity. Check the weight.`);
}

/** The matrix [m, n] as columns, f64. */
export async function columnsOf(a: Tensor): Promise<Float64Array> {
  const [m, n] = a.shape as [number, number];
  const rows = await a.data();
  const columns = new Float64Array(m * n);
  for (let i = 0; i < m; i++) for (let j = 0; j < n; j++) columns[j * m + i] = rows[i * n + j]!;
  return columns;
}

/** Columns [m, n] as a tensor where `like` is, in its working dtype. */
export function tensorOf(columns: Float64Array, m: number, n: number, like: Tensor): Tensor {
  const rows = new Float64Array(m * n);
  for (let j = 0; j < n; j++) for (let i = 0; i < m; i++) rows[i * n + j] = columns[j * m + i]!;
  return tensor(rows, { backend: like.backend, dtype: workDType(like), shape: [m, n] });
}

/** Columns [m, n] transposed, as a tensor [n, m]. */
export const transposedTensorOf = (columns: Float64Array, m: number, n: number, like: Tensor): Tensor =>
  tensor(columns, { backend: like.backend, dtype: workDType(like), shape: [n, m] });
