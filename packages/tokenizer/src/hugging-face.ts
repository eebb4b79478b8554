/**
 * What is used of `@huggingface/tokenizers` 0.2.0 and `@huggingface/jinja` 0.5.11, with types. Their own declaration files import each
 * other without file endings, which TypeScript's `nodenext` does not resolve, so every type of theirs reads as `any`.
 */
import * as jinja from '@huggingface/jinja';
import * as tokenizers from '@huggingface/tokenizers';

/** The parts of `tokenizer.json`, each usable alone. */
export interface LibraryTokenizer {
  readonly normalizer: { normalize(text: string): string } | null;
  readonly pre_tokenizer: { pre_tokenize(text: string, options: { section_index: number }): string[] } | null;
  readonly model: LibraryModel;
  readonly post_processor: {
    post_process(tokens: string[], pair: string[] | null, addSpecialTokens: boolean): { tokens: string[] };
  } | null;
  readonly decoder: LibraryDecoder | null;
}

/** BPE, Unigram or WordPiece; `_call` gives tokens with runs of unknown ones fused where the file says so. */
export interface LibraryModel {
  /** Token of each id; ids without a token are undefined. */
  readonly vocab: readonly (string | undefined)[];
  readonly tokens_to_ids: ReadonlyMap<string, number>;
  readonly unk_token_id?: number;
  _call(words: string[]): string[];
}

export interface LibraryDecoder {
  decode_chain(tokens: string[]): string[];
}

type Constructor<T, Arguments extends unknown[]> = new (...args: Arguments) => T;

const library = tokenizers as unknown as {
  Tokenizer: Constructor<LibraryTokenizer, [json: object, config: object]>;
  SequenceDecoder: Constructor<LibraryDecoder & { readonly decoders: readonly LibraryDecoder[] }, [config: object]>;
  ByteFallbackDecoder: Constructor<LibraryDecoder & { readonly text_decoder: TextDecoder }, [config: object]>;
};
export const { Tokenizer: LibraryTokenizer, SequenceDecoder, ByteFallbackDecoder } = library;

/** A scope of template variables. */
export interface Environment {
  set(name: string, value: unknown): unknown;
}

/** A value that a template computes; lists hold arrays, texts strings. */
export interface TemplateValue {
  readonly value: unknown;
}

/** A parsed template or a part of it. */
export type TemplateNode = { readonly type: string } | undefined;

/** Every expression and statement of a run goes through `evaluate`. */
export interface Interpreter {
  run(program: TemplateNode): TemplateValue;
  evaluate(node: TemplateNode, environment: Environment): TemplateValue;
}

export const { Environment, Interpreter, parse, tokenize } = jinja as unknown as {
  Environment: Constructor<Environment, []>;
  Interpreter: Constructor<Interpreter, [environment: Environment]>;
  parse(tokens: unknown[]): TemplateNode;
  tokenize(source: string, options: { lstrip_blocks: boolean; trim_blocks: boolean }): unknown[];
};
