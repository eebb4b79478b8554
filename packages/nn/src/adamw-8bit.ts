import { adamw8bitUpdate, adamwUpdate, type Moment8bit, type Spec } from '@lorikeet/tensor';
import { AdamW, type AdamWOptions } from './adamw.ts';
import { type BlockwiseOptions, BlockwiseState } from './blockwise-state.ts';
import type { NamedParameter } from './clip-grad-norm.ts';
import { fullState, type ParameterGroup, type ParameterUpdate, pageState, type UpdateSettings } from './optimizer.ts';

export type AdamW8bitOptions = AdamWOptions & BlockwiseOptions;

/**
 * AdamW with both moments in 8 bits (Dettmers et al. 2022; bitsandbytes' AdamW8bit with its defaults): a quarter of the
 * state's memory. Tensors under `min8bitSize` elements keep f32 state. State is named as bitsandbytes names it: `state1`,
 * `state2`, `absmax1`, `absmax2`. Weights decay before the step, as bitsandbytes does on a CPU; its CUDA kernels decay
 * after it, which `decayOrder: 'after'` gives.
 */
export class AdamW8bit extends AdamW {
  readonly #state: BlockwiseState;

  constructor(parameters: readonly NamedParameter[] | readonly ParameterGroup[], options: AdamW8bitOptions = {}) {
    super(parameters, options);
    this.#state = new BlockwiseState(options);
  }

  protected override stateOf(parameter: NamedParameter): Record<string, Spec> {
    return this.#state.isFor(parameter)
      ? this.#state.specs(parameter, 2)
      : fullState(parameter.tensor, 'state1', 'state2');
  }

  protected override update({ path, tensor: param, grad, buffers }: ParameterUpdate, settings: UpdateSettings): void {
    const rates = this.rates(settings);
    if (!this.#state.isFor({ path, tensor: param })) {
      adamwUpdate.apply({ param, grad, m: buffers.state1!, v: buffers.state2! }, rates);
      return;
    }
    const moments = this.#state.moments(buffers, 2) as [Moment8bit, Moment8bit];
    if (!adamw8bitUpdate(param, grad, moments, rates))
      this.#state.widened(moments, ([m, v]) => adamwUpdate.apply({ param, grad, m: m!, v: v! }, rates));
  }

  override dispose(): void {
    super.dispose();
    this.#state.dispose();
  }
}

/** bitsandbytes' PagedAdamW8bit: the numbers of AdamW8bit; see PagedAdamW. */
export class PagedAdamW8bit extends AdamW8bit {
  protected override update(parameter: ParameterUpdate, settings: UpdateSettings): void {
    super.update(parameter, settings);
    pageState(parameter);
  }
}
