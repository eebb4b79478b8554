/**
 * How far a backend may be from a recording: the one place. Recordings of ops are f64 results rounded once to f32;
 * recordings of models are PyTorch's own f32. An entry looser than PyTorch's `assert_close` says why.
 */

import type { DType } from '@lorikeet/tensor';

/** What is compared: an op's output or gradient, or a named quantity of a model run. */
export type Quantity = 'output' | 'gradient';

export type Limit =
  /** |error| <= atol + rtol * |expected|, element by element. */
  | { readonly kind: 'each'; readonly rtol: number; readonly atol: number }
  /** |error| <= (0.5 * sqrt(terms) * scale + 2) * 2^-24 * sum|a||b|, element by element, from recorded magnitudes. */
  | { readonly kind: 'product'; readonly scale: number }
  /** |error| <= atol + (rtol + 0.5 * sqrt(terms) * 2^-24) * sum|term|: `each` of every term, and the sum's own rounding. */
  | { readonly kind: 'terms'; readonly rtol: number; readonly atol: number }
  /**
   * ||error|| <= relative * ||expected|| + floor * sqrt(elements) over the whole tensor, and the cosine of both at least
   * `cosine` unless the error is below the floor alone.
   */
  | { readonly kind: 'whole'; readonly relative: number; readonly cosine: number; readonly floor: number }
  /** Each |error| <= atol and |mean error| <= meanResidual: a trajectory that drifts to one side fails early. */
  | { readonly kind: 'trajectory'; readonly atol: number; readonly meanResidual: number };

const each = (rtol: number, atol: number): Limit => ({ kind: 'each', rtol, atol });
const whole = (relative: number, cosine: number, floor = 0): Limit => ({ kind: 'whole', relative, cosine, floor });

const isGpu = (backend: string): boolean => backend === 'webgpu';

export const exact: Limit = each(0, 0);
/** Decoded weights: exact, but that a GPU may flush subnormal numbers to zero (an NVIDIA H100 does). */
export const decodedWeight = (backend: string): Limit => (isGpu(backend) ? each(0, 2 ** -126) : exact);

/** PyTorch's assert_close for f32. */
const single: Limit = each(1.3e-6, 1e-5);

/** Several roundings after one another (exponentials, divisions, norms): reliability.md section 4 allows 2e-6. */
const several: Limit = each(2e-6, 1e-5);

/** Exponentials and square roots of a GPU are worth a few units in the last place: reliability.md section 4. */
const severalOnGpu: Limit = each(2e-5, 1e-5);

/**
 * Gradients that a GPU computes in f32, against f64: reliability.md section 4, over the whole tensor. The floor is for
 * gradients that cancel to almost nothing (a norm over one column) and keep the rounding of what cancelled.
 */
const gradientOnGpu: Limit = whole(1e-4, 0.999999, 1e-6);

// pow: its gradient rounds b - 1 before that becomes an exponent.
const compound: ReadonlySet<string> = new Set([
  'pow',
  'softmax', 'logSoftmax', 'rmsNorm', 'layerNorm', 'rope', 'attention', 'silu', 'gelu', 'swiglu', 'crossEntropy',
  'linearCrossEntropy',
]); // biome-ignore format: a list

const roundsProducts = (backend: string): boolean => ['cpu', 'webgpu', 'gpujs-webasm'].includes(backend);

/** PyTorch's assert_close for results that are rounded to half precision; integers have one right answer. */
const byDtype: Readonly<Partial<Record<DType, Limit>>> = {
  bf16: each(1.6e-2, 1e-5),
  f16: each(1e-3, 1e-5),
  i32: exact,
  u32: exact,
  u8: exact,
  i8: exact,
};

/** Ops whose gradient reads their result: in half precision its rounding may fall to either side, and the gradient with it. */
const readsResult: ReadonlySet<string> = new Set(['exp', 'sqrt', 'rsqrt', 'tanh', 'sigmoid', 'softmax', 'logSoftmax']);

/** The dtype that decides how near a result can be: its own, or that of the result which a gradient reads. */
export const decisiveDType = (op: string, quantity: Quantity, own: DType, result: DType): DType =>
  quantity === 'gradient' && readsResult.has(op) ? result : own;

