import { noGrad } from '../autograd.ts';
import { normal, tensor } from '../creation.ts';
import type { RandomKey } from '../random.ts';
import { type OpenScope, openScope, scope } from '../scope.ts';
import type { Tensor } from '../tensor.ts';
import { columnsOf, requireFinite, requireMatrix, tensorOf, workDType } from './host-matrix.ts';
import { jacobiSvd } from './jacobi.ts';
import { qr } from './qr.ts';
import { type Svd, svd } from './svd.ts';
import { orthonormalBasis, requireWhole, runIn, type TallOperator, tallOperator } from './tall-operator.ts';

export interface TruncatedSvdOptions {
  /** How many triplets. */
  readonly rank: number;
  /** Source of the random start where the matrix is large. */
  readonly key: RandomKey;
  /** Most |A^T u - s v| of a triplet, relative to the largest singular value. @defaultValue 1e-5, about what f32 products give */
  readonly tolerance?: number;
}

/** Up to this many rows or columns the whole SVD is as fast. */
const wholeUpTo = 192;
/** Blocks of a Krylov space before it is restarted. */
const blocksPerCycle = 6;
const cycleLimit = 40;
/** Columns of a block beyond the rank: they cost little and the wanted ones converge faster. */
const spare = 16;

/** Ritz triplets of one cycle: `tallSide` [tall, b], s [b], `shortSide` [short, b]. */
interface Ritz {
  readonly tallSide: Tensor;
  readonly s: Float64Array;
  readonly shortSide: Tensor;
}

/**
 * The `rank` largest singular triplets, exact to f32: what PiSSA and LoftQ need of a large layer, without the whole SVD. Up to 192 rows or
 * columns it is svd; above, a block Krylov space (Musco and Musco 2015) that is restarted from its best vectors until every residual is
 * below the tolerance; all large products run on the backend. Same key, same bits.
 *
 * @param a matrix [m, n] of floats, not empty
 * @throws ShapeError, DTypeError, RangeError; NonFiniteError when a holds NaN or infinity; Error when it does not converge
 */
export async function truncatedSvd(a: Tensor, options: TruncatedSvdOptions): Promise<Svd> {
  const [m, n] = requireMatrix('truncatedSvd', a);
  const { rank, key, tolerance = 1e-5 } = options;
  const least = Math.min(m, n);
  requireWhole('truncatedSvd: rank', rank, 1, least);
  // A basis as wide as the matrix would be no saving.
  if (least <= wholeUpTo || (rank + spare) * blocksPerCycle > least) return firstOf(await svd(a), rank);
  await requireFinite('truncatedSvd', a);
  const operator = tallOperator(a);
  using made = openScope();
  const shape = [operator.short, rank + spare];
  let start = runIn(made)(() => normal(shape, { backend: a.backend, dtype: workDType(a), key }));
  for (let cycle = 0; cycle < cycleLimit; cycle++) {
    using work = openScope();
    const ritz = await krylovCycle(operator, start, work);
    const residual = await largestResidual(operator, ritz, rank, work);
    if (residual <= tolerance * ritz.s[0]!) return tripletsOf(ritz, rank, operator.turned);
    start = made.run(() => ritz.shortSide.alias());
  }
  throw new Error(
    `truncatedSvd: must converge within ${cycleLimit} restarts: [${m}, ${n}] did not at tolerance ${tolerance}. Give a larger one.`,
  );
}

/** The first triplets of a whole decomposition, which is freed. */
function firstOf({ u, s, vh }: Svd, rank: number): Svd {
  try {
    return scope(() => ({
      u: u.slice(1, 0, rank).contiguous(),
      s: s.slice(0, 0, rank).contiguous(),
      vh: vh.slice(0, 0, rank).contiguous(),
    }));
  } finally {
    for (const t of [u, s, vh]) t.dispose();
  }
}

/** An orthonormal basis of start, A^T A start, (A^T A)^2 start, ..., and the best triplets in it (Rayleigh-Ritz). */
async function krylovCycle(operator: TallOperator, start: Tensor, work: OpenScope): Promise<Ritz> {
  const run = runIn(work);
  const basis: Tensor[] = [];
  const images: Tensor[] = [];
  let next = start;
  for (let i = 0; i < blocksPerCycle; i++) {
    // Twice: what one pass leaves in f32 is no longer orthogonal to the blocks before.
    let block = next;
    for (let pass = 0; pass < 2; pass++) {
      const cleaned = run(() => without(block, basis));
      block = await orthonormalBasis(cleaned, work);
    }
    basis.push(block);
    const image = run(() => operator.forward(block));
    images.push(image);
    next = run(() => operator.backward(image));
  }
  const width = start.shape[1]!;
  const image = run(() => sideBySide(images)); // [tall, p]
  const { q, r } = await qr(image);
  const p = image.shape[1]!;
  const { u, s, v } = jacobiSvd(await columnsOf(r), p, p);
  const found = run(() => ({
    tallSide: q.matmul(tensorOf(u.subarray(0, p * width), p, width, q)),
    shortSide: sideBySide(basis).matmul(tensorOf(v.subarray(0, p * width), p, width, q)),
  }));
  for (const t of [q, r]) t.dispose();
  return { ...found, s: s.subarray(0, width) };
}

const sideBySide = ([first, ...others]: readonly Tensor[]): Tensor => first!.concat(others, 1);

/** block - B (B^T block) for the blocks B before it. */
function without(block: Tensor, basis: readonly Tensor[]): Tensor {
  return scope(() =>
    basis.reduce((left, before) => left.sub(before.matmul(before.matmul(left, { transposeA: true }))), block),
  );
}

/** The largest |A^T u - s v| of the first `rank` triplets (A v = s u holds by construction). */
async function largestResidual(
  operator: TallOperator,
  { tallSide, s, shortSide }: Ritz,
  rank: number,
  work: OpenScope,
): Promise<number> {
  const squares = runIn(work)(() =>
    scope(() => {
      const values = tensor(s.subarray(0, rank), { backend: tallSide.backend, dtype: tallSide.dtype });
      const scaled = shortSide.slice(1, 0, rank).mul(values);
      return operator
        .backward(tallSide.slice(1, 0, rank))
        .sub(scaled)
        .pow(2)
        .sum(0);
    }),
  );
  return Math.sqrt(Math.max(...(await squares.data())));
}

function tripletsOf({ tallSide, s, shortSide }: Ritz, rank: number, turned: boolean): Svd {
  return noGrad(() =>
    scope(() => {
      const [left, right] = turned ? [shortSide, tallSide] : [tallSide, shortSide];
      const values = tensor(s.subarray(0, rank), { backend: left.backend, dtype: left.dtype });
      return {
        u: left.slice(1, 0, rank).contiguous(),
        s: values,
        vh: right.slice(1, 0, rank).transpose(0, 1).contiguous(),
      };
    }),
  );
}
