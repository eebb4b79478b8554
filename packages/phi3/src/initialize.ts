import { byteSource, type LinearFactory, type TensorSource } from '@lorikeet/nn';
import { type Backend, type DType, normalsOf, type RandomKey } from '@lorikeet/tensor';
import { buildPhi3 } from './build.ts';
import type { Phi3Config } from './config.ts';
import type { Phi3ForCausalLM } from './model.ts';

/** Where random weights are made and how they are stored. */
export interface InitPhi3Options {
  readonly backend: Backend;
  /** Equal keys give equal weights, tensor by tensor, on every backend. */
  readonly key: RandomKey;
  /** Default f32. */
  readonly dtype?: DType;
  /** Default true. */
  readonly trainable?: boolean;
  /** Makes the linear layers. Default: dense ones. */
  readonly linear?: LinearFactory;
}

/** Values as transformers' _init_weights: N(0, initializer_range), the padding row 0, norms 1. */
function initialBytes(config: Phi3Config, key: RandomKey, path: string, shape: readonly number[]): Uint8Array {
  const count = shape.reduce((product, n) => product * n, 1);
  if (shape.length === 1) return new Uint8Array(new Float32Array(count).fill(1).buffer);
  const values = normalsOf(count, key.fold(path)).map((z) => z * config.initializerRange);
  const { padTokenId, hiddenSize: d } = config;
  if (path === 'model.embed_tokens.weight' && padTokenId !== null) values.fill(0, padTokenId * d, (padTokenId + 1) * d);
  return new Uint8Array(values.buffer as ArrayBuffer);
}

/** A model with random weights as transformers draws them (N(0, initializer_range), norms 1), in training mode. */
export function initPhi3(config: Phi3Config, options: InitPhi3Options): Promise<Phi3ForCausalLM> {
  const { key, backend, linear, dtype = 'f32', trainable = true } = options;
  const source = (path: string, shape: readonly number[]): TensorSource =>
    byteSource({ path, dtype: 'f32', shape }, () => initialBytes(config, key, path, shape));
  return buildPhi3(config, source, { backend, linear, dtype, trainable });
}
