/** softmax, logSoftmax, rmsNorm, layerNorm: each a composition first; kernels of the same name are tested against it. */

import { isFloat, promote } from '../dtype.ts';
import { ShapeError } from '../errors.ts';
import { defineOp, type Spec } from '../op.ts';
import { scope } from '../scope.ts';
import { normalizeAxis, sameShape, showShape } from '../shape.ts';
import type { Tensor } from '../tensor.ts';

const rows = [
  { inputs: { x: { shape: [3, 7], low: -5, high: 5 } } },
  { inputs: { x: { shape: [2, 2, 33], low: -50, high: 50 } } },
  { inputs: { x: { shape: [4, 1] } } },
  { inputs: { x: { shape: [3, 19], low: -9, high: 9, dtype: 'f16' as const } } },
];
const same = ({ x }: { readonly x: { readonly shape: readonly number[]; readonly dtype: 'f32' | string } }) => ({
  shape: x.shape,
  dtype: (isFloat(x.dtype as 'f32') ? x.dtype : 'f32') as 'f32',
});
const keep = { keepDims: true };
/** Halves in f32: a square of 300 overflows f16, and a sum rounded at each step keeps no digits of bf16. */
const wide = (x: Tensor): Tensor => (x.dtype === 'f16' || x.dtype === 'bf16' ? x.cast('f32') : x);

/** exp(x) / sum(exp(x)) along the last axis, shifted by the maximum so that nothing overflows. */
export const softmaxOp = defineOp({
  name: 'softmax',
  inputs: ['x'],
  shape: same,
  compose: ({ x }) => {
    const w = wide(x);
    const e = w.sub(w.max(-1, keep)).exp();
    return e.div(e.sum(-1, keep)).cast(same({ x }).dtype);
  },
  gradient: {
    x: { saves: ['out0'], rule: ({ grad, saved }) => softmaxGradOp.apply({ grad, out: saved.out0! }, {})[0]! },
  },
  samples: rows,
});

/** out * (grad - sum(grad * out)). */
export const softmaxGradOp = defineOp({
  name: 'softmaxGrad',
  inputs: ['grad', 'out'],
  shape: ({ grad }) => ({ shape: grad.shape, dtype: grad.dtype }),
  compose: ({ grad, out }) => {
    const [g, o] = [wide(grad), wide(out)];
    return o.mul(g.sub(g.mul(o).sum(-1, keep))).cast(grad.dtype);
  },
  samples: [{ inputs: { grad: { shape: [3, 9] }, out: { shape: [3, 9], low: 0, high: 1 } } }],
});

/** x - max - log(sum(exp(x - max))) along the last axis. */
export const logSoftmaxOp = defineOp({
  name: 'logSoftmax',
  inputs: ['x'],
  shape: same,
  compose: ({ x }) => {
    const w = wide(x);
    const shifted = w.sub(w.max(-1, keep));
    return shifted.sub(shifted.exp().sum(-1, keep).log()).cast(same({ x }).dtype);
  },
  gradient: {
    x: { saves: ['out0'], rule: ({ grad, saved }) => grad.sub(wide(saved.out0!).exp().mul(grad.sum(-1, keep))) },
  },
  samples: rows,
});

const alongLast = (x: Tensor, axis: number, op: string, apply: (x: Tensor) => Tensor): Tensor => {
  const a = normalizeAxis(op, axis, x.rank);
  return a === x.rank - 1 ? apply(x) : scope(() => apply(x.transpose(a, -1)).transpose(a, -1));
};
/** exp(x) / sum(exp(x)) along an axis (torch.softmax). Integers give f32. */
export const softmax = (x: Tensor, axis = -1): Tensor =>
  alongLast(x, axis, 'softmax', (t) => softmaxOp.apply({ x: t }, {})[0]!);
/** log(softmax(x)) along an axis, without overflow (torch.log_softmax). */
export const logSoftmax = (x: Tensor, axis = -1): Tensor =>
  alongLast(x, axis, 'logSoftmax', (t) => logSoftmaxOp.apply({ x: t }, {})[0]!);

interface Epsilon {
  readonly eps: number;
}

