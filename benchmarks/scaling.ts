/**
 * `node benchmarks/scaling.ts`: what Phi-3-mini's training would take on 1, 2, 4, 8 and 16 threads of this machine, from pieces of
 * true size: products, one layer with LoRA forward and backward, the head with its loss, AdamW. Needs 2 GB and no files.
 *   --threads N,M   default 1, 2, 4, 8, 16, up to the machine's cores
 *   --tokens N      of a step (default 512)
 *   --rounds N      of each piece; the best counts (default 3)
 *   --out FILE      the results as JSON
 * A step is 32 layers, the head and the update; the first layer's input needs no gradient, which the sum leaves out of account.
 */
import { writeFileSync } from 'node:fs';
import { availableParallelism, cpus, totalmem } from 'node:os';
import { parseArgs } from 'node:util';
import { type CpuBackend, cpu } from '@lorikeet/cpu';
import { applyLora, markOnlyLoraAsTrainable } from '@lorikeet/lora';
import { AdamW, byteSource, clipGradNorm, trainableParameters } from '@lorikeet/nn';
import { buildPhi3, type Phi3ForCausalLM, parsePhi3Config } from '@lorikeet/phi3';
import {
  type Gradients,
  linearCrossEntropy,
  matmul,
  noGrad,
  randomKey,
  scope,
  type Tensor,
  tensor,
} from '@lorikeet/tensor';
import { draw } from './data.ts';

const { values } = parseArgs({
  options: {
    threads: { type: 'string' },
    tokens: { type: 'string', default: '512' },
    rounds: { type: 'string', default: '3' },
    out: { type: 'string' },
  },
});
const cores = availableParallelism();
const counts = values.threads?.split(',').map(Number) ?? [1, 2, 4, 8, 16].filter((n) => n <= cores);
const [tokens, rounds] = [Number(values.tokens), Number(values.rounds)];

const layers = 32;
/** Phi-3-mini's layer; the vocabulary is small, because the head is measured apart. */
const config = parsePhi3Config({
  architectures: ['Phi3ForCausalLM'], model_type: 'phi3', hidden_act: 'silu', attention_bias: false, vocab_size: 64, hidden_size: 3072,
  intermediate_size: 8192, num_hidden_layers: 1, num_attention_heads: 32, num_key_value_heads: 32, max_position_embeddings: 4096,
  original_max_position_embeddings: 4096, rms_norm_eps: 1e-5, rope_theta: 10000, rope_scaling: null, sliding_window: 2047,
  bos_token_id: 1, eos_token_id: 2, pad_token_id: 0, tie_word_embeddings: false, initializer_range: 0.02, resid_pdrop: 0, embd_pdrop: 0, attention_dropout: 0,
}); // biome-ignore format: a config.json
const vocabulary = 32_064;
const plan = { chats: 1000, tokensEach: 300, epochs: 3 };

/** Seconds of the fastest of several calls. */
async function best(run: () => Promise<void> | void): Promise<number> {
  await run();
  let least = Number.POSITIVE_INFINITY;
  for (let i = 0; i < rounds; i++) {
    const start = performance.now();
    await run();
    least = Math.min(least, (performance.now() - start) / 1000);
  }
  return least;
}

const bytesOf = (shape: readonly number[]): Uint8Array => {
  const count = shape.reduce((product, n) => product * n, 1);
  return new Uint8Array((shape.length === 1 ? new Float32Array(count).fill(1) : draw(count, count, 0.02)).buffer);
};

async function oneLayer(backend: CpuBackend): Promise<Phi3ForCausalLM> {
  const source = (path: string, shape: readonly number[]) =>
    byteSource({ path, dtype: 'f32', shape }, () => bytesOf(shape));
  const model = await buildPhi3(config, source, { backend, dtype: 'bf16', trainable: false });
  applyLora(
    model,
    { r: 16, loraAlpha: 32, targetModules: 'all-linear', initLoraWeights: false },
    { key: randomKey(2) },
  );
  markOnlyLoraAsTrainable(model);
  return model;
}

const activation = (backend: CpuBackend, shape: number[], seed: number): Tensor =>
  tensor(draw(shape[0]! * shape[1]!, seed), { backend, shape });

