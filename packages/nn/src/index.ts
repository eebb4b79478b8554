/** Modules, optimizers and schedules over @lorikeet/tensor. */
export { Adafactor, type AdafactorOptions } from './adafactor.ts';
export { AdamW, type AdamWOptions, PagedAdamW } from './adamw.ts';
export { AdamW8bit, type AdamW8bitOptions, PagedAdamW8bit } from './adamw-8bit.ts';
export type { BlockwiseOptions } from './blockwise-state.ts';
export { type ClippedNorm, clipGradNorm, gradientSquares, type NamedParameter } from './clip-grad-norm.ts';
export { Conv1d, Conv2d } from './conv.ts';
export { Dropout } from './dropout.ts';
export { Embedding } from './embedding.ts';
export { fanIn, kaimingUniform, normalInit, uniformBias } from './initialize.ts';
export { asRows, isLinearLike, Linear, type LinearLike, type LinearOptions, plainWeightOf } from './linear.ts';
export { type ContractFramework, type LinearContractOptions, linearContract } from './linear-contract.ts';
export {
  byteSource,
  denseLinear,
  type LinearFactory,
  type LinearRequest,
  type MaterializeOptions,
  materialize,
  type TensorSource,
} from './linear-factory.ts';
export { Lion, Lion8bit, type LionOptions, PagedLion, PagedLion8bit } from './lion.ts';
export { copyInto, type LoadResult, loadStateDict, type StateSource } from './load-state-dict.ts';
export { Module } from './module.ts';
export {
  assignPaths,
  findModule,
  isModuleLike,
  type ModuleLike,
  type NamedTensor,
  namedModules,
  namedParameters,
  replaceModule,
  type StateEntry,
  setTraining,
  trainableParameters,
} from './module-tree.ts';
export { LayerNorm, type NormOptions, RMSNorm } from './norm.ts';
export {
  decayGroups,
  isDecayed,
  Optimizer,
  type OptimizerState,
  type ParameterGroup,
  type StepOptions,
} from './optimizer.ts';
export { type OptimizerName, type OptimizerSettings, optimizerByName, optimizers } from './optimizer-by-name.ts';
export { parametersIn } from './parameter-count.ts';
export {
  type Course,
  type Schedule,
  type ScheduleName,
  type ScheduleOptions,
  scheduleByName,
  schedules,
} from './schedules.ts';
export { SGD, type SGDOptions } from './sgd.ts';