const checkWeight = (op: string, x: { shape: readonly number[] }, ...weights: { shape: readonly number[] }[]): void => {
  for (const w of weights)
    if (!sameShape(w.shape, x.shape.slice(-1)))
      throw new ShapeError(
        `${op}: weight and bias must be ${showShape(x.shape.slice(-1))}: got ${showShape(w.shape)}. Norms are over the last axis.`,
      );
};
const normSamples = [
  { inputs: { x: { shape: [3, 8] }, weight: { shape: [8] } }, attributes: { eps: 1e-5 } },
  { inputs: { x: { shape: [2, 3, 33] }, weight: { shape: [33] } }, attributes: { eps: 1e-6 } },
];
const normErrors = [
  { inputs: { x: { shape: [3, 8] }, weight: { shape: [7] } }, attributes: { eps: 1e-5 }, message: 'must be [8]' },
];

/** x * rsqrt(mean(x^2) + eps), at least in f32. */
const scaled = (x: Tensor, eps: number): Tensor => {
  const w = wide(x);
  return w.mul(w.mul(w).mean(-1, keep).add(eps).rsqrt());
};

/** x * rsqrt(mean(x^2) + eps) * weight over the last axis (Zhang and Sennrich 2019; transformers' Phi3RMSNorm). */
export const rmsNormOp = defineOp<'x' | 'weight', Epsilon>({
  name: 'rmsNorm',
  inputs: ['x', 'weight'],
  shape: ({ x, weight }) => {
    checkWeight('rmsNorm', x, weight);
    return { shape: x.shape, dtype: promote(x.dtype, weight.dtype) };
  },
  compose: ({ x, weight }, { eps }) => scaled(x, eps).mul(wide(weight)).cast(promote(x.dtype, weight.dtype)),
  gradient: {
    x: {
      saves: ['x', 'weight'],
      rule: ({ grad, saved, attributes }) =>
        rmsNormGradOp.apply({ grad, x: saved.x!, weight: saved.weight! }, attributes)[0]!,
    },
    weight: {
      saves: ['x'],
      rule: ({ grad, saved, attributes }) => rmsNormWeightGradOp.apply({ grad, x: saved.x! }, attributes)[0]!,
    },
  },
  samples: normSamples,
  errors: normErrors,
});

/** With g = grad * weight and s = rsqrt(mean(x^2) + eps): s * g - x * s^3 * mean(g * x). */
export const rmsNormGradOp = defineOp<'grad' | 'x' | 'weight', Epsilon>({
  name: 'rmsNormGrad',
  inputs: ['grad', 'x', 'weight'],
  shape: ({ x, grad }) => ({ shape: x.shape, dtype: grad.dtype }),
  compose: ({ grad, x, weight }, { eps }) => {
    const [g, w] = [wide(grad).mul(wide(weight)), wide(x)];
    const s = w.mul(w).mean(-1, keep).add(eps).rsqrt();
    return g
      .mul(s)
      .sub(w.mul(s.mul(s).mul(s).mul(g.mul(w).mean(-1, keep))))
      .cast(grad.dtype);
  },
  samples: [
    { inputs: { grad: { shape: [3, 8] }, x: { shape: [3, 8] }, weight: { shape: [8] } }, attributes: { eps: 1e-5 } },
  ],
});

/** Sum over all axes but the last: the gradient of a weight [d] from that of the result. */
const overRows = (x: Tensor): Tensor => (x.rank > 1 ? x.sum(x.shape.slice(1).map((_, axis) => axis)) : x);
const weightGradShape = ({ x }: { readonly x: Spec }): Spec => ({
  shape: x.shape.slice(-1),
  dtype: x.dtype === 'f64' ? 'f64' : 'f32',
});
const weightGradSamples = [
  { inputs: { grad: { shape: [3, 8] }, x: { shape: [3, 8] } }, attributes: { eps: 1e-5 } },
  { inputs: { grad: { shape: [2, 5, 33] }, x: { shape: [2, 5, 33] } }, attributes: { eps: 1e-5 } },
];

/** Sum over rows of grad * x * rsqrt(mean(x^2) + eps). */
export const rmsNormWeightGradOp = defineOp<'grad' | 'x', Epsilon>({
  name: 'rmsNormWeightGrad',
  inputs: ['grad', 'x'],
  shape: weightGradShape,
  compose: ({ grad, x }, { eps }) => overRows(wide(grad).mul(scaled(x, eps))),
  samples: weightGradSamples,
});

