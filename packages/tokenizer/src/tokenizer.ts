import { type AddedToken, AddedTokenSplitter, type Section, type TokenFilter } from './added-tokens.ts';
import { assistantSpans, sectionMask } from './assistant-mask.ts';
import { type ChatMessage, type RenderedChat, renderChat } from './chat.ts';
import { createStreamDecoder, type StreamDecoder, type TokenTextDecoder, tokenTextDecoder } from './decoding.ts';
import { type LibraryModel, LibraryTokenizer } from './hugging-face.ts';
import { checkPatterns } from './pattern-safety.ts';
import { readAddedTokens, readSpecialTokens, type SpecialTokens } from './special-tokens.ts';
import { ChatTemplate, TemplateError, type TemplateLimits } from './template.ts';

/** What encoding adds to a text and may find in it. */
export interface EncodeOptions {
  /** Lets the post-processor add its tokens (a BOS in Llama's files, nothing in Phi-3's). @defaultValue true */
  readonly addSpecialTokens?: boolean;
  /**
   * Takes `<|end|>` and the like in `text` as the special tokens they spell. Only for text that this program wrote itself: with text of a user
   * it would let the user speak as the system. @defaultValue false
   */
  readonly allowSpecial?: boolean;
}

/** What decoding leaves out. */
export interface DecodeOptions {
  /** Leaves out the tokens that `tokenizer.json` calls special. @defaultValue false */
  readonly skipSpecialTokens?: boolean;
}

/** How a chat is printed. */
export interface ChatOptions {
  /** Ends with the header of an assistant turn, for the model to go on. @defaultValue false */
  readonly addGenerationPrompt?: boolean;
  /** Further variables of the template (`tools`). Their texts, too, can never become special tokens. */
  readonly variables?: Readonly<Record<string, unknown>>;
}

/** A chat as ids, with what a training should learn of it. */
export interface EncodedChat {
  readonly ids: number[];
  /** True for each token that the assistant has to produce; as long as `ids`. */
  readonly assistantMask: boolean[];
}

/** Text and chats to token ids and back. */
export interface Tokenizer extends SpecialTokens {
  /** One more than the largest token id. A model's `vocab_size` may be larger (Phi-3: 32011 of 32064). */
  readonly vocabSize: number;
  /** Source of the chat template, if there is one. */
  readonly chatTemplate: string | undefined;
  /** Added tokens by rising id. */
  readonly addedTokens: readonly AddedToken[];
  /** Ids of a text. Half surrogate pairs in it are read as U+FFFD. */
  encode(text: string, options?: EncodeOptions): number[];
  /** Text of ids. Ids that no token has (Phi-3: 32011 to 32063) give no text, as in Hugging Face's tokenizers. */
  decode(ids: readonly number[], options?: DecodeOptions): string;
  /** Decodes as tokens arrive. Special tokens are left out unless `skipSpecialTokens` is false. */
  streamDecoder(options?: DecodeOptions): StreamDecoder;
  /** Id of a token as the vocabulary spells it (`▁the`, `<|end|>`); undefined if there is none. */
  tokenToId(token: string): number | undefined;
  /** The vocabulary's spelling of an id; undefined if no token has it. */
  idToToken(id: number): string | undefined;
  /** The chat as the template prints it. For ids use {@link encodeChat}: encoding this text again would read a user's `<|end|>` as one. @throws {TemplateError} */
  applyChatTemplate(messages: readonly ChatMessage[], options?: ChatOptions): string;
  /** Ids of a chat in which only the template's text can give special tokens. Adds no BOS or EOS beyond what the template prints. @throws {TemplateError} */
  chatIds(messages: readonly ChatMessage[], options?: ChatOptions): number[];
  /** The same ids with the mask of what the assistant has to produce. @throws {TemplateError} also if the template hides where answers stand */
  encodeChat(messages: readonly ChatMessage[], options?: ChatOptions): EncodedChat;
  /** @throws {RangeError} naming the tokens, if some id does not fit a model with `modelVocabSize` rows of embedding. */
  checkModelVocabSize(modelVocabSize: number): void;
}

/** What a model folder holds of its tokenizer, already read. */
export interface TokenizerSource {
  /** Parsed `tokenizer.json`. */
  readonly tokenizerJson: unknown;
  /** Parsed `tokenizer_config.json`. */
  readonly tokenizerConfig?: unknown;
  /** Text of `chat_template.jinja`; goes before the template in the config. */
  readonly chatTemplate?: string;
  /** How much a chat template may do before it is stopped. */
  readonly templateLimits?: Partial<TemplateLimits>;
}

