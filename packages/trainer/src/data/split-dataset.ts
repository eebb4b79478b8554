import { NumpyGenerator } from './numpy-generator.ts';
import type { ChatTurn, Row } from './row.ts';

export interface SplitOptions {
  /** Rows to hold out: a share between 0 and 1 (rounded up), or a number of rows. */
  readonly testSize: number;
  /** Same seed, same split, here and in Python. An integer of at least 0. */
  readonly seed: number;
}

/** `datasets.Dataset.shuffle(seed)`: the rows in the order in which Python has them then. */
export const shuffleDataset = <T>(rows: readonly T[], seed: number): T[] =>
  Array.from(new NumpyGenerator(seed).permutation(rows.length), (index) => rows[index]!);

/**
 * Shuffles rows and holds some out: the rows, in the order, of `datasets.Dataset.train_test_split(test_size, seed=seed)` (5.2).
 * @throws {RangeError} if a side would be empty
 */
export function splitDataset<T>(rows: readonly T[], { testSize, seed }: SplitOptions): { train: T[]; test: T[] } {
  const count = testSize < 1 ? Math.ceil(testSize * rows.length) : testSize;
  if (!(testSize > 0) || !Number.isInteger(count) || count >= rows.length)
    throw new RangeError(
      `splitDataset: testSize must leave at least one row on each side of ${rows.length}: got ${testSize}. Use a share such as 0.1, or fewer rows.`,
    );
  const shuffled = shuffleDataset(rows, seed);
  return { train: shuffled.slice(count), test: shuffled.slice(0, count) };
}

/** Rows of an evaluation set that the training set holds too, so that a good score proves nothing. */
export interface Overlap {
  /** Lines of equal rows: [train, evaluation]. */
  readonly equalRows: readonly (readonly [trainLine: number, evalLine: number])[];
  /** Lines of rows with the same question and another answer. */
  readonly equalPrompts: readonly (readonly [trainLine: number, evalLine: number])[];
}

/** Finds evaluation rows that were trained on, letter case and white space aside. */
export function findOverlap(train: readonly Row[], evaluation: readonly Row[]): Overlap {
  const byRow = firstLines(train, rowKey);
  const byPrompt = firstLines(train, promptKey);
  const equalRows: [number, number][] = [];
  const equalPrompts: [number, number][] = [];
  for (const row of evaluation) {
    const sameRow = byRow.get(rowKey(row)!);
    const prompt = promptKey(row);
    const samePrompt = prompt === undefined ? undefined : byPrompt.get(prompt);
    if (sameRow !== undefined) equalRows.push([sameRow, row.line]);
    else if (samePrompt !== undefined) equalPrompts.push([samePrompt, row.line]);
  }
  return { equalRows, equalPrompts };
}

function firstLines(rows: readonly Row[], keyOf: (row: Row) => string | undefined): Map<string, number> {
  const lines = new Map<string, number>();
  for (const row of rows) {
    const key = keyOf(row);
    if (key !== undefined && !lines.has(key)) lines.set(key, row.line);
  }
  return lines;
}

function rowKey(row: Row): string {
  if (row.kind === 'text') return JSON.stringify(fold(row.text));
  return JSON.stringify(
    row.kind === 'chat' ? foldTurns(row.messages) : [foldTurns(row.prompt), foldTurns(row.completion)],
  );
}

/** Everything before the last answer; undefined for plain text and for a chat that opens with its only answer. */
function promptKey(row: Row): string | undefined {
  if (row.kind === 'text') return undefined;
  if (row.kind === 'prompt-completion') return JSON.stringify(foldTurns(row.prompt));
  const before = row.messages.slice(
    0,
    row.messages.findLastIndex(({ role }) => role === 'assistant'),
  );
  return before.some(({ role }) => role === 'user') ? JSON.stringify(foldTurns(before)) : undefined;
}

function foldTurns(turns: string | readonly ChatTurn[]): unknown {
  return typeof turns === 'string' ? fold(turns) : turns.map(({ role, content }) => [role, fold(content)]);
}

function fold(text: string): string {
  return text.normalize('NFC').toLowerCase().replace(/\s+/g, ' ').trim();
}