/** x * rsqrt(mean(x^2) + eps) * weight [d] over the last axis; see rmsNormOp. */
export const rmsNorm = (x: Tensor, weight: Tensor, eps: number): Tensor => rmsNormOp.apply({ x, weight }, { eps })[0]!;

/** (x - mean) * scale and scale = rsqrt(variance + eps) over the last axis, at least in f32. */
const standardized = (x: Tensor, eps: number): { normal: Tensor; scale: Tensor } => {
  const w = wide(x);
  // Twice: the rounding of a mean far from 0 is an error of every difference, and the second mean is that error.
  const near = w.sub(w.mean(-1, keep));
  const centered = near.sub(near.mean(-1, keep));
  const scale = centered.mul(centered).mean(-1, keep).add(eps).rsqrt();
  return { normal: centered.mul(scale), scale };
};

/** (x - mean) * rsqrt(variance + eps) * weight + bias over the last axis (Ba et al. 2016; biased variance). */
export const layerNormOp = defineOp<'x' | 'weight' | 'bias', Epsilon>({
  name: 'layerNorm',
  inputs: ['x', 'weight', 'bias'],
  shape: ({ x, weight, bias }) => {
    checkWeight('layerNorm', x, weight, bias);
    return { shape: x.shape, dtype: promote(x.dtype, weight.dtype) };
  },
  compose: ({ x, weight, bias }, { eps }) =>
    standardized(x, eps).normal.mul(wide(weight)).add(wide(bias)).cast(promote(x.dtype, weight.dtype)),
  gradient: {
    x: {
      saves: ['x', 'weight'],
      rule: ({ grad, saved, attributes }) =>
        layerNormGradOp.apply({ grad, x: saved.x!, weight: saved.weight! }, attributes)[0]!,
    },
    weight: {
      saves: ['x'],
      rule: ({ grad, saved, attributes }) => layerNormWeightGradOp.apply({ grad, x: saved.x! }, attributes)[0]!,
    },
    bias: { rule: ({ grad }) => grad },
  },
  samples: [
    { inputs: { x: { shape: [3, 9] }, weight: { shape: [9] }, bias: { shape: [9] } }, attributes: { eps: 1e-5 } },
  ],
  errors: [
    {
      inputs: { x: { shape: [3, 9] }, weight: { shape: [9] }, bias: { shape: [3] } },
      attributes: { eps: 1e-5 },
      message: 'must be [9]',
    },
  ],
});

/** With g = grad * weight, n = (x - mean) * scale: scale * (g - mean(g) - n * mean(g * n)), as torch's layer_norm_backward. */
export const layerNormGradOp = defineOp<'grad' | 'x' | 'weight', Epsilon>({
  name: 'layerNormGrad',
  inputs: ['grad', 'x', 'weight'],
  shape: ({ x, grad }) => ({ shape: x.shape, dtype: grad.dtype }),
  compose: ({ grad, x, weight }, { eps }) => {
    const { normal, scale } = standardized(x, eps);
    const g = wide(grad).mul(wide(weight));
    // What cancels is taken apart before it is scaled: better than the chain of the composition.
    const rest = g.sub(g.mean(-1, keep)).sub(normal.mul(g.mul(normal).mean(-1, keep)));
    return scale.mul(rest).cast(grad.dtype);
  },
  samples: [
    { inputs: { grad: { shape: [3, 9] }, x: { shape: [3, 9] }, weight: { shape: [9] } }, attributes: { eps: 1e-5 } },
  ],
});

/** Sum over rows of grad * (x - mean) * rsqrt(variance + eps). */
export const layerNormWeightGradOp = defineOp<'grad' | 'x', Epsilon>({
  name: 'layerNormWeightGrad',
  inputs: ['grad', 'x'],
  shape: weightGradShape,
  compose: ({ grad, x }, { eps }) => overRows(wide(grad).mul(standardized(x, eps).normal)),
  samples: weightGradSamples,
});

/** Layer norm over the last axis with weight and bias [d] (torch.nn.functional.layer_norm); see layerNormOp. */
export const layerNorm = (x: Tensor, weight: Tensor, bias: Tensor, eps = 1e-5): Tensor =>
  layerNormOp.apply({ x, weight, bias }, { eps })[0]!;
