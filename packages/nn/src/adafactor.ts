import { type DType, type Spec, scope, type Tensor } from '@lorikeet/tensor';
import type { NamedParameter } from './clip-grad-norm.ts';
import { copyInto } from './load-state-dict.ts';
import { fullState, Optimizer, type ParameterGroup, type ParameterUpdate, type UpdateSettings } from './optimizer.ts';

/** Settings of Adafactor; names and defaults are transformers' (`transformers.Adafactor`). */
export interface AdafactorOptions {
  /** Left out with `relativeStep`, needed without. */
  readonly lr?: number;
  /** Added to squared gradients, and the least size of a parameter that `scaleParameter` assumes. Default [1e-30, 1e-3]. */
  readonly eps?: readonly [number, number];
  /** Root mean square that an update is scaled down to. Default 1. */
  readonly clipThreshold?: number;
  /** The second moment decays by 1 - step^decayRate. Default -0.8. */
  readonly decayRate?: number;
  /** Decay rate of the first moment; null keeps none. Default null. */
  readonly beta1?: number | null;
  /** Default 0. */
  readonly weightDecay?: number;
  /** Learning rates grow with the root mean square of the parameter. Default true. */
  readonly scaleParameter?: boolean;
  /** min(0.01, 1 / sqrt(step)) instead of `lr` and the schedule's factor. Default true. */
  readonly relativeStep?: boolean;
  /** With relativeStep: min(1e-6 * step, 1 / sqrt(step)). Default false. */
  readonly warmupInit?: boolean;
}

const isFactored = ({ rank }: Tensor): boolean => rank >= 2;
const wide = ({ dtype }: Tensor): DType => (dtype === 'f64' ? 'f64' : 'f32');

/** Adafactor (Shazeer and Stern 2018; transformers.Adafactor): of a matrix's second moments only row and column means are kept. */
export class Adafactor extends Optimizer {
  readonly settings: Required<Omit<AdafactorOptions, 'lr' | 'weightDecay'>>;

  constructor(
    parameters: readonly NamedParameter[] | readonly ParameterGroup[],
    { lr, weightDecay = 0, ...given }: AdafactorOptions = {},
  ) {
    const settings = {
      eps: [1e-30, 1e-3] as const,
      clipThreshold: 1,
      decayRate: -0.8,
      beta1: null,
      scaleParameter: true,
      relativeStep: true,
      warmupInit: false,
      ...given,
    };
    if (settings.relativeStep !== (lr === undefined))
      throw new RangeError(
        `Adafactor: lr must be given exactly where relativeStep is false: got lr ${lr} and relativeStep ${settings.relativeStep}. Leave one out.`,
      );
    if (settings.warmupInit && !settings.relativeStep)
      throw new RangeError('Adafactor: warmupInit needs relativeStep: got it without. Use a schedule with a warm-up.');
    super(parameters, { lr: lr ?? 0, weightDecay });
    this.settings = settings;
  }

  protected override stateOf({ tensor }: NamedParameter): Record<string, Spec> {
    const { shape } = tensor;
    const dtype = wide(tensor);
    const first = this.settings.beta1 === null ? {} : fullState(tensor, 'exp_avg');
    if (!isFactored(tensor)) return { ...first, ...fullState(tensor, 'exp_avg_sq') };
    return {
      ...first,
      exp_avg_sq_row: { shape: shape.slice(0, -1), dtype },
      exp_avg_sq_col: { shape: [...shape.slice(0, -2), shape.at(-1)!], dtype },
    };
  }

  protected override update(
    { tensor, grad, buffers }: ParameterUpdate,
    { step, lr, weightDecay, gradScale }: UpdateSettings,
  ): void {
    const { clipThreshold, beta1 } = this.settings;
    const param = tensor.cast(wide(tensor));
    const rate = this.#rate(param, step, lr);
    const normed = this.#normed(grad.cast(wide(tensor)).mul(gradScale), buffers, step);
    let update = normed.div(rootMeanSquare(normed).div(clipThreshold).maximum(1)).mul(rate);
    if (beta1 !== null) {
      const average = buffers.exp_avg!;
      copyInto(average, average.mul(beta1).add(update.mul(1 - beta1)));
      update = average;
    }
    const decayed = weightDecay === 0 ? param : param.sub(param.mul(weightDecay).mul(rate));
    copyInto(tensor, decayed.sub(update).cast(tensor.dtype));
  }

  /** The learning rate of one parameter: a number, or a tensor where it follows the parameter's size. */
  #rate(param: Tensor, step: number, lr: number): Tensor | number {
    const { relativeStep, warmupInit, scaleParameter, eps } = this.settings;
    const rate = relativeStep ? Math.min(warmupInit ? 1e-6 * step : 1e-2, 1 / Math.sqrt(step)) : lr;
    return scaleParameter ? rootMeanSquare(param).maximum(eps[1]).mul(rate) : rate;
  }

  /** The gradient over the root of its second moment, which this step enters. */
  #normed(grad: Tensor, buffers: ParameterUpdate['buffers'], step: number): Tensor {
    const { eps, decayRate } = this.settings;
    const decay = 1 - step ** decayRate;
    const squares = grad.mul(grad).add(eps[0]);
    const enter = (name: string, value: Tensor): Tensor => {
      const buffer = buffers[name]!;
      copyInto(buffer, buffer.mul(decay).add(value.mul(1 - decay)));
      return buffer;
    };
    if (!buffers.exp_avg_sq_row) return enter('exp_avg_sq', squares).rsqrt().mul(grad);
    const row = enter('exp_avg_sq_row', squares.mean(-1));
    const column = enter('exp_avg_sq_col', squares.mean(-2));
    const rowFactor = row.div(row.mean(-1, { keepDims: true })).rsqrt();
    const columnFactor = column.rsqrt();
    const rows = rowFactor.reshape([...row.shape, 1]);
    const columns = columnFactor.reshape([...column.shape.slice(0, -1), 1, column.shape.at(-1)!]);
    return rows.mul(columns).mul(grad);
  }
}

const rootMeanSquare = (x: Tensor): Tensor => scope(() => x.mul(x).mean().sqrt());
