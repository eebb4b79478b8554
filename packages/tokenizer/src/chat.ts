import type { AddedTokenSplitter } from './added-tokens.ts';
import { type ChatTemplate, TemplateError } from './template.ts';

/** One turn of a chat. Fields other than role and content (Phi-4-mini's `tools`) are handed to the template as they are. */
export interface ChatMessage {
  readonly role: string;
  readonly content: string;
  readonly [field: string]: unknown;
}

/** UTF-16 offsets [start, end) in a rendered chat. */
export interface Span {
  readonly start: number;
  readonly end: number;
}

/** A chat as text, with the knowledge which of its characters came from messages and which the template wrote. */
export interface RenderedChat {
  readonly text: string;
  /** Text that came from messages: no special token may be found in it. An empty span forbids tokens that run across its place. */
  readonly content: readonly Span[];
  /** What the assistant said, without its end-of-turn token; undefined when it could not be traced (see {@link renderChat}). */
  readonly assistant: readonly Span[] | undefined;
  /** What the template put between `{% generation %}` and `{% endgeneration %}`. */
  readonly generation: readonly Span[];
}

/** Private-use characters that occur neither in the chat nor in the template, printed around what must be recognised afterwards. */
interface Marks {
  readonly content: string;
  readonly assistant: string;
  readonly close: string;
  readonly generationOpen: string;
  readonly generationClose: string;
}

/** What a template is rendered with. */
export interface ChatInput {
  readonly messages: readonly ChatMessage[];
  /** Further variables of the caller (`tools`, `documents`): their texts are content like those of messages. */
  readonly variables: Readonly<Record<string, unknown>>;
  /** The tokenizer's own variables (`bos_token`, `add_generation_prompt`): template text. */
  readonly fixed: Readonly<Record<string, unknown>>;
}

/**
 * Renders a chat and traces each message text to its place in the result.
 *
 * The chat is rendered twice, plainly and with marks around every text, which counts only if it equals the plain rendering once the marks
 * are taken out. If the template trims, it does not, and marks inside the outer white space are tried. A template that cuts or
 * compares texts can fail that too. Then only the places inside texts that spell a special token are marked: the rendering stays safe, and what the assistant said
 * is not known (`assistant: undefined`).
 *
 * @throws {TemplateError} if neither succeeds, or as {@link ChatTemplate.render}
 */
export function renderChat(template: ChatTemplate, input: ChatInput, addedTokens: AddedTokenSplitter): RenderedChat {
  const { messages, variables, fixed } = input;
  checkNames([messages, variables], addedTokens);
  const text = template.render({ ...variables, ...fixed, messages });
  const marks = chooseMarks(template.source + JSON.stringify(input));
  const renderMarked = (mark: (value: string, isAssistant: boolean) => string, needsPairs: boolean) => {
    const marked = template.render({
      ...(mapTexts(variables, (value) => mark(value, false)) as object),
      ...fixed,
      messages: messages.map((message) => mapTexts(message, (value) => mark(value, message.role === 'assistant'))),
      generation_open_mark: marks.generationOpen,
      generation_close_mark: marks.generationClose,
    });
    return readMarks(marked, marks, text, needsPairs);
  };
  for (const keepsOuterSpace of [true, false]) {
    const traced = attempt(() =>
      renderMarked((value, isAssistant) => enclose(value, isAssistant, keepsOuterSpace, marks), true),
    );
    if (traced !== undefined) return traced;
  }
  const guarded = attempt(() => renderMarked((value) => splitLookAlikes(value, addedTokens, marks.close), false));
  if (guarded !== undefined) return { ...guarded, assistant: undefined };
  throw new TemplateError(
    'chat template: message texts must reach the output unchanged: this template rewrites a text that spells a special token, so the two cannot be told apart. Remove such text from the chat or use another template.',
  );
}

