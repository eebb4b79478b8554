export {
  checkpointPath,
  findCheckpoint,
  listCheckpoints,
  openCheckpointState,
  type TrainerState,
} from './checkpoints.ts';
export * from './data/index.ts';
export type * from './events.ts';
export {
  type IntervalStrategy,
  planSteps,
  type ResolvedOptions,
  type RunOptions,
  resolveOptions,
  type TrainingOptions,
} from './options.ts';
export { type LossFunction, summaryPath, type TrainBatch, type TrainBatches, train } from './train.ts';
