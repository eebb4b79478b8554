import { lion8bitUpdate, lionUpdate, type Spec } from '@lorikeet/tensor';
import { type BlockwiseOptions, BlockwiseState } from './blockwise-state.ts';
import type { NamedParameter } from './clip-grad-norm.ts';
import {
  fullState,
  Optimizer,
  type ParameterGroup,
  type ParameterUpdate,
  pageState,
  type UpdateSettings,
} from './optimizer.ts';

/** Settings of Lion; the defaults are bitsandbytes'. Lion wants a third to a tenth of AdamW's learning rate. */
export interface LionOptions {
  /** Default 1e-4. */
  readonly lr?: number;
  /** Weight of the momentum in the step, and its decay rate. Default [0.9, 0.99]. */
  readonly betas?: readonly [number, number];
  /** Default 0. */
  readonly weightDecay?: number;
}

/** Lion (Chen et al. 2023; bitsandbytes' Lion): steps of the momentum's sign, weights decayed before the step. */
export class Lion extends Optimizer {
  readonly betas: readonly [number, number];

  constructor(
    parameters: readonly NamedParameter[] | readonly ParameterGroup[],
    { lr = 1e-4, betas = [0.9, 0.99], weightDecay = 0 }: LionOptions = {},
  ) {
    super(parameters, { lr, weightDecay });
    if (!betas.every((b) => b >= 0 && b < 1))
      throw new RangeError(`Lion: betas must be in [0, 1): got ${betas.join(', ')}.`);
    this.betas = betas;
  }

  protected override stateOf({ tensor }: NamedParameter): Record<string, Spec> {
    return fullState(tensor, 'state1');
  }

  /** The numbers of one step, as lionUpdate takes them. */
  protected rates({ lr, weightDecay, gradScale }: UpdateSettings): Parameters<typeof lionUpdate.apply>[1] {
    return { gradScale, lr, beta1: this.betas[0], beta2: this.betas[1], weightDecay };
  }

  protected override update({ tensor, grad, buffers }: ParameterUpdate, settings: UpdateSettings): void {
    lionUpdate.apply({ param: tensor, grad, m: buffers.state1! }, this.rates(settings));
  }
}

/** Lion with its momentum in 8 bits (bitsandbytes' Lion8bit): a byte a weight. */
export class Lion8bit extends Lion {
  readonly #state: BlockwiseState;

  constructor(
    parameters: readonly NamedParameter[] | readonly ParameterGroup[],
    options: LionOptions & BlockwiseOptions = {},
  ) {
    super(parameters, options);
    this.#state = new BlockwiseState(options);
  }

  protected override stateOf(parameter: NamedParameter): Record<string, Spec> {
    return this.#state.isFor(parameter) ? this.#state.specs(parameter, 1) : super.stateOf(parameter);
  }

  protected override update(parameter: ParameterUpdate, settings: UpdateSettings): void {
    if (!this.#state.isFor(parameter)) {
      super.update(parameter, settings);
      return;
    }
    const { tensor: param, grad, buffers } = parameter;
    const moments = this.#state.moments(buffers, 1);
    const rates = this.rates(settings);
    if (!lion8bitUpdate(param, grad, moments[0]!, rates))
      this.#state.widened(moments, ([m]) => lionUpdate.apply({ param, grad, m: m! }, rates));
  }

  override dispose(): void {
    super.dispose();
    this.#state.dispose();
  }
}

/** bitsandbytes' PagedLion: the numbers of Lion; see PagedAdamW. */
export class PagedLion extends Lion {
  protected override update(parameter: ParameterUpdate, settings: UpdateSettings): void {
    super.update(parameter, settings);
    pageState(parameter);
  }
}

/** bitsandbytes' PagedLion8bit: the numbers of Lion8bit; see PagedAdamW. */
export class PagedLion8bit extends Lion8bit {
  protected override update(parameter: ParameterUpdate, settings: UpdateSettings): void {
    super.update(parameter, settings);
    pageState(parameter);
  }
}
