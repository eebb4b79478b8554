/** A folder with a tiny random Phi-3 and a byte tokenizer in Hugging Face's form, for tests: no download, no asset. */
import { cpu } from '@lorikeet/cpu';
import { type FileSystem, joinPath, writeJson } from '@lorikeet/files';
import { initPhi3, parsePhi3Config, savePhi3 } from '@lorikeet/phi3';
import { randomKey } from '@lorikeet/tensor';

const leading = ['<unk>', '<s>', '</s>'];
const trailing = ['<|endoftext|>', '<|assistant|>', '<|system|>', '<|end|>', '<|user|>'];
const space = '\u2581';
const bytes = Array.from({ length: 256 }, (_, i) => `<0x${i.toString(16).toUpperCase().padStart(2, '0')}>`);
const characters = [space, ...Array.from({ length: 94 }, (_, i) => String.fromCharCode(33 + i))];
const pieces = [...leading, ...bytes, ...characters, ...trailing];
const idOf = (token: string): number => pieces.indexOf(token);

const template =
  "{% for message in messages %}{{'<|' + message['role'] + '|>' + '\\n' + message['content'] + '<|end|>\\n'}}{% endfor %}{% if add_generation_prompt %}{{ '<|assistant|>\\n' }}{% else %}{{ eos_token }}{% endif %}";

/** tokenizer.json: every ASCII character is a token, all else is spelled in bytes. */
function tokenizerJson(): object {
  const special = [...leading, ...trailing].map((content) => ({
    id: idOf(content),
    content,
    single_word: false,
    lstrip: false,
    rstrip: false,
    normalized: false,
    special: true,
  }));
  return {
    version: '1.0',
    added_tokens: special,
    normalizer: { type: 'Replace', pattern: { String: ' ' }, content: space },
    pre_tokenizer: null,
    post_processor: null,
    decoder: {
      type: 'Sequence',
      decoders: [
        { type: 'Replace', pattern: { String: space }, content: ' ' },
        { type: 'ByteFallback' },
        { type: 'Fuse' },
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
      vocab: Object.fromEntries(pieces.map((piece, id) => [piece, id])),
      merges: [],
    },
  };
}

/** config.json of a Phi-3 of about 60,000 parameters. */
const tinyConfig = {
  architectures: ['Phi3ForCausalLM'],
  model_type: 'phi3',
  hidden_size: 32,
  intermediate_size: 64,
  num_hidden_layers: 2,
  num_attention_heads: 4,
  num_key_value_heads: 2,
  vocab_size: pieces.length,
  max_position_embeddings: 512,
  original_max_position_embeddings: 512,
  rms_norm_eps: 1e-5,
  rope_theta: 10000,
  initializer_range: 0.2,
  tie_word_embeddings: false,
  bos_token_id: idOf('<s>'),
  eos_token_id: idOf('<|endoftext|>'),
  pad_token_id: idOf('<|endoftext|>'),
};

/** Writes the folder. The same on every call. */
export async function writeTinyModel(files: FileSystem, dir: string): Promise<void> {
  const backend = await cpu({ threads: 1 });
  const model = await initPhi3(parsePhi3Config(tinyConfig), {
    backend,
    key: randomKey(1, 'tiny'),
    dtype: 'bf16',
    trainable: false,
  });
  await savePhi3(files, dir, model);
  await backend.close();
  await writeJson(files, joinPath(dir, 'tokenizer.json'), tokenizerJson());
  await writeJson(files, joinPath(dir, 'tokenizer_config.json'), {
    bos_token: '<s>',
    eos_token: '<|endoftext|>',
    pad_token: '<|endoftext|>',
    unk_token: '<unk>',
    chat_template: template,
    tokenizer_class: 'LlamaTokenizer',
  });
}

/** Rows of a data set that a tiny model learns a little of; `mark` stands in every one. */
export const chatRows = (count: number, mark = ''): string =>
  Array.from({ length: count }, (_, i) =>
    JSON.stringify({
      messages: [
        { role: 'user', content: `count ${i % 7} ${mark}` },
        { role: 'assistant', content: `${'ab한'.repeat((i % 7) + 1)} ${mark}` },
      ],
    }),
  ).join('\n');
