/** LoRA for @lorikeet/nn: loralib's layers, PEFT's way of adapting a whole model, merging, and PEFT's folder format. */

export { checkpointWeights } from './folder/checkpoint-weights.ts';
export {
  type LoadAdapterOptions,
  type LoadedAdapter,
  loadAdapter,
} from './folder/load-adapter.ts';
export {
  type MergeCheckpointOptions,
  type MergedCheckpoint,
  type MergeInto,
  mergeCheckpoint,
  mergeWays,
} from './folder/merge-checkpoint.ts';
export {
  adapterConfigName,
  adapterWeightsName,
  chatTemplateName,
  initialAdapterName,
  type SaveAdapterOptions,
  saveAdapter,
  type WriteAdapterOptions,
  writeAdapterFiles,
} from './folder/save-adapter.ts';
export {
  isLoraLayer,
  type LoraLayer,
  loraLayers,
  type MergeOptions,
} from './lora-layer.ts';
export { Conv1d, Conv2d, type ConvOptions } from './loralib/conv.ts';
export { Embedding, type EmbeddingOptions } from './loralib/embedding.ts';
export { Linear, type LinearOptions } from './loralib/linear.ts';
export { MergedLinear, type MergedLinearOptions } from './loralib/merged-linear.ts';
export type { LoraLayerOptions } from './loralib/options.ts';
export { loraScaling } from './low-rank.ts';
export {
  countTrainableParameters,
  loraStateDict,
  markOnlyLoraAsTrainable,
  printTrainableParameters,
  type TrainableCount,
} from './mark-trainable.ts';
export { mergeAdapter, mergeAndUnload, unmergeAdapter } from './merge-adapter.ts';
export { type AdapterState, adapterOf } from './peft/adapter-state.ts';
export { type ApplyOptions, applyLora, disableAdapter, setAdapterEnabled, unloadAdapter } from './peft/apply-lora.ts';
export { type ApplyAsyncOptions, applyLoraAsync, type OriginalWeights } from './peft/apply-lora-async.ts';
export {
  type BaseInit,
  type BiasMode,
  type CompleteLoraConfig,
  completeLoraConfig,
  type LoftqConfig,
  type LoraConfig,
  type LoraInit,
} from './peft/lora-config.ts';
export { LoraLinear, type LoraLinearOptions } from './peft/lora-linear.ts';
export { type ParsedLoraConfig, parseLoraConfig } from './peft/parse-lora-config.ts';
export { type ReplaceLoftqOptions, replaceLoraWeightsLoftq } from './peft/replace-loftq.ts';
export {
  type LoraTarget,
  linearsOf,
  matchesName,
  type ResolvedTargets,
  type ResolveOptions,
  resolveTargets,
} from './peft/target-matching.ts';
export {
  type BitsAndBytesConfig,
  bitsAndBytesJson,
  type CompleteBitsAndBytesConfig,
  type ComputeDType,
  completeBitsAndBytesConfig,
  isQuantizedPath,
  parseBitsAndBytesConfig,
  qloraConfig,
  readQuantizationConfig,
} from './quantize/bits-and-bytes-config.ts';
export { Int8Linear, type Int8LinearOptions } from './quantize/int8-linear.ts';
export {
  type KbitTrainingOptions,
  type KbitTrainingReport,
  prepareModelForKbitTraining,
} from './quantize/prepare-model-for-kbit-training.ts';
export {
  type QuantizeCheckpointOptions,
  type QuantizedCheckpoint,
  quantizeCheckpoint,
} from './quantize/quantize-checkpoint.ts';
export {
  quantizedBytes,
  quantizeWeight4bit,
  quantizeWeight8bit,
  type RowBlocks,
  type Settings4bit,
  sourceRows,
  tensorRows,
} from './quantize/quantize-weight.ts';
export { fp4, int8, nf4, type QuantizedFactoryOptions, quantizedLinear } from './quantize/quantized-factory.ts';
export { QuantizedLinear, type QuantizedLinearOptions } from './quantize/quantized-linear.ts';
