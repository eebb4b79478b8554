import type { Limit } from './tolerances.ts';

/** Sums of |a||b| for each element of a sum of products, and how many terms it has. */
export interface Magnitude {
  readonly sums: ArrayLike<number>;
  readonly terms: number;
  readonly rounded?: boolean | undefined;
}

/** How two tensors differ. */
export interface Difference {
  readonly passed: boolean;
  readonly worstAbsolute: number;
  /** The worst absolute error, divided by the largest recorded value of the tensor (0 if that is 0). */
  readonly worstRelative: number;
  /** Largest error as a part of what is allowed there; above 1 fails. */
  readonly ofLimit: number;
  /** Flat index of the element nearest to its limit, and both values there. */
  readonly at: { readonly index: number; readonly actual: number; readonly expected: number } | null;
}

/** f32's unit roundoff. */
const roundoff = 2 ** -24;

function allowedAt(limit: Limit, expected: number, index: number, magnitude?: Magnitude): number {
  switch (limit.kind) {
    case 'each':
      return limit.atol + limit.rtol * Math.abs(expected);
    case 'product':
      if (!magnitude) throw new TypeError('compare: the limit of a product needs recorded magnitudes: got none.');
      // The addend 2 is the last rounding of our value and of the recorded one, each up to one roundoff.
      return (0.5 * Math.sqrt(magnitude.terms) * limit.scale + 2) * roundoff * magnitude.sums[index]!;
    case 'terms':
      if (!magnitude) throw new TypeError('compare: the limit of a sum of terms needs recorded magnitudes: got none.');
      return limit.atol + (limit.rtol + 0.5 * Math.sqrt(magnitude.terms) * roundoff) * magnitude.sums[index]!;
    case 'trajectory':
      return limit.atol;
    case 'whole':
      return Number.POSITIVE_INFINITY;
  }
}

/** An error as a part of what is allowed; exact equality (of infinities and NaN too) is 0. */
function partOf(error: number, allowed: number): number {
  if (error === 0) return 0;
  return Number.isFinite(error) && allowed > 0 ? error / allowed : Number.POSITIVE_INFINITY;
}

const errorOf = (actual: number, expected: number): number =>
  Object.is(actual, expected) || actual === expected ? 0 : Math.abs(actual - expected);

/** Compares element by element and, where the limit says so, as a whole. */
export function compare(
  actual: ArrayLike<number>,
  expected: ArrayLike<number>,
  limit: Limit,
  magnitude?: Magnitude,
): Difference {
  if (actual.length !== expected.length)
    throw new RangeError(`compare: sizes must be equal: got ${actual.length}, the recording has ${expected.length}.`);
  let [worstAbsolute, largest, ofLimit] = [0, 0, 0];
  let at: Difference['at'] = null;
  for (let i = 0; i < expected.length; i++) {
    const [a, e] = [actual[i]!, expected[i]!];
    const error = errorOf(a, e);
    worstAbsolute = Math.max(worstAbsolute, Number.isNaN(error) ? Number.POSITIVE_INFINITY : error);
    if (Number.isFinite(e)) largest = Math.max(largest, Math.abs(e));
    const part =
      limit.kind === 'whole' && Number.isFinite(error) ? 0 : partOf(error, allowedAt(limit, e, i, magnitude));
    if (!at || part > ofLimit) at = { index: i, actual: a, expected: e };
    ofLimit = Math.max(ofLimit, part);
  }
  ofLimit = Math.max(ofLimit, wholePart(actual, expected, limit));
  const worstRelative = largest === 0 ? 0 : worstAbsolute / largest;
  return { passed: ofLimit <= 1, worstAbsolute, worstRelative, ofLimit, at };
}

/** What only the whole tensor can show: its relative error and direction, or the mean of signed errors. */
function wholePart(actual: ArrayLike<number>, expected: ArrayLike<number>, limit: Limit): number {
  if (limit.kind !== 'whole' && limit.kind !== 'trajectory') return 0;
  let [errors, signed, aa, ee, ae] = [0, 0, 0, 0, 0];
  for (let i = 0; i < expected.length; i++) {
    const [a, e] = [actual[i]!, expected[i]!];
    errors += (a - e) ** 2;
    signed += a - e;
    aa += a * a;
    ee += e * e;
    ae += a * e;
  }
  if (limit.kind === 'trajectory') return partOf(Math.abs(signed / expected.length), limit.meanResidual);
  const floor = limit.floor * Math.sqrt(expected.length);
  const relative = partOf(Math.sqrt(errors), limit.relative * Math.sqrt(ee) + floor);
  const turned = Math.sqrt(errors) <= floor ? 0 : (1 - ae / Math.sqrt(aa * ee)) / (1 - limit.cosine);
  return Math.max(relative, turned);
}