/**
 * Makes a tokenizer from a model's files.
 *
 * @throws {TypeError} if a file is not what it should be, a special token of the config is unknown, or a pattern could run without end
 * @throws {TemplateError} if the chat template does not parse
 */
export function createTokenizer(source: TokenizerSource): Tokenizer {
  const config = asObject(source.tokenizerConfig ?? {}, 'tokenizer_config.json');
  const json = asObject(source.tokenizerJson, 'tokenizer.json');
  checkPatterns(json);
  const template = source.chatTemplate ?? configuredTemplate(config);
  return new PipelineTokenizer(
    json,
    config,
    template === undefined ? undefined : new ChatTemplate(template, source.templateLimits),
  );
}

class PipelineTokenizer implements Tokenizer {
  readonly bosToken: string | undefined;
  readonly bosTokenId: number | undefined;
  readonly eosToken: string | undefined;
  readonly eosTokenId: number | undefined;
  readonly padToken: string | undefined;
  readonly padTokenId: number | undefined;
  readonly unkToken: string | undefined;
  readonly unkTokenId: number | undefined;
  readonly vocabSize: number;
  readonly addedTokens: readonly AddedToken[];
  readonly #library: LibraryTokenizer;
  readonly #model: LibraryModel;
  readonly #template: ChatTemplate | undefined;
  readonly #inRawText: AddedTokenSplitter;
  readonly #inNormalizedText: AddedTokenSplitter;
  readonly #controlTokens: AddedTokenSplitter;
  readonly #specialIds: ReadonlySet<number>;
  readonly #controlIds: ReadonlySet<number>;
  /** What the decoder is given for an added token that is looked for in normalized text: "▁bird", as Python does, not "bird". */
  readonly #normalizedContents: ReadonlyMap<number, string>;
  readonly #affixes: { prefix: number[]; suffix: number[] };
  readonly #textOf: TokenTextDecoder;

