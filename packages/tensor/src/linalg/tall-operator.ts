/** What the iterative decompositions share: a matrix as an operator that is tall, and orthonormal bases. */
import { noGrad } from '../autograd.ts';
import type { OpenScope } from '../scope.ts';
import type { Tensor } from '../tensor.ts';
import { columnsOf, tensorOf } from './host-matrix.ts';
import { householder, orthogonalFactor } from './householder.ts';

/** Products with a or its transpose, whichever is tall. */
export interface TallOperator {
  readonly tall: number;
  readonly short: number;
  /** Whether a itself has more columns than rows. */
  readonly turned: boolean;
  /** x [short, k] -> [tall, k] */
  forward(x: Tensor): Tensor;
  /** y [tall, k] -> [short, k] */
  backward(y: Tensor): Tensor;
}

export function tallOperator(a: Tensor): TallOperator {
  const [m, n] = a.shape as [number, number];
  const turned = m < n;
  const [tall, short] = turned ? [n, m] : [m, n];
  return {
    tall,
    short,
    turned,
    // Few rows times the matrix run twice as fast as the matrix times few columns.
    forward: (x) => x.transpose(0, 1).matmul(a, { transposeB: !turned }).transpose(0, 1),
    backward: (y) => y.transpose(0, 1).matmul(a, { transposeB: turned }).transpose(0, 1),
  };
}

/** Runs a synchronous piece whose tensors belong to `made`, without history. */
export const runIn =
  (made: OpenScope) =>
  <T>(fn: () => T): T =>
    made.run(() => noGrad(fn));

/** Orthonormal columns whose span holds that of x [m, k], k <= m and small: Householder on the host in f64. */
export async function orthonormalBasis(x: Tensor, made: OpenScope): Promise<Tensor> {
  const [m, k] = x.shape as [number, number];
  const q = orthogonalFactor(householder(await columnsOf(x), m, k), k);
  return made.run(() => tensorOf(q, m, k, x));
}

/** @throws RangeError unless `value` is a whole number in least .. most */
export function requireWhole(what: string, value: number, least: number, most: number): void {
  if (!Number.isSafeInteger(value) || value < least || value > most)
    throw new RangeError(`${what} must be a whole number in ${least} .. ${most}: got ${value}.`);
}
