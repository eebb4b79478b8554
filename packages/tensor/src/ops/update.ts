/** Ops that write in place: optimizer steps and the key-value cache. */

import { defineUpdate } from '../elementwise.ts';
import { ShapeError } from '../errors.ts';
import { select } from '../expression.ts';
import { defineOp } from '../op.ts';
import { showShape } from '../shape.ts';
import type { Tensor } from '../tensor.ts';

/**
 * One AdamW step (Loshchilov and Hutter 2019). `gradScale` multiplies the gradient (clipping); `correction1` = 1 - beta1^t,
 * `correction2` = sqrt(1 - beta2^t). `weightDecay` shrinks the parameter before the step (torch.optim.AdamW),
 * `weightDecayAfter` after it (bitsandbytes' CUDA kernels).
 */
export const adamwUpdate = defineUpdate({
  name: 'adamw',
  inputs: ['param', 'grad', 'm', 'v'],
  mutates: ['param', 'm', 'v'],
  parameters: [
    'gradScale', 'lr', 'beta1', 'beta2', 'eps', 'weightDecay', 'weightDecayAfter', 'correction1', 'correction2',
  ], // biome-ignore format: names
  derived: {
    enter1: ({ beta1 }) => 1 - beta1,
    enter2: ({ beta2 }) => 1 - beta2,
    keptBefore: ({ lr, weightDecay }) => 1 - lr * weightDecay,
    keptAfter: ({ lr, weightDecayAfter }) => 1 - lr * weightDecayAfter,
  },
  forward: (x) => {
    const g = x.grad.mul(x.gradScale);
    const m1 = x.m.mul(x.beta1).add(g.mul(x.enter1));
    const v1 = x.v.mul(x.beta2).add(g.mul(g).mul(x.enter2));
    const step = m1.div(x.correction1).div(v1.sqrt().div(x.correction2).add(x.eps));
    return [x.param.mul(x.keptBefore).sub(x.lr.mul(step)).mul(x.keptAfter), m1, v1];
  },
});

/**
 * One SGD step (torch.optim.SGD): momentum buffer b = decay * b + (1 - dampening) * g with g = gradient + weightDecay * p;
 * p moves by b, or by g + decay * b where `nesterov` is not 0.
 */
export const sgdUpdate = defineUpdate({
  name: 'sgd',
  inputs: ['param', 'grad', 'momentum'],
  mutates: ['param', 'momentum'],
  parameters: ['gradScale', 'lr', 'decay', 'dampening', 'nesterov', 'weightDecay'],
  derived: { enter: ({ dampening }) => 1 - dampening },
  forward: ({ param, grad, momentum, gradScale, lr, decay, enter, nesterov, weightDecay }) => {
    const g = grad.mul(gradScale).add(param.mul(weightDecay));
    const b = momentum.mul(decay).add(g.mul(enter));
    const step = select(nesterov.ne(0), g.add(b.mul(decay)), b);
    return [param.sub(lr.mul(step)), b];
  },
});

/** One Lion step (Chen et al. 2023; bitsandbytes' Lion): the sign of beta1 * m + (1 - beta1) * g, decay before the step. */
export const lionUpdate = defineUpdate({
  name: 'lion',
  inputs: ['param', 'grad', 'm'],
  mutates: ['param', 'm'],
  parameters: ['gradScale', 'lr', 'beta1', 'beta2', 'weightDecay'],
  derived: {
    enter1: ({ beta1 }) => 1 - beta1,
    enter2: ({ beta2 }) => 1 - beta2,
    kept: ({ lr, weightDecay }) => 1 - lr * weightDecay,
  },
  forward: ({ param, grad, m, gradScale, lr, beta1, beta2, enter1, enter2, kept }) => {
    const g = grad.mul(gradScale);
    const mixed = m.mul(beta1).add(g.mul(enter1));
    // What is neither above nor below 0 is its own sign: 0, or NaN.
    const sign = select(mixed.gt(0), 1, select(mixed.lt(0), -1, mixed));
    return [param.mul(kept).sub(lr.mul(sign)), m.mul(beta2).add(g.mul(enter2))];
  },
});

/** See writeRows. */
export const writeRowsOp = defineOp<'target' | 'rows', { at: number }>({
  name: 'writeRows',
  inputs: ['target', 'rows'],
  mutates: ['target'],
  shape: ({ target, rows }, { at }) => {
    const fits =
      showShape(target.shape.slice(1)) === showShape(rows.shape.slice(1)) &&
      Number.isInteger(at) &&
      at >= 0 &&
      at + rows.shape[0]! <= target.shape[0]!;
    if (!fits)
      throw new ShapeError(
        `writeRows: rows ${showShape(rows.shape)} at ${at} must fit into ${showShape(target.shape)}. Make the target larger.`,
      );
    return { shape: target.shape, dtype: target.dtype };
  },
  reference: ([target, rows], [out], attributes) => {
    out!.data.set(target!.data);
    const inner = rows!.data.length / Math.max(1, rows!.shape[0]!);
    out!.data.set(rows!.data, (attributes.at as number) * inner);
  },
  samples: [
    {
      inputs: { target: { shape: [5, 3], differentiable: false }, rows: { shape: [2, 3], differentiable: false } },
      attributes: { at: 2 },
    },
    {
      inputs: {
        target: { shape: [4, 2, 3], dtype: 'f16', differentiable: false },
        rows: { shape: [1, 2, 3], differentiable: false },
      },
      attributes: { at: 0 },
    },
  ],
  errors: [
    {
      inputs: { target: { shape: [5, 3], differentiable: false }, rows: { shape: [2, 3], differentiable: false } },
      attributes: { at: 4 },
      message: 'must fit',
    },
  ],
});

/** Overwrites rows at .. at + n of a tensor, in place: how a key-value cache grows. */
export function writeRows(target: Tensor, rows: Tensor, at: number): void {
  if (!target.isContiguous)
    throw new ShapeError(
      `writeRows: the target must own its rows: got a column block ${showShape(target.shape)}. Write into the tensor it was split from, or into a contiguous() copy.`,
    );
  for (const t of writeRowsOp.apply({ target, rows }, { at })) t.dispose();
}
