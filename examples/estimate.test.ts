import { cpu } from '@lorikeet/cpu';
import { memoryFiles } from '@lorikeet/files';
import { applyLora } from '@lorikeet/lora';
import { initPhi3, type Phi3ForCausalLM, parsePhi3Config } from '@lorikeet/phi3';
import { type Backend, dryRunBackend, memory, randomKey } from '@lorikeet/tensor';
import { planMemory, type TrainingOptions, train } from '@lorikeet/trainer';
import { expect, it } from 'vitest';

interface Size {
  readonly hiddenSize: number;
  readonly intermediateSize: number;
  readonly layers: number;
  readonly vocabularySize: number;
  readonly keyValueHeads: number;
  readonly tokens: number;
  readonly gradientCheckpointing: boolean;
  readonly activationStorage?: 'bf16';
  readonly loraDropout: number;
  readonly options?: TrainingOptions;
}

async function tunedPhi3(backend: Backend, size: Size): Promise<Phi3ForCausalLM> {
  const config = parsePhi3Config({
    architectures: ['Phi3ForCausalLM'], model_type: 'phi3', vocab_size: size.vocabularySize, hidden_size: size.hiddenSize,
    intermediate_size: size.intermediateSize, num_hidden_layers: size.layers, num_attention_heads: 8, num_key_value_heads: size.keyValueHeads,
    max_position_embeddings: 4096, original_max_position_embeddings: 4096, hidden_act: 'silu', rms_norm_eps: 1e-5, rope_theta: 10_000,
    initializer_range: 0.05, bos_token_id: 1, eos_token_id: 2, pad_token_id: 0,
  }); // biome-ignore format: config.json
  const model = await initPhi3(config, { backend, key: randomKey(1), dtype: 'bf16', trainable: false });
  applyLora(model, { r: 16, loraAlpha: 32, loraDropout: size.loraDropout });
  model.gradientCheckpointing = size.gradientCheckpointing;
  model.activationStorage = size.activationStorage ?? 'f32';
  return model;
}

const small = {
  hiddenSize: 128,
  intermediateSize: 352,
  layers: 6,
  vocabularySize: 1024,
  keyValueHeads: 4,
  tokens: 512,
};
it.each<Size>([
  { ...small, gradientCheckpointing: false, loraDropout: 0 },
  { ...small, gradientCheckpointing: false, loraDropout: 0.05, options: { gradientAccumulationSteps: 2 } },
  { ...small, gradientCheckpointing: true, loraDropout: 0.05 },
  { ...small, gradientCheckpointing: true, activationStorage: 'bf16', loraDropout: 0 },
  {
    ...small,
    keyValueHeads: 8,
    layers: 2,
    tokens: 1024,
    vocabularySize: 4096,
    gradientCheckpointing: false,
    loraDropout: 0,
  },
])('the planned memory of a Phi-3 is what its training takes: %o', async (size) => {
  const backend = await cpu();
  const { tokens, vocabularySize } = size;
  const ids = Int32Array.from({ length: tokens }, (_, i) => (i * 7) % vocabularySize);
  const lengths = Array<number>(tokens / 128).fill(128);
  const batch = { ids, labels: ids, lengths, trainedTokens: tokens - lengths.length, lines: [1] };
  const planned = await tunedPhi3(dryRunBackend(backend), size);
  const plan = await planMemory(planned, (b: typeof batch, o) => planned.loss(b, o), batch, size.options);

  const model = await tunedPhi3(backend, size);
  const use = memory(backend);
  use.peakBytes = use.liveBytes;
  const batches = { batchesPerEpoch: 10, next: () => batch, state: () => 0, restore: () => undefined };
  const options = { ...size.options, files: memoryFiles(), outputDir: 'run', maxSteps: 2, saveStrategy: 'no' } as const;
  for await (const event of train(model, (b: typeof batch, o) => model.loss(b, o), batches, options))
    expect(event.type).not.toBe('note');
  expect(plan.peakBytes).toBe(use.peakBytes);
  const { weights, adapter, gradients, optimizer, activations } = plan;
  expect(weights + adapter + gradients + optimizer + activations).toBe(plan.peakBytes);
  expect(optimizer).toBe(2 * adapter);
  await backend.close();
});
