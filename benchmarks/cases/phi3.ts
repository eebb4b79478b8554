import type { CpuBackend } from '@lorikeet/cpu';
import { applyLora, markOnlyLoraAsTrainable } from '@lorikeet/lora';
import { AdamW, clipGradNorm, trainableParameters } from '@lorikeet/nn';
import { generate, initPhi3, type LinearFactory, type Phi3ForCausalLM, parsePhi3Config } from '@lorikeet/phi3';
import { type Backend, randomKey, referenceBackend, scope } from '@lorikeet/tensor';
import { type BenchCase, type BenchContender, plainJavaScript } from '../case.ts';

/** Phi-3's architecture at a size that a peer in plain JavaScript can finish: 15 M weights in bf16. */
const config = parsePhi3Config({
  architectures: ['Phi3ForCausalLM'], model_type: 'phi3', hidden_act: 'silu', attention_bias: false, vocab_size: 4096, hidden_size: 512,
  intermediate_size: 1408, num_hidden_layers: 4, num_attention_heads: 8, num_key_value_heads: 8, max_position_embeddings: 1024,
  original_max_position_embeddings: 1024, rms_norm_eps: 1e-5, rope_theta: 10000, rope_scaling: null, sliding_window: null,
  bos_token_id: 1, eos_token_id: 2, pad_token_id: 0, tie_word_embeddings: false, initializer_range: 0.02, resid_pdrop: 0, embd_pdrop: 0, attention_dropout: 0,
}); // biome-ignore format: a config.json

export const buildBenchModel = (backend: Backend, linear?: LinearFactory): Promise<Phi3ForCausalLM> =>
  initPhi3(config, { backend, key: randomKey(1), dtype: 'bf16', trainable: false, ...(linear && { linear }) });
const idsOf = (count: number): Int32Array => Int32Array.from({ length: count }, (_, i) => 3 + ((i * 7919) % 4000));

/** One optimizer step on a batch: forward, backward, clipping, AdamW. Returns the loss, so that contenders can be compared. */
export function stepper(model: Phi3ForCausalLM, batch: Parameters<Phi3ForCausalLM['loss']>[0]): () => Promise<number> {
  const parameters = trainableParameters(model);
  const optimizer = new AdamW(parameters, { lr: 1e-4 });
  return async () => {
    const { loss, gradients } = scope(() => {
      const l = model.loss(batch);
      return { loss: l.detach(), gradients: l.backward() };
    });
    const { scale } = await clipGradNorm(gradients, parameters, 1);
    optimizer.step(gradients, { gradScale: scale });
    const value = await loss.item();
    gradients.dispose();
    loss.dispose();
    return value;
  };
}

/** LoRA steps of the bench model. */
export async function trainer(
  backend: Backend,
  rows: number,
  length: number,
  linear?: LinearFactory,
): Promise<() => Promise<number>> {
  const model = await buildBenchModel(backend, linear);
  applyLora(model, { r: 16, loraAlpha: 32, targetModules: 'all-linear' }, { key: randomKey(2) });
  markOnlyLoraAsTrainable(model);
  const ids = idsOf(rows * length);
  return stepper(model, { ids, labels: ids, lengths: new Array<number>(rows).fill(length) });
}

const near = (what: string, got: number, want: number, relative: number): void => {
  if (!(Math.abs(got - want) <= relative * Math.abs(want)))
    throw new Error(`${what}: got ${got}, expected ${want} within ${relative}`);
};

const step: BenchCase = {
  name: 'training step',
  shape: 'Phi-3 of width 512, 4 layers, bf16, LoRA r 16 on all linears, 4 x 128 tokens',
  unit: 'tokens/s',
  perUnit: 1,
  async contenders({ one, many }) {
    const [small, reference] = [await trainer(many, 2, 8), await trainer(referenceBackend(), 2, 8)];
    near('first loss', await small(), await reference(), 1e-4);
    const contender = async (backend: CpuBackend): Promise<BenchContender> => {
      const { threads } = backend.describe() as { threads: number };
      return { name: `${threads} threads`, work: 4 * 128, run: await trainer(backend, 4, 128), row: { threads } };
    };
    return [
      await contender(many),
      await contender(one),
      // gpu.js has no autograd; plain JavaScript is our reference backend, on 16 tokens.
      plainJavaScript(16, reference, 1),
    ];
  },
};

export async function greedy(model: Phi3ForCausalLM, count: number): Promise<number[]> {
  const ids: number[] = [];
  for await (const { id } of generate(model, idsOf(16), { maxNewTokens: count, stopTokenIds: [] })) ids.push(id);
  return ids;
}

const generation: BenchCase = {
  name: 'cached generation',
  shape: 'the same model, 16 tokens of prompt, greedy',
  unit: 'tokens/s',
  perUnit: 1,
  async contenders({ one, many }) {
    const [a, b, reference] = [
      await buildBenchModel(many),
      await buildBenchModel(one),
      await buildBenchModel(referenceBackend()),
    ];
    const [got, want] = [await greedy(a, 2), await greedy(reference, 2)];
    if (`${got}` !== `${want}`) throw new Error(`greedy tokens: got ${got}, expected ${want}`);
    const contender = (backend: CpuBackend, model: Phi3ForCausalLM): BenchContender => {
      const { threads } = backend.describe() as { threads: number };
      return { name: `${threads} threads`, work: 32, run: () => greedy(model, 32), row: { threads } };
    };
    return [contender(many, a), contender(one, b), plainJavaScript(2, () => greedy(reference, 2), 1)];
  },
};

export const phi3Cases: readonly BenchCase[] = [step, generation];
