import { randomKey } from '@lorikeet/tensor';

/** A row's result: a plain number, or a sum over `weight` parts (a row's loss over its tokens) whose mean is asked for. */
export type Measurement = number | { readonly sum: number; readonly weight: number };

/** How the rows are resampled. */
export interface BootstrapOptions {
  /** Seeds the resampling: equal seeds give equal intervals. Default 0. */
  readonly seed?: number;
  /** Default 2000. */
  readonly resamples?: number;
  /** Part of the resamples inside the interval. Default 0.95. */
  readonly confidence?: number;
}

/** The difference of two means over the same rows. */
export interface BootstrapDifference {
  /** Mean of b minus mean of a, over all rows. */
  readonly difference: number;
  /** Ends of the percentile interval. */
  readonly low: number;
  readonly high: number;
  readonly meanA: number;
  readonly meanB: number;
  readonly confidence: number;
  readonly resamples: number;
  /** Whether the interval leaves zero out. If not, say "no measurable difference". */
  readonly conclusive: boolean;
}

const sumOf = (m: Measurement): number => (typeof m === 'number' ? m : m.sum);
const weightOf = (m: Measurement): number => (typeof m === 'number' ? 1 : m.weight);

/** The value below which a part `q` of sorted values lies, linearly between neighbours (numpy's default percentile). */
function quantile(sorted: Float64Array, q: number): number {
  const place = q * (sorted.length - 1);
  const below = Math.floor(place);
  const [low, high] = [sorted[below]!, sorted[Math.min(sorted.length - 1, below + 1)]!];
  return low + (high - low) * (place - below);
}

function check(a: readonly Measurement[], b: readonly Measurement[], resamples: number, confidence: number): void {
  if (a.length !== b.length || a.length === 0)
    throw new RangeError(
      `bootstrapDifference: a and b must be the same rows, at least one: got ${a.length} and ${b.length}. Measure both on one data set.`,
    );
  const bad = [...a, ...b].findIndex((m) => !Number.isFinite(sumOf(m)) || !(weightOf(m) >= 0));
  if (bad >= 0)
    throw new RangeError(
      `bootstrapDifference: values must be finite: row ${bad % a.length} of ${bad < a.length ? 'a' : 'b'} is not.`,
    );
  if (![a, b].every((list) => list.some((m) => weightOf(m) > 0)))
    throw new RangeError('bootstrapDifference: some row must have a weight above 0: none has. Check the data set.');
  if (!Number.isInteger(resamples) || resamples < 1)
    throw new RangeError(`bootstrapDifference: resamples must be a whole number of at least 1: got ${resamples}.`);
  if (!(confidence > 0 && confidence < 1))
    throw new RangeError(`bootstrapDifference: confidence must be between 0 and 1: got ${confidence}.`);
}

/**
 * How much better b is than a, paired: rows are drawn with replacement, the same ones for both, and the percentile interval of the
 * difference of the means is taken (Efron 1979; Koehn 2004 for paired test sets). Weighted rows give the ratio of sums.
 *
 * @throws RangeError if a and b are not the same rows, or a value is not finite
 */
export function bootstrapDifference(
  a: readonly Measurement[],
  b: readonly Measurement[],
  { seed = 0, resamples = 2000, confidence = 0.95 }: BootstrapOptions = {},
): BootstrapDifference {
  check(a, b, resamples, confidence);
  const n = a.length;
  const columns = [a.map(sumOf), a.map(weightOf), b.map(sumOf), b.map(weightOf)].map((c) => Float64Array.from(c));
  const [sumA, weightA, sumB, weightB] = columns as [Float64Array, Float64Array, Float64Array, Float64Array];
  const means = (pick: (i: number) => number): readonly [number, number] => {
    let [sa, wa, sb, wb] = [0, 0, 0, 0];
    for (let i = 0; i < n; i++) {
      const row = pick(i);
      sa += sumA[row]!;
      wa += weightA[row]!;
      sb += sumB[row]!;
      wb += weightB[row]!;
    }
    return [sa / wa, sb / wb];
  };
  const [meanA, meanB] = means((i) => i);
  const key = randomKey(seed, 'bootstrap');
  const differences = new Float64Array(resamples);
  for (let r = 0; r < resamples; r++) {
    const draw = key.fold(r);
    for (let attempt = 0; ; attempt++) {
      const [ra, rb] = means((i) => Math.floor(draw.uniform(attempt * n + i) * n));
      differences[r] = rb - ra;
      if (Number.isFinite(differences[r])) break; // all drawn rows without weight: draw again
    }
  }
  differences.sort();
  const [low, high] = [quantile(differences, (1 - confidence) / 2), quantile(differences, (1 + confidence) / 2)];
  const conclusive = low > 0 || high < 0;
  return { difference: meanB - meanA, low, high, meanA, meanB, confidence, resamples, conclusive };
}
