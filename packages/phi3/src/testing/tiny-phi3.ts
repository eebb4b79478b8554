/** Tiny models for tests: Phi-3's exact form, a few thousand parameters, random weights from a seed. */
import { type Backend, randomKey } from '@lorikeet/tensor';
import { type Phi3Config, parsePhi3Config } from '../config.ts';
import { initPhi3 } from '../initialize.ts';
import type { Phi3ForCausalLM } from '../model.ts';

/** A config.json of a tiny model with grouped heads; `changes` overrides keys. */
export const tinyConfigJson = (changes: Readonly<Record<string, unknown>> = {}): Record<string, unknown> => ({
  architectures: ['Phi3ForCausalLM'],
  model_type: 'phi3',
  vocab_size: 37,
  hidden_size: 16,
  intermediate_size: 20,
  num_hidden_layers: 2,
  num_attention_heads: 4,
  num_key_value_heads: 2,
  max_position_embeddings: 64,
  original_max_position_embeddings: 64,
  hidden_act: 'silu',
  rms_norm_eps: 1e-5,
  rope_theta: 10000,
  // Larger than 0.02, so that tokens matter and a wrong mask or rotation shows.
  initializer_range: 0.5,
  bos_token_id: 1,
  eos_token_id: 2,
  pad_token_id: 0,
  ...changes,
});

/** rope_scaling of a LongRoPE model with heads of 4 features: 2 factors; the border is original_max_position_embeddings. */
export const tinyLongRope = { type: 'longrope', short_factor: [1, 1.5], long_factor: [2, 8] };

export const tinyConfig = (changes: Readonly<Record<string, unknown>> = {}): Phi3Config =>
  parsePhi3Config(tinyConfigJson(changes));

export const tinyPhi3 = (
  backend: Backend,
  changes: Readonly<Record<string, unknown>> = {},
  seed = 5,
): Promise<Phi3ForCausalLM> => initPhi3(tinyConfig(changes), { backend, key: randomKey(seed) });
