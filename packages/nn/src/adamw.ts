import { adamwUpdate, type Spec } from '@lorikeet/tensor';
import type { NamedParameter } from './clip-grad-norm.ts';
import {
  fullState,
  Optimizer,
  type ParameterGroup,
  type ParameterUpdate,
  pageState,
  type UpdateSettings,
} from './optimizer.ts';

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
  /** Weights are decayed before the step (default: torch, bitsandbytes on a CPU) or after it (bitsandbytes on CUDA). */
  readonly decayOrder?: 'before' | 'after';
}

/** AdamW (Loshchilov and Hutter 2019; torch.optim.AdamW with its defaults). */
export class AdamW extends Optimizer {
  readonly betas: readonly [number, number];
  readonly eps: number;
  readonly decayOrder: 'before' | 'after';

  constructor(
    parameters: readonly NamedParameter[] | readonly ParameterGroup[],
    { lr = 1e-3, betas = [0.9, 0.999], eps = 1e-8, weightDecay = 0.01, decayOrder = 'before' }: AdamWOptions = {},
  ) {
    super(parameters, { lr, weightDecay });
    if (!betas.every((b) => b >= 0 && b < 1) || !(eps >= 0))
      throw new RangeError(`AdamW: betas must be in [0, 1) and eps at least 0: got ${betas.join(', ')} and ${eps}.`);
    this.betas = betas;
    this.eps = eps;
    this.decayOrder = decayOrder;
  }

  protected override stateOf({ tensor }: NamedParameter): Record<string, Spec> {
    return fullState(tensor, 'exp_avg', 'exp_avg_sq');
  }

  /** The numbers of one step, as adamwUpdate takes them. */
  protected rates({ step, lr, weightDecay, gradScale }: UpdateSettings): Parameters<typeof adamwUpdate.apply>[1] {
    const [beta1, beta2] = this.betas;
    const before = this.decayOrder === 'before';
    return {
      gradScale,
      lr,
      beta1,
      beta2,
      eps: this.eps,
      weightDecay: before ? weightDecay : 0,
      weightDecayAfter: before ? 0 : weightDecay,
      correction1: 1 - beta1 ** step,
      correction2: Math.sqrt(1 - beta2 ** step),
    };
  }

  protected override update({ tensor, grad, buffers }: ParameterUpdate, settings: UpdateSettings): void {
    adamwUpdate.apply({ param: tensor, grad, m: buffers.exp_avg!, v: buffers.exp_avg_sq! }, this.rates(settings));
  }
}

/**
 * bitsandbytes' PagedAdamW: AdamW whose state, from 1e5 elements on, rests outside work memory between steps. On the cpu
 * backend that is the 64-bit store; elsewhere it stays where it is. The numbers are AdamW's.
 */
export class PagedAdamW extends AdamW {
  protected override update(parameter: ParameterUpdate, settings: UpdateSettings): void {
    super.update(parameter, settings);
    pageState(parameter);
  }
}
