/** Phi-3's blocks at width 1024 with random weights in bf16, as a folder that transformers and we read, and an adapter beside it. */
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { nodeFiles } from '@lorikeet/files';
import { applyLora, saveAdapter } from '@lorikeet/lora';
import { byteSource } from '@lorikeet/nn';
import { buildPhi3, loadPhi3, parsePhi3Config, savePhi3 } from '@lorikeet/phi3';
import { type Backend, normalsOf, randomKey } from '@lorikeet/tensor';

/** 170 M weights. The padding token is none of the rows'. */
const config = parsePhi3Config({
  architectures: ['Phi3ForCausalLM'], model_type: 'phi3', hidden_act: 'silu', attention_bias: false, vocab_size: 32064, hidden_size: 1024,
  intermediate_size: 2816, num_hidden_layers: 8, num_attention_heads: 16, num_key_value_heads: 16, max_position_embeddings: 4096,
  original_max_position_embeddings: 4096, rms_norm_eps: 1e-5, rope_theta: 10000, rope_scaling: null, sliding_window: 2047,
  bos_token_id: 1, eos_token_id: 32000, pad_token_id: 32000, tie_word_embeddings: false, initializer_range: 0.02, resid_pdrop: 0, embd_pdrop: 0, attention_dropout: 0,
}); // biome-ignore format: a config.json

export interface ModelFolder {
  readonly model: string;
  readonly adapter: string;
  remove(): void;
}

/** Drawn once; larger weights repeat them. A prime, so that rows of a matrix differ. */
const drawn = (): Float32Array =>
  normalsOf(1_000_003, randomKey(1, 'wide model')).map((z) => z * config.initializerRange);

const newFolder = (): { root: string; remove: () => void } => {
  const root = mkdtempSync(join(tmpdir(), 'lorikeet-bench-'));
  return { root, remove: () => rmSync(root, { recursive: true, force: true }) };
};

/** lora_B is drawn too: with it at 0 the adapter would not be seen in the first loss. */
async function writeAdapter(backend: Backend, model: string, adapter: string): Promise<void> {
  const base = await loadPhi3(nodeFiles(), model, { backend });
  const lora = { r: 16, loraAlpha: 32, targetModules: 'all-linear', initLoraWeights: false } as const;
  applyLora(base, lora, { key: randomKey(2) });
  await saveAdapter(nodeFiles(), adapter, base, { baseModelNameOrPath: 'bench' });
  base.dispose();
}

export async function wideModel(backend: Backend): Promise<ModelFolder> {
  const { root, remove } = newFolder();
  const values = drawn();
  const bytes = (shape: readonly number[]): Uint8Array => {
    const weight = new Float32Array(shape.reduce((product, n) => product * n, 1));
    if (shape.length === 1) weight.fill(1);
    else
      for (let at = 0; at < weight.length; at += values.length)
        weight.set(values.subarray(0, Math.min(values.length, weight.length - at)), at);
    return new Uint8Array(weight.buffer);
  };
  const source = (path: string, shape: readonly number[]) =>
    byteSource({ path, dtype: 'f32', shape }, () => bytes(shape));
  const folder = { model: join(root, 'model'), adapter: join(root, 'adapter'), remove };
  const model = await buildPhi3(config, source, { backend, dtype: 'bf16', trainable: false });
  await savePhi3(nodeFiles(), folder.model, model);
  model.dispose();
  await writeAdapter(backend, folder.model, folder.adapter);
  return folder;
}

/** An adapter for a model folder that exists. */
export async function adapterFor(backend: Backend, model: string): Promise<ModelFolder> {
  const { root, remove } = newFolder();
  const folder = { model, adapter: join(root, 'adapter'), remove };
  await writeAdapter(backend, model, folder.adapter);
  return folder;
}
