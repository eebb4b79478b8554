/** |got - want| <= absolute + relative * |want|, element by element. */
export interface Tolerance {
  readonly relative: number;
  readonly absolute: number;
}

/** reliability: PyTorch's assert_close defaults for f32; storage rounding for f16 and bf16. */
export const toleranceOf: Record<string, Tolerance> = {
  f64: { relative: 1e-7, absolute: 1e-7 },
  f32: { relative: 1.3e-6, absolute: 1e-5 },
  f16: { relative: 1e-3, absolute: 1e-5 },
  bf16: { relative: 1.6e-2, absolute: 1e-5 },
};

/** Throws with the first mismatch and the worst error; NaN equals NaN and infinities must match. */
export function expectClose(
  got: ArrayLike<number>,
  want: ArrayLike<number>,
  { relative, absolute }: Tolerance,
  where: string,
): void {
  if (got.length !== want.length) throw new Error(`${where}: ${got.length} elements, expected ${want.length}`);
  let worst = 0;
  let first = -1;
  for (let i = 0; i < got.length; i++) {
    const [g, w] = [got[i]!, want[i]!];
    if (Object.is(g, w) || g === w) continue;
    const error = Math.abs(g - w);
    const bound = absolute + relative * Math.abs(w);
    if (!(error <= bound)) {
      if (first < 0) first = i;
      worst = Math.max(worst, Number.isNaN(error) ? Number.POSITIVE_INFINITY : error);
    }
  }
  if (first >= 0)
    throw new Error(
      `${where}: element ${first} is ${got[first]}, expected ${want[first]} (worst error ${worst}, allowed ${absolute} + ${relative} * |expected|)`,
    );
}
