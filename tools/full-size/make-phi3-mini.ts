/**
 * `node tools/full-size/make-phi3-mini.ts DIR [--seed N] [--tokenizer DIR]`: a model folder with the shapes of Phi-3-mini-4k
 * (3.8 thousand million bf16 weights in two shards, 7.6 GB) and random values: what loading, memory and speed at full size
 * are tried on where the real weights are not at hand. It is written as a stream, with a few MB in memory.
 */
import { parseArgs } from 'node:util';
import { joinPath, nodeFiles, readJson, writeJson } from '@lorikeet/files';
import { parsePhi3Config, phi3Tensors } from '@lorikeet/phi3';
import { type WriteEntry, writeSharded } from '@lorikeet/safetensors';
import { randomKey } from '@lorikeet/tensor';
import { bf16Rows, normalTable } from './random-weights.ts';

/** config.json of microsoft/Phi-3-mini-4k-instruct: what decides shapes and arithmetic. */
const config = {
  architectures: ['Phi3ForCausalLM'],
  model_type: 'phi3',
  hidden_size: 3072,
  intermediate_size: 8192,
  num_hidden_layers: 32,
  num_attention_heads: 32,
  num_key_value_heads: 32,
  vocab_size: 32064,
  max_position_embeddings: 4096,
  original_max_position_embeddings: 4096,
  rms_norm_eps: 1e-5,
  rope_theta: 10000,
  rope_scaling: null,
  sliding_window: 2047,
  tie_word_embeddings: false,
  attention_bias: false,
  attention_dropout: 0,
  embd_pdrop: 0,
  resid_pdrop: 0,
  hidden_act: 'silu',
  initializer_range: 0.02,
  bos_token_id: 1,
  eos_token_id: 32000,
  pad_token_id: 32000,
  torch_dtype: 'bfloat16',
  use_cache: true,
};
/** transformers' "5GB" shards: two files, as Microsoft's. */
const maxShardBytes = 5e9;
const tokenizerFiles = ['tokenizer.json', 'tokenizer_config.json'];

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: { seed: { type: 'string', default: '0' }, tokenizer: { type: 'string' } },
});
const [dir] = positionals;
if (dir === undefined)
  throw new Error('make-phi3-mini: needs the folder to write: none was given. Add DIR, where 7.6 GB are free.');
const files = nodeFiles();
const startMs = performance.now();
const table = normalTable(Number(values.seed));

/** Norm weights lie around 1; of a matrix each row has its own scale. */
function entryOf(path: string, shape: readonly number[]): WriteEntry {
  const key = randomKey(Number(values.seed), path);
  const [rows, columns] = shape;
  const spread = { deviation: config.initializer_range, rowSpread: 0.3 };
  const bytes = columns === undefined ? () => bf16Ones(rows!) : () => bf16Rows([rows!, columns], spread, key, table);
  return { name: path, dtype: 'bf16', shape, bytes };
}

const bf16Ones = (count: number): Uint8Array => new Uint8Array(new Uint16Array(count).fill(0x3f80).buffer);

await files.makeDirectory(dir);
await writeJson(files, joinPath(dir, 'config.json'), config);
if (values.tokenizer !== undefined)
  for (const name of tokenizerFiles)
    await writeJson(files, joinPath(dir, name), await readJson(files, joinPath(values.tokenizer, name)));
const entries = [...phi3Tensors(parsePhi3Config(config))].map(([path, shape]) => entryOf(path, shape));
const names = await writeSharded(files, dir, entries, { maxShardBytes, metadata: { format: 'pt' } });
const sizes = await Promise.all(names.map((name) => files.size(joinPath(dir, name))));
const gigabytes = sizes.reduce((sum, size) => sum + size, 0) / 1e9;
console.log(
  `${names.join(', ')}: ${gigabytes.toFixed(2)} GB in ${((performance.now() - startMs) / 1000).toFixed(0)} s`,
);
