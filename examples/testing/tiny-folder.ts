/** A model folder as a download of Phi-3 has it, of a size for tests: random weights, byte tokens, Phi-3's special tokens and template. */
import { cpu } from '@lorikeet/cpu';
import { type FileSystem, joinPath, nodeFiles, writeAtomic, writeJson } from '@lorikeet/files';
import { initPhi3, parsePhi3Config, savePhi3 } from '@lorikeet/phi3';
import { type Backend, randomKey } from '@lorikeet/tensor';

const hex = (byte: number): string => byte.toString(16).toUpperCase().padStart(2, '0');
const pieces = ['<unk>', '<s>', '</s>', ...Array.from({ length: 256 }, (_, byte) => `<0x${hex(byte)}>`), '▁'];
const special = ['<|endoftext|>', '<|assistant|>', '<|system|>', '<|end|>', '<|user|>'];
const idOf = (token: string): number => [...pieces, ...special].indexOf(token);

/** Phi-3's template of mid-2024, with the system role. */
const turns = ['system', 'user', 'assistant'].map(
  (role, i) =>
    `{% ${i ? 'elif' : 'if'} message['role'] == '${role}' %}{{'<|${role}|>\n' + message['content'] + '<|end|>\n'}}`,
);
const chatTemplate = `{% for message in messages %}${turns.join('')}{% endif %}{% endfor %}{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% else %}{{ eos_token }}{% endif %}`;

const addedToken = (content: string) => ({
  id: idOf(content),
  content,
  single_word: false,
  lstrip: false,
  rstrip: special.includes(content) && content !== '<|endoftext|>',
  normalized: false,
  special: true,
});

const tokenizerJson = {
  version: '1.0',
  truncation: null,
  padding: null,
  added_tokens: [...pieces.slice(0, 3), ...special].map(addedToken),
  normalizer: {
    type: 'Sequence',
    normalizers: [
      { type: 'Prepend', prepend: '▁' },
      { type: 'Replace', pattern: { String: ' ' }, content: '▁' },
    ],
  },
  pre_tokenizer: null,
  post_processor: null,
  decoder: {
    type: 'Sequence',
    decoders: [
      { type: 'Replace', pattern: { String: '▁' }, content: ' ' },
      { type: 'ByteFallback' },
      { type: 'Fuse' },
      { type: 'Strip', content: ' ', start: 1, stop: 0 },
    ],
  },
  model: {
    type: 'BPE',
    dropout: null,
    unk_token: '<unk>',
    continuing_subword_prefix: null,
    end_of_word_suffix: null,
    fuse_unk: true,
    byte_fallback: true,
    ignore_merges: false,
    vocab: Object.fromEntries(pieces.map((piece, id) => [piece, id])),
    merges: [],
  },
};

const tokenizerConfig = {
  bos_token: '<s>',
  eos_token: '<|endoftext|>',
  pad_token: '<|endoftext|>',
  unk_token: '<unk>',
  model_max_length: 4096,
  chat_template: chatTemplate,
};

/** Writes the folder: two layers, bf16 weights. */
export async function writeTinyFolder(files: FileSystem, dir: string, backend: Backend): Promise<void> {
  const config = parsePhi3Config({
    architectures: ['Phi3ForCausalLM'],
    model_type: 'phi3',
    vocab_size: pieces.length + special.length,
    hidden_size: 32,
    intermediate_size: 64,
    num_hidden_layers: 2,
    num_attention_heads: 4,
    num_key_value_heads: 4,
    max_position_embeddings: 4096,
    original_max_position_embeddings: 4096,
    sliding_window: 2047,
    hidden_act: 'silu',
    rms_norm_eps: 1e-5,
    rope_theta: 10_000,
    initializer_range: 0.2,
    bos_token_id: idOf('<s>'),
    eos_token_id: idOf('<|endoftext|>'),
    pad_token_id: idOf('<|endoftext|>'),
  });
  using model = await initPhi3(config, { backend, key: randomKey(1), dtype: 'bf16', trainable: false });
  model.stopTokenIds = [idOf('<|endoftext|>'), idOf('<|end|>')];
  await savePhi3(files, dir, model);
  await writeJson(files, joinPath(dir, 'tokenizer.json'), tokenizerJson);
  await writeJson(files, joinPath(dir, 'tokenizer_config.json'), tokenizerConfig);
}

/** Rows of a chat file: requests in plain words, one answer each, in a few languages. */
export function chatLines(count: number): string {
  const rooms = ['kitchen', 'garage', '거실', '台所', 'غرفة', 'attic'];
  const acts = [['turn on', 'on'], ['turn off', 'off'], ['dim', 'dim']] as const; // biome-ignore format: pairs
  return Array.from({ length: count }, (_, i) => {
    const [room, [asked, done]] = [rooms[i % rooms.length]!, acts[Math.floor(i / rooms.length) % acts.length]!];
    const lamp = Math.floor(i / (rooms.length * acts.length)) + 1;
    const messages = [
      { role: 'user', content: `Please ${asked} lamp ${lamp} in the ${room} 💡` },
      { role: 'assistant', content: `{"room":"${room}","lamp":${lamp},"state":"${done}"}` },
    ];
    return `${JSON.stringify({ messages })}\n`;
  }).join('');
}

/** A folder on the disk that can be trained in: `model`, 400 rows in `train.jsonl`, 20 in `test.jsonl`. */
export async function writeTinyProject(dir: string): Promise<void> {
  const files = nodeFiles();
  await using backend = await cpu();
  await writeTinyFolder(files, joinPath(dir, 'model'), backend);
  await writeAtomic(files, joinPath(dir, 'train.jsonl'), chatLines(400));
  await writeAtomic(files, joinPath(dir, 'test.jsonl'), chatLines(20));
}
