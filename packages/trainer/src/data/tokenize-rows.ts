import type { ChatTurn, Row } from './row.ts';

/** What a data set needs of a tokenizer; `@lorikeet/tokenizer` has it. */
export interface DataTokenizer {
  readonly eosToken: string | undefined;
  readonly eosTokenId: number | undefined;
  /** `control` tokens end turns and texts. */
  readonly addedTokens: readonly { readonly id: number; readonly control: boolean }[];
  /** Ids of a text, with what the tokenizer adds (a BOS); special tokens spelled in it stay text. */
  encode(text: string): number[];
  /** Text of ids, special tokens included. */
  decode(ids: readonly number[]): string;
  chatIds(messages: readonly ChatTurn[], options?: { readonly addGenerationPrompt?: boolean }): number[];
  encodeChat(messages: readonly ChatTurn[]): { readonly ids: number[]; readonly assistantMask: boolean[] };
}

/**
 * Which tokens are trained. 'all': every one. 'completion': what follows the prompt; in a chat, the last answer. 'assistant': every
 * turn of the assistant with its end-of-turn token; needs chats.
 */
export type LossOn = 'all' | 'completion' | 'assistant';

/** What is trained of a row, and how long it may be. */
export interface TokenizeOptions {
  /** @defaultValue as TRL: 'completion' for rows with prompt and completion, else 'all' */
  readonly lossOn?: LossOn;
  /** Longer rows are cut at the end, as TRL does (`keep_start`); null cuts none, for packing that cuts by itself. @defaultValue 1024 */
  readonly maxLength?: number | null;
}

/** The label of a token that is not trained. */
export const ignoredLabel = -100;

/** A row as token ids. */
export interface Example {
  readonly ids: Int32Array;
  /** `ids` where the token is trained, else -100. Not shifted: `labels[i]` belongs to `ids[i]`, as in Transformers. */
  readonly labels: Int32Array;
  /** Where the row stands in its file. */
  readonly line: number;
}

/** What tokenizing did to the rows. Lines are those of the file; at most 20 of each are kept. */
export interface TokenizeReport {
  readonly rows: number;
  readonly tokens: number;
  readonly trainedTokens: number;
  /** Tokens of the longest row, before cutting. */
  readonly longestTokens: number;
  /** Rows cut to `maxLength`. */
  readonly truncated: LineCount;
  /** Rows left out because no trained token remained. */
  readonly untrained: LineCount;
  /** Rows whose trained part holds no control token: from these alone a model would not learn to stop. */
  readonly withoutEnd: LineCount;
  /** Rows whose prompt encodes to other tokens when the completion follows; the border may be off by a token. */
  readonly unstablePrompt: LineCount;
  /** The above in words, for people. */
  readonly warnings: readonly string[];
}

/** How many rows something befell, and the lines of the first 20. */
export interface LineCount {
  readonly count: number;
  readonly lines: readonly number[];
}

/** Rows as ids and labels, and what happened on the way. */
export interface TokenizedDataset {
  readonly examples: readonly Example[];
  readonly report: TokenizeReport;
}

/** A row before truncation. */
export interface RowTokens {
  readonly ids: readonly number[];
  readonly trained: readonly boolean[];
  readonly unstablePrompt: boolean;
}

/**
 * Turns rows into token ids with labels, drops rows of which nothing would be trained, and reports both.
 *
 * @throws {RangeError} if `maxLength` is below 2 or no row is left
 * @throws {Error} with the line, if a row does not suit `lossOn` or the chat template refuses it
 */
