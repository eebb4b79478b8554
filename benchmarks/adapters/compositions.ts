/** Phi-3's math over a library of arrays, as a user of tfjs or JAX writes it. */
import type { ArrayLibrary } from './array-library.ts';

export function rmsNorm<T>(of: ArrayLibrary<T>, x: T, weight: T, eps: number): T {
  return of.mul(of.mul(x, of.rsqrt(of.add(of.mean(of.mul(x, x)), eps))), weight);
}

export function swiglu<T>(of: ArrayLibrary<T>, gate: T, up: T): T {
  return of.mul(of.map('silu', gate)!, up);
}

/** x [..., width] with cos and sin of [..., width / 2] that broadcast. */
export function rope<T>(of: ArrayLibrary<T>, x: T, cos: T, sin: T, shape: readonly number[]): T {
  const half = shape.at(-1)! / 2;
  const begin = shape.map(() => 0);
  const size = [...shape.slice(0, -1), half];
  const x1 = of.slice(x, begin, size);
  const x2 = of.slice(x, [...begin.slice(0, -1), half], size);
  return of.concat([of.sub(of.mul(x1, cos), of.mul(x2, sin)), of.add(of.mul(x2, cos), of.mul(x1, sin))]);
}

/** q [..., queries, width], k and v [..., keys, width]; the mask is added to the scores. */
export function attention<T>(of: ArrayLibrary<T>, q: T, k: T, v: T, mask: T | null, width: number): T {
  const scores = of.mul(of.matmul(q, k, false, true), 1 / Math.sqrt(width));
  return of.matmul(of.softmax(mask === null ? scores : of.add(scores, mask)), v, false, false);
}

/** [queries, keys]: 0 where a query may look, else a number that exp turns into 0. */
export function causalMask(queries: number, keys: number): Float32Array {
  const mask = new Float32Array(queries * keys);
  for (let q = 0; q < queries; q++) mask.fill(-1e9, q * keys + keys - queries + q + 1, (q + 1) * keys);
  return mask;
}

/** Mean of -log p(label) over the counted labels. */
export function crossEntropy<T>(of: ArrayLibrary<T>, logits: T, labels: T, classes: number, counted: number): T {
  return of.mul(of.sum(of.mul(of.logSoftmax(of.fence(logits)), of.oneHot(labels, classes)), null), -1 / counted);
}

export const countLabels = (labels: Int32Array): number => labels.reduce((n, l) => n + (l === -100 ? 0 : 1), 0);

/** The first and second moment and the parameter after a step; `rate` and `scale` carry the bias corrections. */
export interface AdamwOptions {
  readonly lr: number;
  readonly betas: readonly [number, number];
  readonly eps: number;
  readonly weightDecay: number;
}

/** What changes from step to step: lr / (1 - b1^t) and 1 / sqrt(1 - b2^t), one number each. */
export const adamwRates = ({ lr, betas: [b1, b2] }: AdamwOptions, step: number): [number, number] => [
  lr / (1 - b1 ** step),
  1 / Math.sqrt(1 - b2 ** step),
];

/** AdamW: [parameter, m, v] after a step. */
export function adamw<T>(
  of: ArrayLibrary<T>,
  [p, m, v]: readonly [T, T, T],
  g: T,
  [rate, scale]: readonly [T, T],
  { lr, betas: [b1, b2], eps, weightDecay }: AdamwOptions,
): [T, T, T] {
  const first = of.add(of.mul(m, b1), of.mul(g, 1 - b1));
  const second = of.add(of.mul(v, b2), of.mul(of.mul(g, g), 1 - b2));
  const decayed = weightDecay === 0 ? p : of.mul(p, 1 - lr * weightDecay);
  const update = of.div(of.mul(first, rate), of.add(of.mul(of.sqrt(second), scale), eps));
  return [of.sub(decayed, update), first, second];
}
