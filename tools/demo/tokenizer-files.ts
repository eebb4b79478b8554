import { type BpePieces, spaceMark } from './bpe-trainer.ts';

/** Phi-3's special tokens in the order of its ids: three at the start, the others after all pieces. */
const leading = ['<unk>', '<s>', '</s>'];
const trailing = [
  '<|endoftext|>',
  '<|assistant|>',
  ...[1, 2, 3, 4].map((n) => `<|placeholder${n}|>`),
  '<|system|>',
  '<|end|>',
  '<|placeholder5|>',
  '<|placeholder6|>',
  '<|user|>',
];

/** Phi-3's template of mid-2024, with the system role. */
const chatTemplate =
  "{% for message in messages %}{% if message['role'] == 'system' %}{{'<|system|>\n' + message['content'] + '<|end|>\n'}}" +
  "{% elif message['role'] == 'user' %}{{'<|user|>\n' + message['content'] + '<|end|>\n'}}" +
  "{% elif message['role'] == 'assistant' %}{{'<|assistant|>\n' + message['content'] + '<|end|>\n'}}{% endif %}{% endfor %}" +
  "{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% else %}{{ eos_token }}{% endif %}";

interface SpecialToken {
  readonly id: number;
  readonly content: string;
  readonly single_word: false;
  readonly lstrip: false;
  readonly rstrip: boolean;
  readonly normalized: false;
  readonly special: boolean;
}

export interface TokenizerFiles {
  readonly tokenizer: object;
  readonly tokenizerConfig: object;
  /** Ids: special tokens and pieces. */
  readonly vocabSize: number;
  readonly idOf: (token: string) => number;
}

/** `tokenizer.json` and `tokenizer_config.json` in the form of Phi-3's own files. */
export function tokenizerFiles({ pieces, merges }: BpePieces, modelMaxLength: number): TokenizerFiles {
  const vocab: Record<string, number> = {};
  for (const piece of [...leading, ...pieces]) vocab[piece] = Object.keys(vocab).length;
  const firstTrailing = leading.length + pieces.length;
  const special = [...leading, ...trailing].map((content, i) =>
    specialToken(content, i < leading.length ? i : firstTrailing + i - leading.length),
  );
  const tokenizer = {
    version: '1.0',
    truncation: null,
    padding: null,
    added_tokens: special,
    normalizer: {
      type: 'Sequence',
      normalizers: [
        { type: 'Prepend', prepend: spaceMark },
        { type: 'Replace', pattern: { String: ' ' }, content: spaceMark },
      ],
    },
    pre_tokenizer: null,
    post_processor: {
      type: 'TemplateProcessing',
      single: [{ Sequence: { id: 'A', type_id: 0 } }],
      pair: [{ Sequence: { id: 'A', type_id: 0 } }, { Sequence: { id: 'B', type_id: 1 } }],
      special_tokens: {},
    },
    decoder: {
      type: 'Sequence',
      decoders: [
        { type: 'Replace', pattern: { String: spaceMark }, content: ' ' },
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
      vocab,
      merges: merges.map(([left, right]) => `${left} ${right}`),
    },
  };
  const idOf = (token: string) => {
    const id = special.find(({ content }) => content === token)?.id ?? vocab[token];
    if (id === undefined) throw new Error(`tokenizerFiles: the token must be in the vocabulary: ${token}.`);
    return id;
  };
  return {
    tokenizer,
    tokenizerConfig: tokenizerConfig(special, modelMaxLength),
    vocabSize: firstTrailing + trailing.length,
    idOf,
  };
}

/** As in Phi-3: a token of the chat form swallows the white space after it, `</s>` counts as text. */
function specialToken(content: string, id: number): SpecialToken {
  const rstrip = !['<unk>', '<s>', '<|endoftext|>'].includes(content);
  return { id, content, single_word: false, lstrip: false, rstrip, normalized: false, special: content !== '</s>' };
}

function tokenizerConfig(special: readonly SpecialToken[], modelMaxLength: number): object {
  return {
    add_bos_token: false,
    add_eos_token: false,
    added_tokens_decoder: Object.fromEntries(special.map(({ id, ...token }) => [String(id), token])),
    bos_token: '<s>',
    chat_template: chatTemplate,
    clean_up_tokenization_spaces: false,
    eos_token: '<|endoftext|>',
    legacy: false,
    model_max_length: modelMaxLength,
    pad_token: '<|endoftext|>',
    padding_side: 'left',
    sp_model_kwargs: {},
    tokenizer_class: 'LlamaTokenizer',
    unk_token: '<unk>',
    use_default_system_prompt: false,
  };
}
