export type { LossFunction, TrainBatch } from './accumulate-window.ts';
export { type BootstrapDifference, type BootstrapOptions, bootstrapDifference, type Measurement } from './bootstrap.ts';
export {
  checkpointPath,
  findCheckpoint,
  listCheckpoints,
  openCheckpointState,
  type TrainerState,
} from './checkpoints.ts';
export * from './data/index.ts';
export {
  describeRun,
  estimateRun,
  hasRoom,
  type MeasuredSpeed,
  type MemoryChange,
  type MemoryPlan,
  type Room,
  type RunEstimate,
  type RunFacts,
  requireRoom,
  showBytes,
} from './estimate.ts';
export { type EvaluateOptions, type Evaluation, type EvaluationBatch, evaluate, type RowScore } from './evaluate.ts';

export type * from './events.ts';
export { type ExactMatch, exactMatch } from './exact-match.ts';
export {
  type IntervalStrategy,
  planSteps,
  type ResolvedOptions,
  type RunOptions,
  resolveOptions,
  type TrainingOptions,
} from './options.ts';
export { planMemory, type StepMemory } from './plan-memory.ts';
export { porterStem } from './rouge/porter-stemmer.ts';
export {
  type AggregateOptions,
  aggregateRouge,
  type RougeInterval,
  type RougeOptions,
  type RougeScore,
  type RougeType,
  rouge,
} from './rouge/rouge.ts';
export { EventFile } from './tensorboard.ts';
export { type TrainBatches, train } from './train.ts';