  constructor(json: Record<string, unknown>, config: Record<string, unknown>, template: ChatTemplate | undefined) {
    this.#library = loadLibrary(json, config);
    this.#model = this.#library.model;
    this.#template = template;
    this.vocabSize = this.#model.vocab.length;
    const special = readSpecialTokens(config, (token) => this.tokenToId(token));
    ({
      bosToken: this.bosToken,
      bosTokenId: this.bosTokenId,
      eosToken: this.eosToken,
      eosTokenId: this.eosTokenId,
    } = special);
    ({
      padToken: this.padToken,
      padTokenId: this.padTokenId,
      unkToken: this.unkToken,
      unkTokenId: this.unkTokenId,
    } = special);
    this.addedTokens = readAddedTokens(json, config);
    const normalized = this.addedTokens.filter((token) => token.normalized && this.#library.normalizer !== null);
    const raw = this.addedTokens.filter((token) => !normalized.includes(token));
    this.#inRawText = new AddedTokenSplitter(raw.map((token) => [token.content, token]));
    this.#normalizedContents = new Map(normalized.map(({ id, content }) => [id, this.#normalize(content)]));
    this.#inNormalizedText = new AddedTokenSplitter(
      normalized.map((token) => [this.#normalizedContents.get(token.id)!, token]),
    );
    const control = this.addedTokens.filter((token) => token.control);
    this.#controlTokens = new AddedTokenSplitter(control.map((token) => [token.content, token]));
    this.#controlIds = new Set(control.map(({ id }) => id).filter((id) => id !== this.#model.unk_token_id));
    this.#specialIds = new Set(this.addedTokens.filter((token) => token.special).map(({ id }) => id));
    this.#affixes = this.#readAffixes();
    this.#textOf = tokenTextDecoder(this.#library.decoder);
  }

  get chatTemplate(): string | undefined {
    return this.#template?.source;
  }

  encode(text: string, { addSpecialTokens = true, allowSpecial = false }: EncodeOptions = {}): number[] {
    const ids = this.#sections(text.toWellFormed(), (token) => allowSpecial || !token.control).flatMap((section) =>
      this.#sectionIds(section, allowSpecial),
    );
    return addSpecialTokens ? [...this.#affixes.prefix, ...ids, ...this.#affixes.suffix] : ids;
  }

  decode(ids: readonly number[], { skipSpecialTokens = false }: DecodeOptions = {}): string {
    return this.#textOf(this.#shownTokens(ids, skipSpecialTokens), false);
  }

  streamDecoder({ skipSpecialTokens = true }: DecodeOptions = {}): StreamDecoder {
    return createStreamDecoder(
      (ids) => this.#textOf(this.#shownTokens(ids, skipSpecialTokens), true),
      (id) => this.#shownTokens([id], skipSpecialTokens).length > 0,
    );
  }

  tokenToId(token: string): number | undefined {
    return this.#model.tokens_to_ids.get(token);
  }

  idToToken(id: number): string | undefined {
    return this.#model.vocab[id];
  }

  applyChatTemplate(messages: readonly ChatMessage[], options: ChatOptions = {}): string {
    const { messages: checked, variables, fixed } = this.#chatInput(messages, options);
    return this.#requireTemplate().render({ ...variables, ...fixed, messages: checked });
  }

  chatIds(messages: readonly ChatMessage[], options: ChatOptions = {}): number[] {
    const { rendered, sections } = this.#renderSections(messages, options);
    return sections.flatMap((section) => this.#sectionIds(section, !touchesContent(section, rendered)));
  }

  encodeChat(messages: readonly ChatMessage[], options: ChatOptions = {}): EncodedChat {
    const { rendered, sections } = this.#renderSections(messages, options);
    const spans = assistantSpans(rendered, sections, {
      hasGenerationTags: this.#requireTemplate().hasGenerationTags,
      endsWithAssistant: messages.at(-1)?.role === 'assistant' && !options.addGenerationPrompt,
      eosToken: this.eosToken,
    });
    if (spans === undefined)
      throw new TemplateError(
        'encodeChat: the chat template must print the answers unchanged or mark them with {% generation %}: it does neither. Use a training template with {% generation %}, or train on all tokens.',
      );
    const ids: number[] = [];
    const assistantMask: boolean[] = [];
    for (const section of sections) {
      const allowControl = !touchesContent(section, rendered);
      const sectionIds = this.#sectionIds(section, allowControl);
      ids.push(...sectionIds);
      const encodePiece = (text: string) => this.#sectionIds({ ...section, text }, allowControl);
      assistantMask.push(...sectionMask(section, sectionIds, spans, encodePiece));
    }
    return { ids, assistantMask };
  }

  checkModelVocabSize(modelVocabSize: number): void {
    if (this.vocabSize <= modelVocabSize) return;
    const surplus = this.#model.vocab.slice(modelVocabSize, modelVocabSize + 3).map((token) => JSON.stringify(token));
    throw new RangeError(
      `tokenizer: ids must be below the model's vocab_size of ${modelVocabSize}: it has ids up to ${this.vocabSize - 1} (${surplus.join(', ')}, ...). Tokenizer and model belong to different checkpoints; take both from one folder.`,
    );
  }

  #shownTokens(ids: readonly number[], skipSpecialTokens: boolean): string[] {
    return ids
      .filter((id) => !(skipSpecialTokens && this.#specialIds.has(id)))
      .map((id) => this.#normalizedContents.get(id) ?? this.idToToken(id))
      .filter((token) => token !== undefined);
  }

  #normalize(text: string): string {
    return this.#library.normalizer?.normalize(text) ?? text;
  }

  #sections(text: string, accepts: TokenFilter): Section[] {
    return this.#inRawText.split(text, accepts);
  }

  /** Ids of a section; `allowControl` false keeps control tokens out, however the model's own vocabulary may spell them. */
  #sectionIds(section: Section, allowControl: boolean): number[] {
    if (section.token !== undefined) return [section.token.id];
    const normalized = this.#normalize(section.text);
    return this.#inNormalizedText
      .split(normalized, (token) => allowControl || !token.control)
      .flatMap(({ token, text }) => (token ? [token.id] : this.#modelIds(text, section.start === 0, allowControl)));
  }

  #modelIds(text: string, isFirst: boolean, allowControl: boolean): number[] {
    // Metaspace's prepend_scheme "first" asks for the number of the section: only the text's very start counts as first.
    const words = this.#library.pre_tokenizer?.pre_tokenize(text, { section_index: isFirst ? 0 : 1 }) ?? [text];
    const ids = this.#tokenIds(this.#model._call(words));
    if (allowControl || !ids.some((id) => this.#controlIds.has(id))) return ids;
    // A model with ignore_merges or a unigram lattice can find "</s>" in plain text by itself: spell that token in single characters.
    return ids.flatMap((id) =>
      this.#controlIds.has(id) ? this.#tokenIds(this.#model._call([...this.idToToken(id)!])) : [id],
    );
  }

  #tokenIds(tokens: readonly string[]): number[] {
    return tokens
      .map((token) => this.#model.tokens_to_ids.get(token) ?? this.#model.unk_token_id)
      .filter((id) => id !== undefined);
  }

  #readAffixes(): { prefix: number[]; suffix: number[] } {
    const place = '\0';
    const tokens = this.#library.post_processor?.post_process([place], null, true).tokens ?? [place];
    const at = tokens.indexOf(place);
    return { prefix: this.#tokenIds(tokens.slice(0, at)), suffix: this.#tokenIds(tokens.slice(at + 1)) };
  }

  #requireTemplate(): ChatTemplate {
    if (this.#template === undefined)
      throw new TemplateError(
        'chat template: a chat needs a template: this tokenizer has none. Pass `chatTemplate` (`chatTemplates.plain` suits any model), or use plain text.',
      );
    return this.#template;
  }

  #chatInput(messages: readonly ChatMessage[], { addGenerationPrompt = false, variables = {} }: ChatOptions) {
    const fixed = {
      bos_token: this.bosToken ?? '',
      eos_token: this.eosToken ?? '',
      pad_token: this.padToken ?? '',
      unk_token: this.unkToken ?? '',
      add_generation_prompt: addGenerationPrompt,
    };
    return { messages: messages.map(checkMessage), variables: wellFormed(variables), fixed };
  }

  #renderSections(
    messages: readonly ChatMessage[],
    options: ChatOptions,
  ): { rendered: RenderedChat; sections: Section[] } {
    const rendered = renderChat(this.#requireTemplate(), this.#chatInput(messages, options), this.#controlTokens);
    const sections = this.#sections(
      rendered.text,
      (token, start, end) => !token.control || !touchesContent({ start, end }, rendered),
    );
    return { rendered, sections };
  }
}

/** True if some text of a message lies within, or a forbidden place inside, [start, end). */
function touchesContent({ start, end }: { start: number; end: number }, { content }: RenderedChat): boolean {
  return content.some((span) => span.start < end && span.end > start);
}

function checkMessage(message: ChatMessage, index: number): ChatMessage {
  const problem =
    typeof message !== 'object' || message === null || typeof message.role !== 'string'
      ? 'role must be a string'
      : typeof message.content !== 'string'
        ? 'content must be a string'
        : undefined;
  if (problem !== undefined)
    throw new TypeError(`chat: message ${index + 1}: ${problem}: got ${JSON.stringify(message)?.slice(0, 80)}.`);
  return wellFormed(message);
}

/** A copy whose strings have no half surrogate pairs: a template could join two halves, and UTF-8 cannot hold one. */
function wellFormed<T>(value: T): T {
  if (typeof value === 'string') return value.toWellFormed() as T;
  if (Array.isArray(value)) return value.map(wellFormed) as T;
  if (typeof value !== 'object' || value === null) return value;
  return Object.fromEntries(
    Object.entries(value).map(([field, item]) => [field.toWellFormed(), wellFormed(item)]),
  ) as T;
}

function asObject(value: unknown, file: string): Record<string, unknown> {
  if (typeof value !== 'object' || value === null || Array.isArray(value))
    throw new TypeError(
      `createTokenizer: ${file} must hold a JSON object: got ${value === null ? 'null' : Array.isArray(value) ? 'a list' : typeof value}.`,
    );
  return value as Record<string, unknown>;
}

/** `chat_template` of the config: a string, or a list of named ones of which "default" counts. */
function configuredTemplate({ chat_template: template }: Record<string, unknown>): string | undefined {
  if (typeof template === 'string') return template;
  if (!Array.isArray(template)) return undefined;
  return template.find((entry) => entry?.name === 'default' && typeof entry?.template === 'string')?.template;
}

function loadLibrary(json: Record<string, unknown>, config: Record<string, unknown>): LibraryTokenizer {
  const parts = {
    normalizer: null,
    pre_tokenizer: null,
    post_processor: null,
    decoder: null,
    added_tokens: [],
    ...json,
  };
  try {
    return new LibraryTokenizer(parts, config);
  } catch (error) {
    const reason = error instanceof Error ? error.message : String(error);
    throw new TypeError(
      `createTokenizer: tokenizer.json must describe a tokenizer of Hugging Face's format: ${reason}.`,
      { cause: error },
    );
  }
}