export function tokenizeRows(
  rows: readonly Row[],
  tokenizer: DataTokenizer,
  options: TokenizeOptions = {},
): TokenizedDataset {
  const { lossOn } = options;
  const maxLength = options.maxLength === null ? Number.MAX_SAFE_INTEGER : (options.maxLength ?? 1024);
  if (!Number.isInteger(maxLength) || maxLength < 2)
    throw new RangeError(`tokenizeRows: maxLength must be an integer of at least 2: got ${maxLength}.`);
  const controlIds = new Set(tokenizer.addedTokens.filter(({ control }) => control).map(({ id }) => id));
  const counts = {
    truncated: new Counter(),
    untrained: new Counter(),
    withoutEnd: new Counter(),
    unstablePrompt: new Counter(),
  };
  const examples: Example[] = [];
  let [tokens, trainedTokens, longestTokens] = [0, 0, 0];
  for (const row of rows) {
    const whole = tokenizeRow(row, tokenizer, lossOn);
    longestTokens = Math.max(longestTokens, whole.ids.length);
    if (whole.ids.length > maxLength) counts.truncated.add(row.line);
    else if (!whole.ids.some((id, i) => whole.trained[i] && controlIds.has(id))) counts.withoutEnd.add(row.line);
    if (whole.unstablePrompt) counts.unstablePrompt.add(row.line);
    const example = cut(row.line, whole, maxLength);
    const trained = countTrained(example.labels);
    if (trained === 0) {
      counts.untrained.add(row.line);
      continue;
    }
    tokens += example.ids.length;
    trainedTokens += trained;
    examples.push(example);
  }
  if (examples.length === 0)
    throw new RangeError(
      `tokenizeRows: some token must be trained: none of ${rows.length} rows has one within ${maxLength} tokens (longest row: ${longestTokens}). Raise maxLength or choose another lossOn.`,
    );
  const report = { rows: examples.length, tokens, trainedTokens, longestTokens, ...mapCounts(counts) };
  return { examples, report: { ...report, warnings: warningsOf(report, rows.length, maxLength) } };
}

/** Ids of one row and which of them are trained. @throws {Error} naming the line */
export function tokenizeRow(row: Row, tokenizer: DataTokenizer, lossOn?: LossOn): RowTokens {
  try {
    if (row.kind === 'chat') return chatTokens(row.messages, tokenizer, lossOn ?? 'all');
    if (row.kind === 'text') return textTokens(row.text, tokenizer, lossOn ?? 'all');
    const { prompt, completion } = row;
    if (typeof prompt === 'string' || typeof completion === 'string')
      return promptTokens(String(prompt), String(completion), tokenizer, lossOn ?? 'completion');
    return chatPromptTokens(prompt, completion, tokenizer, lossOn ?? 'completion');
  } catch (error) {
    throw new Error(`line ${row.line}: ${error instanceof Error ? error.message : error}`, { cause: error });
  }
}

function chatTokens(messages: readonly ChatTurn[], tokenizer: DataTokenizer, lossOn: LossOn): RowTokens {
  if (lossOn === 'all') {
    const ids = tokenizer.chatIds(messages);
    return { ids, trained: ids.map(() => true), unstablePrompt: false };
  }
  const { ids, assistantMask } = tokenizer.encodeChat(messages);
  if (lossOn === 'assistant') return { ids, trained: assistantMask, unstablePrompt: false };
  const end = assistantMask.lastIndexOf(true) + 1;
  const start = assistantMask.lastIndexOf(false, end - 1) + 1;
  return { ids, trained: ids.map((_, i) => i >= start && i < end), unstablePrompt: false };
}

function textTokens(text: string, tokenizer: DataTokenizer, lossOn: LossOn): RowTokens {
  if (lossOn !== 'all')
    throw new Error(
      `a row of plain text has no ${lossOn === 'assistant' ? 'assistant' : 'completion'}: train it with lossOn 'all'.`,
    );
  const ids = withEos(text, tokenizer);
  return { ids, trained: ids.map(() => true), unstablePrompt: false };
}

function promptTokens(prompt: string, completion: string, tokenizer: DataTokenizer, lossOn: LossOn): RowTokens {
  if (lossOn === 'assistant')
    throw new Error(
      "a row of prompt and completion as plain texts has no turns: train it with lossOn 'completion', or make both lists of messages.",
    );
  return borderTokens(tokenizer.encode(prompt), withEos(prompt + completion, tokenizer), lossOn);
}