/** GFLOP/s of x [t, k] W^T, W [n, k] in bf16, and of its gradient. */
async function products(backend: CpuBackend): Promise<Record<string, number>> {
  const rates: Record<string, number> = {};
  for (const [k, n] of [[3072, 9216], [3072, 3072], [3072, 16384], [8192, 3072]] as const) {
    const [x, g] = [activation(backend, [tokens, k], 1), activation(backend, [tokens, n], 2)];
    const wide = activation(backend, [n, k], 3);
    const w = wide.cast('bf16');
    wide.dispose();
    const flop = 2 * tokens * k * n;
    rates[`${tokens} x ${k} x ${n}`] = flop / 1e9 / (await best(() => matmul(x, w, { transposeB: true }).dispose()));
    rates[`${tokens} x ${n} x ${k}, gradient`] = flop / 1e9 / (await best(() => matmul(g, w).dispose()));
    for (const t of [x, g, w]) t.dispose();
  } // biome-ignore format: a list
  return rates;
}

interface LayerTimes {
  readonly forward: number;
  /** Forward and backward. */
  readonly both: number;
  /** Clipping and AdamW of one layer's adapters. */
  readonly update: number;
}

async function layerTimes(backend: CpuBackend): Promise<LayerTimes> {
  const model = await oneLayer(backend);
  const layer = model.model.layers[0]!;
  const x = activation(backend, [tokens, 3072], 4);
  x.requiresGrad = true;
  const seed = activation(backend, [tokens, 3072], 5);
  const [cos, sin] = [activation(backend, [tokens, 48], 6), activation(backend, [tokens, 48], 7)];
  const context = { lengths: [tokens], cache: null };
  const run = (): Tensor => layer.forward(x, cos, sin, context);
  const forward = await best(() => noGrad(() => scope(() => void run())));
  let gradients: Gradients | null = null;
  const both = await best(() => {
    gradients?.dispose();
    gradients = scope(() => run().backward(seed));
  });
  const parameters = trainableParameters(model);
  const optimizer = new AdamW(parameters, { lr: 1e-4 });
  const update = await best(async () => {
    const { scale } = await clipGradNorm(gradients!, parameters, 1);
    optimizer.step(gradients!, { gradScale: scale });
  });
  gradients!.dispose();
  optimizer.dispose();
  for (const t of [x, seed, cos, sin]) t.dispose();
  model.dispose();
  return { forward, both, update };
}

/** Logits, loss and the gradient of the hidden states, every token trained. */
async function headSeconds(backend: CpuBackend): Promise<number> {
  const wide = activation(backend, [vocabulary, 3072], 8);
  const w = wide.cast('bf16');
  wide.dispose();
  const hidden = activation(backend, [tokens, 3072], 9);
  hidden.requiresGrad = true;
  const labels = Int32Array.from({ length: tokens }, (_, i) => (i * 7919) % vocabulary);
  const seconds = await best(() => scope(() => void linearCrossEntropy(hidden, w, labels).backward()));
  hidden.dispose();
  w.dispose();
  return seconds;
}

async function measure(threads: number) {
  const backend = await cpu({ revectorize: 'auto', threads });
  const gflops = await products(backend);
  const layer = await layerTimes(backend);
  const head = await headSeconds(backend);
  await backend.close();
  const step = layers * (layer.both + layer.update) + head;
  const recomputing = step + layers * layer.forward;
  const hours = (seconds: number): number => (plan.chats * plan.tokensEach * plan.epochs * seconds) / tokens / 3600;
  return {
    threads, gflops, layer, head, step: { seconds: step, tokensPerSecond: tokens / step, planHours: hours(step) },
    recomputingStep: { seconds: recomputing, tokensPerSecond: tokens / recomputing, planHours: hours(recomputing) },
  }; // biome-ignore format: one result
}

const results = [];
for (const threads of counts) {
  const result = await measure(threads);
  results.push(result);
  const { step, recomputingStep, layer, head } = result;
  console.log(
    `${threads} threads: layer ${layer.both.toFixed(2)} s (forward ${layer.forward.toFixed(2)} s), head ${head.toFixed(2)} s, step of ${tokens} tokens ${step.seconds.toFixed(1)} s: ` +
      `${step.tokensPerSecond.toFixed(1)} tokens/s, ${step.planHours.toFixed(1)} hours for the plan (recomputing layers: ${recomputingStep.tokensPerSecond.toFixed(1)}, ${recomputingStep.planHours.toFixed(1)} hours)`,
  );
}
if (values.out) {
  const machine = {
    processor: cpus()[0]?.model ?? 'unknown',
    cores,
    memoryBytes: totalmem(),
    node: process.versions.node,
  };
  const how = 'one layer, the head and one update measured; the step is 32 layers, added up';
  writeFileSync(
    values.out,
    `${JSON.stringify({ date: new Date().toISOString(), machine, tokens, rounds, plan, how, results }, null, 2)}\n`,
  );
}
