/**
 * QLoRA on Phi-3-mini's true shapes on a GPU: builds the model in NF4 from drawn weights, takes steps of 512 tokens, generates.
 *   node benchmarks/webgpu-full-size.ts [--layers 32] [--tokens 512] [--steps 4] [--backend webgpu|cpu] [--json FILE]
 */
import { writeFileSync } from 'node:fs';
import { parseArgs } from 'node:util';
import { cpu } from '@lorikeet/cpu';
import { applyLora, markOnlyLoraAsTrainable, nf4 } from '@lorikeet/lora';
import { buildPhi3, generate, parsePhi3Config, type TensorSource } from '@lorikeet/phi3';
import { memory, normalsOf, randomKey } from '@lorikeet/tensor';
import { webgpu } from '@lorikeet/webgpu';
import { stepper } from './cases/phi3.ts';

const { values } = parseArgs({
  options: {
    layers: { type: 'string', default: '32' },
    tokens: { type: 'string', default: '512' },
    steps: { type: 'string', default: '4' },
    backend: { type: 'string', default: 'webgpu' },
    json: { type: 'string' },
  },
});
const [layers, tokens, steps] = [Number(values.layers), Number(values.tokens), Number(values.steps)];
const config = parsePhi3Config({
  architectures: ['Phi3ForCausalLM'], model_type: 'phi3', hidden_act: 'silu', attention_bias: false, vocab_size: 32064, hidden_size: 3072,
  intermediate_size: 8192, num_hidden_layers: layers, num_attention_heads: 32, num_key_value_heads: 32, max_position_embeddings: 4096,
  original_max_position_embeddings: 4096, rms_norm_eps: 1e-5, rope_theta: 10000, rope_scaling: null, sliding_window: 2047,
  bos_token_id: 1, eos_token_id: 32000, pad_token_id: 32000, tie_word_embeddings: false, initializer_range: 0.02, resid_pdrop: 0,
  embd_pdrop: 0, attention_dropout: 0,
}); // biome-ignore format: a config.json

/** Rows of one drawn piece over and over: what a time and a size need of weights. */
const piece = (() => {
  const drawn = new Uint32Array(Float32Array.from(normalsOf(1 << 22, randomKey(1)), (z) => z * 0.02).buffer);
  return new Uint8Array(Uint16Array.from(drawn, (bits) => bits >>> 16).buffer);
})();

function source(path: string, shape: readonly number[]): TensorSource {
  const rowBytes = 2 * (shape[1] ?? 1);
  const readRows = async (start: number, end: number): Promise<Uint8Array> => {
    const out = new Uint8Array((end - start) * rowBytes);
    if (shape.length === 1) return new Uint8Array(new Uint16Array(end - start).fill(0x3f80).buffer);
    for (let at = 0; at < out.length; at += piece.length) out.set(piece.subarray(0, out.length - at), at);
    return out;
  };
  return { path, dtype: 'bf16', shape, readRows, read: () => readRows(0, shape[0]!) };
}

const seconds = async <T>(work: () => Promise<T>): Promise<[T, number]> => {
  const start = performance.now();
  return [await work(), (performance.now() - start) / 1000];
};
const idsOf = (count: number): Int32Array => Int32Array.from({ length: count }, (_, i) => 3 + ((i * 7919) % 31000));

const backend = values.backend === 'cpu' ? await cpu({ revectorize: 'auto' }) : await webgpu();
const [model, buildSeconds] = await seconds(() => buildPhi3(config, source, { backend, linear: nf4() }));
const baseBytes = memory(backend).liveBytes;
console.log(`${layers} layers in NF4: ${(baseBytes / 2 ** 30).toFixed(2)} GiB, built in ${buildSeconds.toFixed(1)} s`);
model.gradientCheckpointing = true;
applyLora(model, { r: 16, loraAlpha: 32, targetModules: 'all-linear' }, { key: randomKey(2) });
markOnlyLoraAsTrainable(model);
const ids = idsOf(tokens);
const step = stepper(model, { ids, labels: ids, lengths: [tokens] });
const losses: number[] = [];
const stepSeconds: number[] = [];
for (let i = 0; i < steps; i++) {
  const [loss, elapsed] = await seconds(step);
  if (!Number.isFinite(loss)) throw new Error(`step ${i + 1}: the loss must be finite: got ${loss}`);
  losses.push(loss);
  stepSeconds.push(elapsed);
  console.log(
    `step ${i + 1}: loss ${loss.toFixed(4)}, ${elapsed.toFixed(2)} s, ${(tokens / elapsed).toFixed(0)} tokens/s`,
  );
}
model.eval();
const [made, generateSeconds] = await seconds(async () => {
  let count = 0;
  for await (const _ of generate(model, idsOf(16), { maxNewTokens: 16, stopTokenIds: [] })) count++;
  return count;
});
console.log(
  `generation: ${(made / generateSeconds).toFixed(1)} tokens/s; peak ${(memory(backend).peakBytes / 2 ** 30).toFixed(2)} GiB`,
);
const report = {
  layers,
  tokens,
  losses,
  stepSeconds,
  buildSeconds,
  baseBytes,
  peakBytes: memory(backend).peakBytes,
  generatedTokensPerSecond: made / generateSeconds,
  device: backend.describe(),
};
if (values.json) writeFileSync(values.json, `${JSON.stringify(report, null, 2)}\n`);
await backend.close();