function chatPromptTokens(
  prompt: readonly ChatTurn[],
  completion: readonly ChatTurn[],
  tokenizer: DataTokenizer,
  lossOn: LossOn,
): RowTokens {
  if (lossOn === 'assistant') return chatTokens([...prompt, ...completion], tokenizer, lossOn);
  const addGenerationPrompt = completion[0]?.role === 'assistant';
  const whole = tokenizer.chatIds([...prompt, ...completion]);
  if (prompt.length === 0) return borderTokens([], whole, lossOn);
  return borderTokens(tokenizer.chatIds(prompt, { addGenerationPrompt }), whole, lossOn);
}

/** TRL's rule: what comes after as many tokens as the prompt alone has. */
function borderTokens(promptIds: readonly number[], ids: readonly number[], lossOn: LossOn): RowTokens {
  return {
    ids,
    trained: ids.map((_, i) => lossOn === 'all' || i >= promptIds.length),
    unstablePrompt: promptIds.some((id, i) => ids[i] !== id),
  };
}

/** TRL ends a text with the eos token unless the text spells it already. The text itself can never give a special token here. */
function withEos(text: string, tokenizer: DataTokenizer): number[] {
  const { eosToken, eosTokenId } = tokenizer;
  if (eosToken === undefined || eosTokenId === undefined)
    throw new Error(
      'plain text needs an eos token to end with: the tokenizer names none. Set eos_token in tokenizer_config.json.',
    );
  const ids = tokenizer.encode(text.endsWith(eosToken) ? text.slice(0, -eosToken.length) : text);
  return ids.at(-1) === eosTokenId ? ids : [...ids, eosTokenId];
}

function cut(line: number, { ids, trained }: RowTokens, maxLength: number): Example {
  const kept = Int32Array.from(ids.slice(0, maxLength));
  return { ids: kept, labels: kept.map((id, i) => (trained[i] ? id : ignoredLabel)), line };
}

/** Tokens that are somebody's target: the first token of a row is predicted from nothing. */
export function countTrained(labels: Int32Array): number {
  let count = 0;
  for (let i = 1; i < labels.length; i++) if (labels[i] !== ignoredLabel) count++;
  return count;
}

class Counter {
  count = 0;
  readonly lines: number[] = [];
  add(line: number): void {
    this.count++;
    if (this.lines.length < 20) this.lines.push(line);
  }
}

type CountNames = 'truncated' | 'untrained' | 'withoutEnd' | 'unstablePrompt';

function mapCounts(counts: Record<CountNames, Counter>): Record<CountNames, LineCount> {
  const plain = ({ count, lines }: Counter): LineCount => ({ count, lines });
  return {
    truncated: plain(counts.truncated),
    untrained: plain(counts.untrained),
    withoutEnd: plain(counts.withoutEnd),
    unstablePrompt: plain(counts.unstablePrompt),
  };
}

function warningsOf(report: Record<CountNames, LineCount>, rowCount: number, maxLength: number): string[] {
  const of = ({ count, lines }: LineCount) =>
    `${count} of ${rowCount} rows (${lines.length > 1 ? 'lines' : 'line'} ${lines.slice(0, 5).join(', ')}${count > 5 ? ', ...' : ''})`;
  const { truncated, untrained, withoutEnd, unstablePrompt } = report;
  const warnings: string[] = [];
  if (truncated.count > 0) warnings.push(`${of(truncated)} are longer than ${maxLength} tokens and were cut.`);
  if (untrained.count > 0) warnings.push(`${of(untrained)} have no trained token left and were dropped.`);
  if (withoutEnd.count > 0)
    warnings.push(
      `${of(withoutEnd)} train no end-of-turn token: the model would not learn to stop. Check the chat template and eos token.`,
    );
  if (unstablePrompt.count > 0)
    warnings.push(
      `${of(unstablePrompt)} have a prompt whose tokens change when the completion follows: end prompts at a word or a line.`,
    );
  return warnings;
}
