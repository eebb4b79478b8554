/** A course between the base rate and the floor. */
export type Course = 'linear' | 'cosine' | '1-sqrt';

/**
 * Learning-rate schedules as pure functions: the factor on the base rate for the step with index `step` (from 0). Names and
 * formulas are transformers' lr_scheduler_type (optimization.py, 4.57 and 5).
 */
export interface ScheduleOptions {
  /** Waves of cosine (default 0.5) or hard restarts of cosine_with_restarts (default 1). */
  readonly numCycles?: number;
  /** Exponent of polynomial. Default 1. */
  readonly power?: number;
  /** End of polynomial as a part of the base rate (transformers' lr_end / lr). Default 0. */
  readonly endFactor?: number;
  /** Floor of cosine_with_min_lr, cosine_warmup_with_min_lr and warmup_stable_decay as a part of the base rate. Default 0. */
  readonly minFactor?: number;
  /** Where the warm-up of cosine_warmup_with_min_lr starts (transformers' warmup_lr_rate). Default: 1 / warmup. */
  readonly warmupFactor?: number;
  /** How warmup_stable_decay rises. Default linear. */
  readonly warmupType?: Course;
  /** How warmup_stable_decay falls. Default cosine. */
  readonly decayType?: Course;
  /** Steps of inverse_sqrt's unit. Default: warmup, or 10000 without one. */
  readonly timescaleSteps?: number;
  /** Last part of warmup_stable_decay. Default: a tenth of all steps. */
  readonly decaySteps?: number;
}

/** Factor on the base rate, usually in [0, 1], for the step with index `step` (the first is 0) of `totalSteps`. */
export type Schedule = (step: number, totalSteps: number, warmupSteps: number, options?: ScheduleOptions) => number;

/** Part of the way from the end of the warm-up to the last step. */
const progress = (step: number, total: number, warmup: number): number => (step - warmup) / Math.max(1, total - warmup);

const cosineWave = (p: number, cycles: number): number => Math.max(0, 0.5 * (1 + Math.cos(2 * Math.PI * cycles * p)));

/** From 1 at part 0 to 0 at part 1. */
const falling: Readonly<Record<Course, (part: number, cycles: number) => number>> = {
  linear: (part) => 1 - part,
  cosine: (part, cycles) => 0.5 * (1 + Math.cos(2 * Math.PI * cycles * part)),
  '1-sqrt': (part) => 1 - Math.sqrt(part),
};

/** A schedule that rises linearly from 0 over the warm-up. */
const warmed =
  (after: Schedule): Schedule =>
  (step, total, warmup, options) =>
    step < warmup ? step / Math.max(1, warmup) : after(step, total, warmup, options);

/** All schedules by their transformers name. */
export const schedules = {
  /** 1, without a warm-up. */
  constant: () => 1,
  constant_with_warmup: warmed(() => 1),
  linear: warmed((step, total, warmup) => Math.max(0, (total - step) / Math.max(1, total - warmup))),
  cosine: warmed((step, total, warmup, { numCycles = 0.5 } = {}) =>
    cosineWave(progress(step, total, warmup), numCycles),
  ),
  cosine_with_restarts: warmed((step, total, warmup, { numCycles = 1 } = {}) => {
    const p = progress(step, total, warmup);
    return p >= 1 ? 0 : Math.max(0, 0.5 * (1 + Math.cos(Math.PI * ((numCycles * p) % 1))));
  }),
  cosine_with_min_lr: warmed((step, total, warmup, { numCycles = 0.5, minFactor = 0 } = {}) => {
    const wave = 0.5 * (1 + Math.cos(2 * Math.PI * numCycles * progress(step, total, warmup)));
    return Math.max(0, wave * (1 - minFactor) + minFactor);
  }),
  cosine_warmup_with_min_lr: (step, total, warmup, { numCycles = 0.5, minFactor = 0, warmupFactor } = {}) => {
    if (step < warmup)
      return warmupFactor === undefined
        ? (step + 1) / Math.max(1, warmup)
        : warmupFactor + ((1 - warmupFactor) * step) / Math.max(1, warmup - 1);
    const wave = falling.cosine(progress(step + 1, total, warmup), numCycles);
    return Math.max(0, wave * (1 - minFactor) + minFactor);
  },
  polynomial: warmed((step, total, warmup, { power = 1, endFactor = 0 } = {}) =>
    step > total ? endFactor : (1 - endFactor) * (1 - progress(step, total, warmup)) ** power + endFactor,
  ),
  inverse_sqrt: warmed(
    (step, _total, warmup, { timescaleSteps = warmup || 10_000 } = {}) =>
      1 / Math.sqrt((step + timescaleSteps - warmup) / timescaleSteps),
  ),
  warmup_stable_decay: (
    step,
    total,
    warmup,
    {
      decaySteps = Math.ceil(total / 10),
      minFactor = 0,
      numCycles = 0.5,
      warmupType = 'linear',
      decayType = 'cosine',
    } = {},
  ) => {
    const floor = (factor: number): number => Math.max(0, factor * (1 - minFactor) + minFactor);
    const stable = total - warmup - decaySteps;
    if (step < warmup) return floor(falling[warmupType](1 - step / Math.max(1, warmup), 0.5));
    if (step < warmup + stable) return 1;
    if (step >= total) return minFactor;
    return floor(falling[decayType]((step - warmup - stable) / Math.max(1, decaySteps), numCycles));
  },
} as const satisfies Record<string, Schedule>;

/** A key of `schedules`: what transformers calls lr_scheduler_type. */
export type ScheduleName = keyof typeof schedules;

/** The schedule of a transformers name. @throws RangeError that lists all, for an unknown one */
export function scheduleByName(name: string): Schedule {
  if (!Object.hasOwn(schedules, name))
    throw new RangeError(
      `schedule: lr_scheduler_type must be one of ${Object.keys(schedules).join(', ')}: got ${name}. Choose one of these.`,
    );
  return schedules[name as ScheduleName];
}
