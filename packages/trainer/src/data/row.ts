/** One turn of a chat; further fields are handed to the chat template. */
export interface ChatTurn {
  readonly role: string;
  readonly content: string;
  readonly [field: string]: unknown;
}

/** What a file's rows look like, by the fields that tell them apart. */
export type DataFormat = 'messages' | 'conversations' | 'prompt-completion' | 'alpaca' | 'question-answer' | 'text';

/** A row after reading: a chat, a prompt with its completion, or plain text. `line` is where it starts in its file, from 1. */
export type Row =
  | { readonly kind: 'chat'; readonly line: number; readonly messages: readonly ChatTurn[] }
  | {
      readonly kind: 'prompt-completion';
      readonly line: number;
      readonly prompt: string | readonly ChatTurn[];
      readonly completion: string | readonly ChatTurn[];
    }
  | { readonly kind: 'text'; readonly line: number; readonly text: string };

/** What is wrong with one row. */
export interface RowProblem {
  readonly line: number;
  /** Says what is wrong and never what the row says: messages may be shared, rows may not. */
  readonly message: string;
}

/** A row without its place, or what is wrong with it. */
export type RowContent = WithoutLine<Row>;
type WithoutLine<T> = T extends unknown ? Omit<T, 'line'> : never;

/** Names that data sets give the three roles a chat template of the Phi family knows; it drops turns of any other without a word. */
const roles = new Map([
  ['system', 'system'],
  ['user', 'user'],
  ['human', 'user'],
  ['assistant', 'assistant'],
  ['gpt', 'assistant'],
  ['chatgpt', 'assistant'],
  ['model', 'assistant'],
]);

class RowError extends Error {}

function fail(message: string): never {
  throw new RowError(message);
}

type Fields = Readonly<Record<string, unknown>>;

/** The format of a row by its fields; undefined if it is none of those we read. */
export function detectFormat(row: unknown): DataFormat | undefined {
  if (typeof row !== 'object' || row === null || Array.isArray(row)) return undefined;
  const has = (...names: string[]) => names.every((name) => Object.hasOwn(row, name));
  if (has('messages')) return 'messages';
  if (has('conversations')) return 'conversations';
  if (has('prompt', 'completion')) return 'prompt-completion';
  if (has('instruction', 'output')) return 'alpaca';
  if (has('question', 'answer')) return 'question-answer';
  return has('text') ? 'text' : undefined;
}

/** The row's content, or what is wrong with it as a sentence. Half surrogate pairs in texts become U+FFFD. */
export function readRow(value: unknown, format: DataFormat): RowContent | string {
  const found = detectFormat(value);
  try {
    if (found === undefined) fail(`must be an object with the fields of ${describeFormat(format)}: got ${show(value)}`);
    if (found !== format)
      fail(
        `must have the fields of ${describeFormat(format)}, like the first row: got those of ${describeFormat(found)}`,
      );
    return readers[format](value as Fields);
  } catch (error) {
    if (error instanceof RowError) return error.message;
    throw error;
  }
}

const formatFields: Record<DataFormat, string> = {
  messages: '"messages"',
  conversations: '"conversations"',
  'prompt-completion': '"prompt" and "completion"',
  alpaca: '"instruction" and "output"',
  'question-answer': '"question" and "answer"',
  text: '"text"',
};

/** The fields that make a format, for messages. */
export function describeFormat(format: DataFormat): string {
  return formatFields[format];
}

/** All formats, for messages. */
export function describeFormats(): string {
  return Object.values(formatFields).join('; ');
}

const readers: Record<DataFormat, (row: Fields) => RowContent> = {
  messages: (row) => chat(readTurns(row.messages, 'messages', 'role', 'content')),
  conversations: (row) => chat(readTurns(row.conversations, 'conversations', 'from', 'value')),
  'prompt-completion': readPromptCompletion,
  alpaca: (row) => {
    const input = row.input === undefined || row.input === null ? '' : readText(row.input, 'input');
    const question = readText(row.instruction, 'instruction') + (input === '' ? '' : `\n${input}`);
    const system =
      row.system === undefined || row.system === ''
        ? []
        : [{ role: 'system', content: readText(row.system, 'system') }];
    return chat([
      ...system,
      { role: 'user', content: question },
      { role: 'assistant', content: readText(row.output, 'output') },
    ]);
  },
  'question-answer': (row) =>
    chat([
      { role: 'user', content: readText(row.question, 'question') },
      { role: 'assistant', content: readText(row.answer, 'answer') },
    ]),
  text: (row) => ({ kind: 'text', text: readText(row.text, 'text') }),
};

function readPromptCompletion(row: Fields): RowContent {
  if (Array.isArray(row.prompt) !== Array.isArray(row.completion))
    fail('prompt and completion must both be texts or both be lists of messages');
  if (!Array.isArray(row.prompt))
    return {
      kind: 'prompt-completion',
      prompt: readText(row.prompt, 'prompt'),
      completion: readText(row.completion, 'completion'),
    };
  const completion = readTurns(row.completion, 'completion', 'role', 'content');
  if (!completion.some(({ role }) => role === 'assistant')) fail('completion must hold a turn of the assistant');
  return { kind: 'prompt-completion', prompt: readTurns(row.prompt, 'prompt', 'role', 'content'), completion };
}

function chat(messages: ChatTurn[]): RowContent {
  if (!messages.some(({ role }) => role === 'assistant'))
    fail('must have a turn of the assistant: there is nothing to learn from');
  return { kind: 'chat', messages };
}

function readTurns(value: unknown, field: string, roleName: string, textName: string): ChatTurn[] {
  if (!Array.isArray(value) || value.length === 0) fail(`${field} must be a list of turns: got ${show(value)}`);
  return value.map((turn: unknown, index) => {
    const place = `${field}[${index}]`;
    if (typeof turn !== 'object' || turn === null || Array.isArray(turn))
      fail(`${place} must be an object: got ${show(turn)}`);
    const { [roleName]: role, [textName]: text, ...others } = turn as Fields;
    const known = typeof role === 'string' ? roles.get(role) : undefined;
    if (known === undefined)
      fail(
        `${place}.${roleName} must be one of ${[...roles.keys()].join(', ')}: got ${typeof role === 'string' && /^[\w-]{1,20}$/.test(role) ? JSON.stringify(role) : show(role)}`,
      );
    return { ...others, role: known, content: readText(text, `${place}.${textName}`) };
  });
}

function readText(value: unknown, field: string): string {
  if (typeof value !== 'string') fail(`${field} must be a text: got ${show(value)}`);
  return value.toWellFormed();
}

/** What a value is, never what it says: messages may be shared, rows may not. */
function show(value: unknown): string {
  if (value === null) return 'null';
  if (Array.isArray(value)) return value.length === 0 ? 'an empty list' : 'a list';
  if (typeof value === 'object') {
    const names = Object.keys(value);
    return names.length === 0
      ? 'an empty object'
      : `an object with ${names
          .slice(0, 8)
          .map((name) => JSON.stringify(name.slice(0, 40)))
          .join(', ')}`;
  }
  if (value === undefined) return 'nothing';
  return typeof value === 'string' ? 'a text' : `a ${typeof value}`;
}
