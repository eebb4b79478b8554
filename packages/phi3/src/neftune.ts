import { nextKey, type Tensor, uniform } from '@lorikeet/tensor';

/**
 * NEFTune (Jain et al., "Noisy Embeddings Improve Instruction Finetuning", 2023) as transformers adds it after `embed_tokens`:
 * x [t, d] plus noise, uniform between -m and m with m = alpha / sqrt(rowTokens d). Keyed by the embedding's path inside withRandom.
 */
export function addNeftuneNoise(x: Tensor, alpha: number, rowTokens: number): Tensor {
  const { backend, dtype, shape } = x;
  const m = alpha / Math.sqrt(rowTokens * shape[1]!);
  return x.add(uniform(shape, { backend, dtype, key: nextKey('model.embed_tokens'), low: -m, high: m }));
}
