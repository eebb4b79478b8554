/** Phi-3: configuration, model, loading, saving, generation. */
export {
  byteSource,
  denseLinear,
  type LinearFactory,
  type LinearRequest,
  materialize,
  type TensorSource,
} from '@lorikeet/nn';
export { type BuildOptions, buildPhi3 } from './build.ts';
export { type LongRope, type Phi3Config, Phi3ConfigError, parsePhi3Config, readPhi3Config } from './config.ts';
export { type GeneratedToken, type GenerateOptions, generate } from './generate.ts';
export { type GenerateBatchOptions, generateBatch } from './generate-batch.ts';
export { type InitPhi3Options, initPhi3 } from './initialize.ts';
export { type AttentionCache, KeyValueCache } from './key-value-cache.ts';
export { type LoadPhi3Options, loadPhi3 } from './load.ts';
export { causalLoss, countTrainedTokens, ignoreIndex, type LossBatch, type LossOptions, shiftLabels } from './loss.ts';
export {
  type ActivationStorage,
  type LogitsOptions,
  type NonFiniteWeight,
  Phi3Attention,
  Phi3DecoderLayer,
  Phi3ForCausalLM,
  Phi3MLP,
  Phi3Model,
  type PrefixSharing,
} from './model.ts';
export { type ProcessorOptions, processLogits, type SamplingOptions } from './sampling.ts';
export { type SavePhi3Options, savePhi3 } from './save.ts';
export { score } from './score.ts';
export { countSharedTokens } from './shared-prefix.ts';
export { type StreamTextOptions, streamText, type TokenDecoder } from './stream-text.ts';
export { phi3Linears, phi3ParameterCount, phi3Tensors } from './tensors.ts';
export type { TokenBatch } from './token-batch.ts';
