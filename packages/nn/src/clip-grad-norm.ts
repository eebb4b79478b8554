import { type Gradients, NonFiniteError, scope, stack, sumSquares, type Tensor, zeros } from '@lorikeet/tensor';

/** A parameter as the optimizers take it. */
export interface NamedParameter {
  readonly path: string;
  readonly tensor: Tensor;
}

/** What clipGradNorm found, for the log and for the optimizer's step. */
export interface ClippedNorm {
  /** Global L2 norm of the gradients before clipping. */
  readonly norm: number;
  /** min(1, maxNorm / (norm + 1e-6)): what the optimizer's `step` multiplies gradients by. */
  readonly scale: number;
}

/** Sums of squares [p] of the parameters' gradients, in order; parameters without a gradient are left out. Synchronous. */
export function gradientSquares(gradients: Gradients, parameters: readonly NamedParameter[]): Tensor | null {
  return scope(() => {
    const squares = parameters
      .filter(({ tensor }) => gradients.has(tensor))
      .map(({ tensor }) =>
        scope(() => {
          const g = gradients.of(tensor);
          return g.size === 0 ? zeros([], { backend: g.backend, dtype: g.dtype }) : sumSquares(g);
        }),
      );
    return squares.length ? stack(squares, 0) : null;
  });
}

/**
 * The global gradient norm and the clipping coefficient (torch.nn.utils.clip_grad_norm_, error_if_nonfinite=True). All
 * device work is issued before the first await: one small read-back a step. The sum over parameters is taken in f64 in
 * their order, so it is the same on every run. maxNorm null or Infinity measures without clipping.
 *
 * @throws NonFiniteError naming the first parameter whose gradient is not finite; RangeError for a maxNorm of 0 or below
 */
export async function clipGradNorm(
  gradients: Gradients,
  parameters: readonly NamedParameter[],
  maxNorm: number | null = null,
): Promise<ClippedNorm> {
  if (maxNorm !== null && !(maxNorm > 0))
    throw new RangeError(`clipGradNorm: maxNorm must be null or above 0: got ${maxNorm}. Use null to clip nothing.`);
  const reached = parameters.filter(({ tensor }) => gradients.has(tensor));
  const squares = gradientSquares(gradients, reached);
  if (!squares) return { norm: 0, scale: 1 };
  const values = await squares.data();
  squares.dispose();
  const bad = reached.filter((_, i) => !Number.isFinite(values[i]!));
  if (bad.length)
    throw new NonFiniteError(
      `clipGradNorm: gradients must be finite: ${bad.length} of ${reached.length} parameters are not, the first is ${bad[0]!.path}. Lower the learning rate, or look at this step's batch.`,
    );
  let sum = 0;
  for (const v of values) sum += v;
  const norm = Math.sqrt(sum);
  return { norm, scale: maxNorm === null ? 1 : Math.min(1, maxNorm / (norm + 1e-6)) };
}
