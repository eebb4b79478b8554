import type { FileSystem } from '@lorikeet/files';
import {
  type OptimizerName,
  optimizerByName,
  type ScheduleName,
  type ScheduleOptions,
  scheduleByName,
} from '@lorikeet/nn';

/** When something happens: never, every so many optimizer steps, or at the end of each epoch. */
export type IntervalStrategy = 'no' | 'steps' | 'epoch';

/** How a run is trained. Names, meanings and defaults are transformers' TrainingArguments (5.18) unless said otherwise. */
export interface TrainingOptions {
  /** Peak learning rate. Default 2e-4, what LoRA wants (transformers: 5e-5 for full fine-tuning). */
  readonly learningRate?: number;
  /** transformers' lr_scheduler_type. Default 'linear'. */
  readonly lrSchedulerType?: ScheduleName;
  /** Cycles, power and floor of that schedule. Default: the schedule's own. */
  readonly lrSchedulerOptions?: ScheduleOptions;
  /** Steps of linear warm-up; a number below 1 is a part of all steps, rounded up. Default 0. */
  readonly warmupSteps?: number;
  /** Passes over the data. Default 3. Ignored when maxSteps is given. */
  readonly numTrainEpochs?: number;
  /** Optimizer steps in all; -1: from numTrainEpochs. Default -1. */
  readonly maxSteps?: number;
  /** Micro-batches summed into one optimizer step, each weighted by its trained tokens. Default 1. */
  readonly gradientAccumulationSteps?: number;
  /** Gradients are scaled down to this global norm; 0 clips nothing. Default 1. */
  readonly maxGradNorm?: number;
  /** transformers' optim. The 8-bit ones hold a quarter of the state's memory. Default 'adamw_torch'. */
  readonly optim?: OptimizerName;
  /** Decay of weights, not applied to biases and norms. Default 0. */
  readonly weightDecay?: number;
  /** Decay rate of the first moment of AdamW; Lion's first beta. Default 0.9. */
  readonly adamBeta1?: number;
  /** Decay rate of the second moment; Lion's second beta, for which its authors take 0.99. Default 0.999. */
  readonly adamBeta2?: number;
  /** Added to the root of the second moment. Default 1e-8. */
  readonly adamEpsilon?: number;
  /** Seeds data order and dropout. Default 42. */
  readonly seed?: number;
  /** Steps between logged lines. Default 10. The first and the last step are always logged. */
  readonly loggingSteps?: number;
  /** When held-out data is measured; needs RunOptions.evaluate. Default 'no'. */
  readonly evalStrategy?: IntervalStrategy;
  /** Steps between evaluations for 'steps'. Default 500. */
  readonly evalSteps?: number;
  /** When checkpoints are written; but for 'no', one is written at the end as well. Default 'steps'. */
  readonly saveStrategy?: IntervalStrategy;
  /** Default 500. */
  readonly saveSteps?: number;
  /** Checkpoints kept, the best one besides; null keeps all. Default 2. */
  readonly saveTotalLimit?: number | null;
  /** After the last step, load the checkpoint with the lowest evaluation loss. Default false. */
  readonly loadBestModelAtEnd?: boolean;
  /** 'auto': the newest complete checkpoint in outputDir, or a fresh start; or a checkpoint folder. Default: fresh start. */
  readonly resumeFromCheckpoint?: string | null;
  /** A fresh start removes the checkpoints that stand in outputDir; otherwise it is refused there. Default false. */
  readonly overwriteOutputDir?: boolean;
  /** Further places for the logged numbers: 'tensorboard' writes an event file beside log.jsonl. Default none. */
  readonly reportTo?: readonly 'tensorboard'[];
}

/** What a run needs beside numbers. */
export interface RunOptions extends TrainingOptions {
  /** Where outputDir lies: the disk, a browser's private files, memory. */
  readonly files: FileSystem;
  /** Where checkpoints and log.jsonl go. */
  readonly outputDir: string;
  /** Aborting it saves a checkpoint after the step under way and ends the run. */
  readonly signal?: AbortSignal;
  /** What must not change between a run and its resumption (adapter, data, model): compared field by field. */
  readonly identity?: Readonly<Record<string, unknown>>;
  /** Called with a folder: writes what a checkpoint keeps of the model. Default: all trainable parameters as model.safetensors. */
  readonly saveModel?: (files: FileSystem, dir: string) => Promise<void>;
  /** Reads it back into the model. */
  readonly loadModel?: (files: FileSystem, dir: string) => Promise<void>;
  /** Measures the model on held-out data. Needed for evalStrategy other than 'no'. */
  readonly evaluate?: () => Promise<Readonly<{ evalLoss: number } & Record<string, number>>>;
}

/** The options that a resumed run must share, because the bits of its parameters depend on them. */
export function fixedOptions(options: ResolvedOptions): Readonly<Record<string, unknown>> {
  const free: readonly string[] = [
    'loggingSteps', 'evalStrategy', 'evalSteps', 'saveStrategy', 'saveSteps', 'saveTotalLimit', 'loadBestModelAtEnd',
    'resumeFromCheckpoint', 'overwriteOutputDir', 'reportTo', 'maxSteps', 'numTrainEpochs',
  ]; // biome-ignore format: names
  return Object.fromEntries(Object.entries(options).filter(([name]) => !free.includes(name)));
}

