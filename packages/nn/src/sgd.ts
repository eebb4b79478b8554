import { sgdUpdate } from '@lorikeet/tensor';
import type { NamedParameter } from './clip-grad-norm.ts';
import { Optimizer, type ParameterGroup } from './optimizer.ts';

/** Settings of SGD; momentum 0 is plain gradient descent. */
export interface SGDOptions {
  /** Default 1e-3. */
  readonly lr?: number;
  /** Default 0. */
  readonly momentum?: number;
  /** Default 0. */
  readonly weightDecay?: number;
}

/** Stochastic gradient descent with momentum (torch.optim.SGD, dampening 0, not Nesterov). */
export class SGD extends Optimizer {
  readonly momentum: number;

  constructor(
    parameters: readonly NamedParameter[] | readonly ParameterGroup[],
    { lr = 1e-3, momentum = 0, weightDecay = 0 }: SGDOptions = {},
  ) {
    super(parameters, { lr, weightDecay }, ['momentum_buffer']);
    if (!(momentum >= 0)) throw new RangeError(`SGD: momentum must be at least 0: got ${momentum}.`);
    this.momentum = momentum;
  }

  protected override update(
    { tensor, grad, buffers }: Parameters<Optimizer['update']>[0],
    { lr, weightDecay, gradScale }: Parameters<Optimizer['update']>[1],
  ): void {
    sgdUpdate.apply(
      { param: tensor, grad, momentum: buffers.momentum_buffer! },
      { gradScale, lr, decay: this.momentum, weightDecay },
    );
  }
}
