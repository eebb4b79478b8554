/** A tiny Phi-3 trained on WebGPU: the losses of the reference backend, step by step, and no buffer left on the device. */
import { applyLora, markOnlyLoraAsTrainable } from '@lorikeet/lora';
import { AdamW } from '@lorikeet/nn';
import { initPhi3, type Phi3ForCausalLM, parsePhi3Config } from '@lorikeet/phi3';
import { type Backend, memory, randomKey, scope, withRandom } from '@lorikeet/tensor';
import { expectClose } from '@lorikeet/tensor/testing';
import { expect, test } from 'vitest';
import { openBackend } from './backends.ts';

const config = parsePhi3Config({
  architectures: ['Phi3ForCausalLM'],
  model_type: 'phi3',
  vocab_size: 61,
  hidden_size: 32,
  intermediate_size: 48,
  num_hidden_layers: 2,
  num_attention_heads: 4,
  num_key_value_heads: 2,
  max_position_embeddings: 64,
  original_max_position_embeddings: 64,
  sliding_window: 6,
  hidden_act: 'silu',
  rms_norm_eps: 1e-5,
  rope_theta: 10000,
  initializer_range: 0.2,
  resid_pdrop: 0.1,
  bos_token_id: 1,
  eos_token_id: 2,
  pad_token_id: 0,
});

/** A batch of other lengths at every step, so that a kernel compiled for one length would show. */
function batchOf(step: number) {
  const lengths = [3 + (step % 4), 1 + (step % 3), 9];
  const ids = Int32Array.from({ length: lengths.reduce((a, b) => a + b) }, (_, i) => 3 + ((i * 7 + step) % 50));
  return { ids, labels: ids.map((id, i) => (i % 5 === 0 ? -100 : id)), lengths };
}

async function train(
  backend: Backend,
  adapt: (model: Phi3ForCausalLM) => void,
  dtype: 'f32' | 'bf16',
  afterStep: () => void = () => {},
): Promise<number[]> {
  const model = await initPhi3(config, { backend, key: randomKey(4), dtype });
  adapt(model);
  const optimizer = new AdamW(
    model.namedParameters().filter((p) => p.tensor.requiresGrad),
    { lr: 1e-2 },
  );
  const losses: number[] = [];
  for (let step = 0; step < 10; step++) {
    using loss = scope(() => {
      const made = withRandom(randomKey(4, step), () => model.loss(batchOf(step)));
      optimizer.step(made.backward());
      return made.detach();
    });
    losses.push(await loss.item());
    afterStep();
  }
  optimizer.dispose();
  model.dispose();
  return losses;
}

const lora = (model: Phi3ForCausalLM): void => {
  applyLora(model, { r: 4, loraAlpha: 8, loraDropout: 0.1, targetModules: 'all-linear' }, { key: randomKey(9) });
  markOnlyLoraAsTrainable(model);
};
const cases = [
  { name: 'LoRA over f32 weights', adapt: lora, dtype: 'f32', relative: 1e-5 },
  { name: 'LoRA over bf16 weights', adapt: lora, dtype: 'bf16', relative: 2e-3 },
  { name: 'all parameters', adapt: () => {}, dtype: 'f32', relative: 1e-4 },
] as const;

for (const { name, adapt, dtype, relative } of cases)
  test(`ten steps of a tiny Phi-3 on webgpu: ${name}`, { timeout: 240_000 }, async (context) => {
    const opened = await openBackend('webgpu');
    if ('reason' in opened) {
      if (process.env.LORIKEET_TEST_WEBGPU === '1') throw new Error(opened.reason);
      return context.skip(`skipped: ${opened.reason}`);
    }
    const { backend } = opened;
    const reference = await openBackend('reference');
    if (!('backend' in reference)) throw new Error('the reference backend always opens');
    const compiled: unknown[] = [];
    const losses = await train(backend, adapt, dtype, () => compiled.push(backend.describe().pipelines));
    expect(new Set(compiled).size).toBe(1);
    expectClose(losses, await train(reference.backend, adapt, dtype), { relative, absolute: 0 }, 'losses');
    expect(losses[9]).toBeLessThan(losses[0]!);
    expect(memory(backend).liveTensors).toBe(0);
    expect(backend.describe().liveBuffers).toBe(0);
    await backend.close();
  });