/** Options with every default in place and every value checked. */
export interface ResolvedOptions
  extends Required<Omit<TrainingOptions, 'lrSchedulerOptions' | 'resumeFromCheckpoint'>> {
  readonly lrSchedulerOptions: ScheduleOptions;
  readonly resumeFromCheckpoint: string | null;
}

const defaults: ResolvedOptions = {
  learningRate: 2e-4,
  lrSchedulerType: 'linear',
  lrSchedulerOptions: {},
  warmupSteps: 0,
  numTrainEpochs: 3,
  maxSteps: -1,
  gradientAccumulationSteps: 1,
  maxGradNorm: 1,
  optim: 'adamw_torch',
  weightDecay: 0,
  adamBeta1: 0.9,
  adamBeta2: 0.999,
  adamEpsilon: 1e-8,
  seed: 42,
  loggingSteps: 10,
  evalStrategy: 'no',
  evalSteps: 500,
  saveStrategy: 'steps',
  saveSteps: 500,
  saveTotalLimit: 2,
  loadBestModelAtEnd: false,
  resumeFromCheckpoint: null,
  overwriteOutputDir: false,
  reportTo: [],
};

type Check = readonly [name: keyof ResolvedOptions, holds: (value: number) => boolean, must: string];
const whole =
  (min: number) =>
  (v: number): boolean =>
    Number.isInteger(v) && v >= min;
const between =
  (low: number, high: number) =>
  (v: number): boolean =>
    v >= low && v < high;
const checks: readonly Check[] = [
  ['learningRate', (v) => v >= 0 && Number.isFinite(v), 'a number of at least 0'],
  ['warmupSteps', (v) => (v >= 0 && v < 1) || whole(0)(v), 'a whole number, or a part of all steps below 1'],
  ['numTrainEpochs', (v) => v > 0 && Number.isFinite(v), 'a number above 0'],
  ['maxSteps', (v) => v === -1 || whole(1)(v), '-1 or a whole number of at least 1'],
  ['gradientAccumulationSteps', whole(1), 'a whole number of at least 1'],
  ['maxGradNorm', (v) => v >= 0, 'a number of at least 0'],
  ['weightDecay', (v) => v >= 0 && Number.isFinite(v), 'a number of at least 0'],
  ['adamBeta1', between(0, 1), 'in [0, 1)'],
  ['adamBeta2', between(0, 1), 'in [0, 1)'],
  ['adamEpsilon', (v) => v >= 0, 'a number of at least 0'],
  ['seed', (v) => Number.isSafeInteger(v) && v >= 0, 'a whole number of at least 0'],
  ['loggingSteps', whole(1), 'a whole number of at least 1'],
  ['evalSteps', whole(1), 'a whole number of at least 1'],
  ['saveSteps', whole(1), 'a whole number of at least 1'],
];

/** Fills in defaults. @throws RangeError for a value out of range, naming the option */
export function resolveOptions(given: TrainingOptions): ResolvedOptions {
  const known = Object.fromEntries(
    Object.keys(defaults).flatMap((k) => {
      const value = given[k as keyof TrainingOptions];
      return value === undefined ? [] : [[k, value]];
    }),
  );
  const options = { ...defaults, ...known } as ResolvedOptions;
  for (const [name, holds, must] of checks)
    if (typeof options[name] !== 'number' || !holds(options[name]))
      throw new RangeError(`training: ${name} must be ${must}: got ${String(options[name])}.`);
  if (options.saveTotalLimit !== null && !whole(1)(options.saveTotalLimit))
    throw new RangeError(
      `training: saveTotalLimit must be null or a whole number of at least 1: got ${options.saveTotalLimit}.`,
    );
  scheduleByName(options.lrSchedulerType);
  optimizerByName(options.optim);
  checkStrategies(options);
  return options;
}

function checkStrategies(o: ResolvedOptions): void {
  for (const name of ['evalStrategy', 'saveStrategy'] as const)
    if (!['no', 'steps', 'epoch'].includes(o[name]))
      throw new RangeError(`training: ${name} must be 'no', 'steps' or 'epoch': got ${String(o[name])}.`);
  const strange = o.reportTo.find((name) => name !== 'tensorboard');
  if (strange !== undefined) throw new RangeError(`training: reportTo may hold 'tensorboard': got ${String(strange)}.`);
  if (!o.loadBestModelAtEnd) return;
  const aligned =
    o.evalStrategy !== 'no' &&
    o.evalStrategy === o.saveStrategy &&
    (o.evalStrategy === 'epoch' || o.saveSteps % o.evalSteps === 0);
  if (!aligned)
    throw new RangeError(
      `training: loadBestModelAtEnd needs every saved step evaluated: got evalStrategy ${o.evalStrategy} (${o.evalSteps}) and saveStrategy ${o.saveStrategy} (${o.saveSteps}). Give both the same strategy, and saveSteps a multiple of evalSteps.`,
    );
}

/** How many optimizer steps, as transformers counts: the last window of an epoch may be short. */
export function planSteps(
  batchesPerEpoch: number,
  options: ResolvedOptions,
): { readonly totalSteps: number; readonly stepsPerEpoch: number; readonly warmupSteps: number } {
  const stepsPerEpoch = Math.max(1, Math.ceil(batchesPerEpoch / options.gradientAccumulationSteps));
  const totalSteps = options.maxSteps > 0 ? options.maxSteps : Math.ceil(options.numTrainEpochs * stepsPerEpoch);
  const { warmupSteps: w } = options;
  return { totalSteps, stepsPerEpoch, warmupSteps: w < 1 ? Math.ceil(totalSteps * w) : w };
}