/** Field names, roles and types go to the template unmarked, so they may not spell a special token. */
function checkNames(value: unknown, addedTokens: AddedTokenSplitter): void {
  if (typeof value !== 'object' || value === null) return;
  for (const [name, item] of Object.entries(value)) {
    const suspect = [name, isName(name) ? item : ''].find(
      (text) => typeof text === 'string' && addedTokens.occursIn(text),
    );
    if (suspect !== undefined)
      throw new TemplateError(
        `chat template: field names, roles and types must not spell a special token: got ${JSON.stringify(suspect)}. Rename it in the data.`,
      );
    checkNames(item, addedTokens);
  }
}

/** Fields that templates compare, and print inside special tokens (Phi-4-mini: `'<|' + message['role'] + '|>'`). */
function isName(field: string): boolean {
  return field === 'role' || field === 'type';
}

/** A marked text may offend a template that the plain text does not (a test of its length): that rendering failed, not the chat. */
function attempt(render: () => RenderedChat | undefined): RenderedChat | undefined {
  try {
    return render();
  } catch (error) {
    if (error instanceof TemplateError) return undefined;
    throw error;
  }
}

function chooseMarks(usedText: string): Marks {
  const used = new Set(usedText);
  const free: string[] = [];
  for (let code = 0xe000; code <= 0xf8ff && free.length < 5; code++) {
    const character = String.fromCharCode(code);
    if (!used.has(character)) free.push(character);
  }
  const [content, assistant, close, generationOpen, generationClose] = free;
  if (generationClose === undefined)
    throw new TemplateError(
      'chat template: the chat must leave five private-use characters (U+E000 to U+F8FF) unused: it uses all of them.',
    );
  return { content: content!, assistant: assistant!, close: close!, generationOpen: generationOpen!, generationClose };
}

/** Applies `change` to every string but role and type. */
function mapTexts(value: unknown, change: (text: string) => string): unknown {
  if (typeof value === 'string') return change(value);
  if (Array.isArray(value)) return value.map((item) => mapTexts(item, change));
  if (typeof value !== 'object' || value === null) return value;
  return Object.fromEntries(
    Object.entries(value).map(([field, item]) => [
      field,
      isName(field) && typeof item === 'string' ? item : mapTexts(item, change),
    ]),
  );
}

function enclose(text: string, isAssistant: boolean, keepsOuterSpace: boolean, marks: Marks): string {
  const core = keepsOuterSpace ? text : text.trim();
  // Phi-3.5 leaves an empty system turn out: a mark would make it true. An empty answer still has an end to learn.
  if (core === '' && !isAssistant) return text;
  const lead = keepsOuterSpace ? 0 : text.length - text.trimStart().length;
  const open = isAssistant ? marks.assistant : marks.content;
  return text.slice(0, lead) + open + core + marks.close + text.slice(lead + core.length);
}

function splitLookAlikes(text: string, addedTokens: AddedTokenSplitter, mark: string): string {
  let out = '';
  let from = 0;
  for (const { start } of addedTokens.occurrences(text)) {
    out += text.slice(from, start + 1) + mark;
    from = start + 1;
  }
  return out + text.slice(from);
}

/** Takes the marks out again; undefined if what remains is not the plain text or a mark lost its partner. */
function readMarks(marked: string, marks: Marks, plain: string, needsPairs: boolean): RenderedChat | undefined {
  const content: Span[] = [];
  const assistant: Span[] = [];
  const generation: Span[] = [];
  let text = '';
  let open: { start: number; isAssistant: boolean } | undefined;
  let generationStart: number | undefined;
  for (const piece of marked.split(new RegExp(`([${Object.values(marks).join('')}])`, 'u'))) {
    if (piece === marks.content || piece === marks.assistant) {
      if (open !== undefined) return undefined;
      open = { start: text.length, isAssistant: piece === marks.assistant };
    } else if (piece === marks.close) {
      if (needsPairs && open === undefined) return undefined;
      const span = { start: open?.start ?? text.length, end: text.length };
      content.push(span);
      if (open?.isAssistant) assistant.push(span);
      open = undefined;
    } else if (piece === marks.generationOpen) generationStart = text.length;
    else if (piece === marks.generationClose) generation.push({ start: generationStart ?? 0, end: text.length });
    else text += piece;
  }
  if (open !== undefined || text !== plain) return undefined;
  return { text, content, assistant, generation };
}
