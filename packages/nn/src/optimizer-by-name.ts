import { Adafactor } from './adafactor.ts';
import { AdamW, PagedAdamW } from './adamw.ts';
import { AdamW8bit, PagedAdamW8bit } from './adamw-8bit.ts';
import type { NamedParameter } from './clip-grad-norm.ts';
import { Lion, Lion8bit, PagedLion, PagedLion8bit } from './lion.ts';
import type { Optimizer, ParameterGroup } from './optimizer.ts';
import { SGD } from './sgd.ts';

/** What transformers' TrainingArguments say about an optimizer. */
export interface OptimizerSettings {
  readonly lr: number;
  readonly betas: readonly [number, number];
  readonly eps: number;
  readonly weightDecay: number;
  /** Paths whose state stays in 32 bits: transformers' rule for embeddings under bitsandbytes' optimizers. */
  readonly keep32bit: ReadonlySet<string>;
}

type Parameters = readonly NamedParameter[] | readonly ParameterGroup[];
type Make = (parameters: Parameters, settings: OptimizerSettings) => Optimizer;

const adamw8bit: Make = (parameters, settings) => new AdamW8bit(parameters, settings);
const withoutEps = ({ lr, betas, weightDecay, keep32bit }: OptimizerSettings) => ({
  lr,
  betas,
  weightDecay,
  keep32bit,
});

/** Optimizers by transformers' `optim` name, made with the settings that its Trainer gives them. */
export const optimizers = {
  adamw_torch: (parameters, settings) => new AdamW(parameters, settings),
  adamw_torch_fused: (parameters, settings) => new AdamW(parameters, settings),
  adamw_8bit: adamw8bit,
  adamw_bnb_8bit: adamw8bit,
  paged_adamw_32bit: (parameters, settings) => new PagedAdamW(parameters, settings),
  paged_adamw_8bit: (parameters, settings) => new PagedAdamW8bit(parameters, settings),
  lion_32bit: (parameters, settings) => new Lion(parameters, withoutEps(settings)),
  lion_8bit: (parameters, settings) => new Lion8bit(parameters, withoutEps(settings)),
  paged_lion_32bit: (parameters, settings) => new PagedLion(parameters, withoutEps(settings)),
  paged_lion_8bit: (parameters, settings) => new PagedLion8bit(parameters, withoutEps(settings)),
  adafactor: (parameters, { lr, weightDecay }) =>
    new Adafactor(parameters, { lr, weightDecay, scaleParameter: false, relativeStep: false }),
  sgd: (parameters, { lr, weightDecay }) => new SGD(parameters, { lr, weightDecay }),
} as const satisfies Record<string, Make>;

/** A key of `optimizers`: what transformers calls `optim`. */
export type OptimizerName = keyof typeof optimizers;

/** The optimizer of a transformers name. @throws RangeError that lists all, for an unknown one */
export function optimizerByName(name: string): Make {
  if (!Object.hasOwn(optimizers, name))
    throw new RangeError(
      `optimizer: optim must be one of ${Object.keys(optimizers).join(', ')}: got ${name}. Choose one of these.`,
    );
  return optimizers[name as OptimizerName];
}