/** What a recording knows about the terms of a sum: those of a product are exact before they are added. */
export type Terms = 'products' | 'rounded' | undefined;

/** The limit of an op whose result has that dtype. Sums of products or of terms have bounds of their own. */
export function opLimit(op: string, quantity: Quantity, dtype: DType, backend: string, terms: Terms): Limit {
  const element = byDtype[dtype] ?? (isGpu(backend) ? severalOnGpu : compound.has(op) ? several : single);
  if (terms === 'rounded' && element.kind === 'each') return { ...element, kind: 'terms' };
  if (byDtype[dtype]) return element;
  // Relaxed SIMD and GPUs may round twice where the reference rounds once, and gpu.js in WebAssembly rounds every product:
  // reliability.md section 4 doubles the bound.
  if (terms) return { kind: 'product', scale: roundsProducts(backend) ? 2 : 1 };
  return isGpu(backend) && quantity === 'gradient' ? gradientOnGpu : element;
}

/** Limits of whole models, by quantity. CPU against PyTorch's f32, which itself differs from f64 by about 1e-6. */
export function modelLimit(quantity: string, backend: string): Limit {
  switch (quantity) {
    case 'logits':
      return each(0, isGpu(backend) ? 1e-3 : 1e-4);
    case 'loss':
      return each(1e-5, isGpu(backend) ? 1e-4 : 1e-5);
    case 'gradient':
      return whole(1e-4, 0.999999);
    case 'int8Activations':
      // Their last bit may move a rounding to 8 bits by a step of 1/127, in each of eight layers: sqrt(8) / 127 of the whole.
      return whole(2.3e-2, 0.999);
    case 'merged':
      return each(1.3e-6, 1e-5);
    case 'mergedHalf':
      // bf16 keeps 8 bits: where the sum lies between two numbers, its order decides which of both is taken.
      return each(2 ** -7, 0);
    case 'decomposed':
      // Singular vectors of f32 in Python, f64 here: the error of f32 over the gap between singular values.
      return whole(1e-3, 0.999999, 1e-6);
    case 'requantized':
      // A weight near the middle of two 4-bit codes may fall to the other side, and then is off by a step.
      return whole(3e-2, 0.999);
    case 'loftqAlternated':
      // Both of them.
      return whole(3e-2, 0.999);
    case 'processedLogits':
      // Both sides compute in f64 on the host; the recording is rounded to f32 once.
      return each(2 ** -23, 0);
    case 'learningRate':
      return each(1e-6, 1e-12);
    case 'lossTrajectory':
      return { kind: 'trajectory', atol: isGpu(backend) ? 5e-3 : 1e-3, meanResidual: isGpu(backend) ? 5e-4 : 1e-4 };
    case 'gradNorm':
      return each(1e-2, 0);
    case 'perplexity':
      // e^loss: its relative error is the absolute error of the loss.
      return each(isGpu(backend) ? 1e-3 : 1e-4, 0);
    case 'runLoss':
      // Ten times closer than a trajectory need be: both sides draw the same masks, noise and first weights.
      return { kind: 'trajectory', atol: isGpu(backend) ? 1e-3 : 1e-4, meanResidual: isGpu(backend) ? 1e-4 : 5e-5 };
    case 'optimizedParameter':
      // Two hundred steps in f32 against f64.
      return whole(1e-4, 0.9999999, 1e-6);
    case 'clipped':
      // A root of a sum of squares and a product with it.
      return each(4e-6, 1e-12);
    case 'stepped':
      // Two hundred steps, each rounded a few times, beside a square root of torch's that is a unit off.
      return each(1e-5, 1e-6);
    case 'keptScale':
      // 1 / (1 - p), divided in f32 on both sides: one rounding each.
      return each(2 ** -22, 0);
    case 'initialScale':
      // What 60000 draws tell of a standard deviation: 0.3 % is one sigma.
      return each(1.2e-2, 0);
    case 'trainedParameter':
      // Twenty steps of m / sqrt(v) turn a rounding in a tiny gradient into a step of the full rate.
      return whole(1e-3, 0.99999);
    default:
      throw new TypeError(
        `tolerances: quantity must be listed in modelLimit: got ${quantity}. Add it with its reason.`,
      );
  }
}
