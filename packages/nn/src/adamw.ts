import { adamwUpdate } from '@lorikeet/tensor';
import type { NamedParameter } from './clip-grad-norm.ts';
import { Optimizer, type ParameterGroup } from './optimizer.ts';

/** Settings of AdamW; the defaults are torch.optim.AdamW's. */
export interface AdamWOptions {
  /** Default 1e-3. */
  readonly lr?: number;
  /** Decay rates of the first and second moment. Default [0.9, 0.999]. */
  readonly betas?: readonly [number, number];
  /** Default 1e-8. */
  readonly eps?: number;
  /** Default 0.01. */
  readonly weightDecay?: number;
}

/** AdamW (Loshchilov and Hutter 2019; torch.optim.AdamW with its defaults): weights are decayed before the step. */
export class AdamW extends Optimizer {
  readonly betas: readonly [number, number];
  readonly eps: number;

  constructor(
    parameters: readonly NamedParameter[] | readonly ParameterGroup[],
    { lr = 1e-3, betas = [0.9, 0.999], eps = 1e-8, weightDecay = 0.01 }: AdamWOptions = {},
  ) {
    super(parameters, { lr, weightDecay }, ['exp_avg', 'exp_avg_sq']);
    if (!betas.every((b) => b >= 0 && b < 1) || !(eps >= 0))
      throw new RangeError(`AdamW: betas must be in [0, 1) and eps at least 0: got ${betas.join(', ')} and ${eps}.`);
    this.betas = betas;
    this.eps = eps;
  }

  protected override update(
    { tensor, grad, buffers }: Parameters<Optimizer['update']>[0],
    { step, lr, weightDecay, gradScale }: Parameters<Optimizer['update']>[1],
  ): void {
    const [beta1, beta2] = this.betas;
    adamwUpdate.apply(
      { param: tensor, grad, m: buffers.exp_avg!, v: buffers.exp_avg_sq! },
      {
        gradScale,
        lr,
        beta1,
        beta2,
        eps: this.eps,
        weightDecay,
        correction1: 1 - beta1 ** step,
        correction2: Math.sqrt(1 - beta2 ** step),
      },
    );
  }
}
