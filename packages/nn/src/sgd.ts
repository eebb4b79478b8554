import { type Spec, sgdUpdate } from '@lorikeet/tensor';
import type { NamedParameter } from './clip-grad-norm.ts';
import { fullState, Optimizer, type ParameterGroup, type ParameterUpdate, type UpdateSettings } from './optimizer.ts';

/** Settings of SGD; momentum 0 is plain gradient descent. */
export interface SGDOptions {
  /** Default 1e-3. */
  readonly lr?: number;
  /** Default 0. */
  readonly momentum?: number;
  /** Part of a gradient that does not enter the momentum, from the second step on. Default 0. */
  readonly dampening?: number;
  /** Steps along the gradient and the momentum after it. Needs a momentum and no dampening. Default false. */
  readonly nesterov?: boolean;
  /** Default 0. */
  readonly weightDecay?: number;
}

/** Stochastic gradient descent with momentum (torch.optim.SGD). */
export class SGD extends Optimizer {
  readonly momentum: number;
  readonly dampening: number;
  readonly nesterov: boolean;

  constructor(
    parameters: readonly NamedParameter[] | readonly ParameterGroup[],
    { lr = 1e-3, momentum = 0, dampening = 0, nesterov = false, weightDecay = 0 }: SGDOptions = {},
  ) {
    super(parameters, { lr, weightDecay });
    if (!(momentum >= 0)) throw new RangeError(`SGD: momentum must be at least 0: got ${momentum}.`);
    if (nesterov && !(momentum > 0 && dampening === 0))
      throw new RangeError(
        `SGD: nesterov needs a momentum above 0 and no dampening: got ${momentum} and ${dampening}. Set them, or leave nesterov out.`,
      );
    this.momentum = momentum;
    this.dampening = dampening;
    this.nesterov = nesterov;
  }

  protected override stateOf({ tensor }: NamedParameter): Record<string, Spec> {
    return fullState(tensor, 'momentum_buffer');
  }

  protected override update(
    { tensor, grad, buffers }: ParameterUpdate,
    { step, lr, weightDecay, gradScale }: UpdateSettings,
  ): void {
    // torch starts the buffer with the whole gradient; without momentum it has no buffer to dampen.
    const dampening = step > 1 && this.momentum > 0 ? this.dampening : 0;
    sgdUpdate.apply(
      { param: tensor, grad, momentum: buffers.momentum_buffer! },
      { gradScale, lr, decay: this.momentum, dampening, nesterov: this.nesterov ? 1 : 0, weightDecay },
    );
  }
}
