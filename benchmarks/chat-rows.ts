/** Rows of real chats for whole-step cases: ids and which of them are trained. */
import { existsSync, readFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { createTokenizer, type Tokenizer } from '@lorikeet/tokenizer';

export interface ChatRow {
  readonly ids: Int32Array;
  /** -100 where a token is not trained: all but the assistant's. */
  readonly labels: Int32Array;
}

const here = (path: string): string => fileURLToPath(new URL(path, import.meta.url));
const readJson = (path: string): unknown => JSON.parse(readFileSync(path, 'utf8'));

/** The tokenizer in a model folder. */
export const tokenizerIn = (folder: string): Tokenizer =>
  createTokenizer({
    tokenizerJson: readJson(`${folder}/tokenizer.json`),
    tokenizerConfig: readJson(`${folder}/tokenizer_config.json`),
  });

/** Rows of a file of messages, one JSON object a line, cut to `maxLength` tokens. */
export function rowsOf(tokenizer: Tokenizer, path: string, maxLength: number, count: number): ChatRow[] {
  const lines = readFileSync(path, 'utf8').trimEnd().split('\n').slice(0, count);
  return lines.map((line) => {
    const { messages } = JSON.parse(line) as { messages: { role: string; content: string }[] };
    const { ids, assistantMask } = tokenizer.encodeChat(messages);
    const labels = ids.map((id, i) => (assistantMask[i] ? id : -100));
    return { ids: Int32Array.from(ids).slice(0, maxLength), labels: Int32Array.from(labels).slice(0, maxLength) };
  });
}

/** Where the public data of the workplace is absent: lengths, and leading tokens that are not trained, of such a batch. */
const knownLengths = [
  { tokens: 256, untrained: 21 },
  { tokens: 152, untrained: 83 },
  { tokens: 248, untrained: 55 },
  { tokens: 256, untrained: 66 },
];

/** A batch of 4 chats of at most 256 tokens: those of oasst-en100 whose lengths are most like the whole's, or made ones. */
export function fourChats(): { rows: ChatRow[]; from: string } {
  const [data, tokenizer] = [
    here('../../shared/data/oasst-en100/messages.train.jsonl'),
    here('../../shared/data/phi3-tokenizer'),
  ];
  if (existsSync(data) && existsSync(tokenizer)) {
    const rows = rowsOf(tokenizerIn(tokenizer), data, 256, 480);
    const mean = rows.reduce((sum, { ids }) => sum + ids.length, 0) / rows.length;
    const batches = Array.from({ length: rows.length >> 2 }, (_, i) => rows.slice(4 * i, 4 * i + 4));
    const tokens = (batch: ChatRow[]): number => batch.reduce((sum, { ids }) => sum + ids.length, 0);
    const typical = batches.toSorted((a, b) => Math.abs(tokens(a) - 4 * mean) - Math.abs(tokens(b) - 4 * mean))[0]!;
    return { rows: typical, from: 'oasst-en100' };
  }
  const rows = knownLengths.map(({ tokens, untrained }, row) => {
    const ids = Int32Array.from({ length: tokens }, (_, i) => 3 + (((i + 1000 * row) * 7919) % 31_000));
    return { ids, labels: ids.map((id, i) => (i < untrained ? -100 : id)) };
  });
  return { rows, from: 'made' };
}

/** The demo's base, and batches of 16 of its rows as its configuration has them. */
export const demoFolder = here('../packages/cli/assets/demo');
export const demoRows = (count: number): ChatRow[] =>
  rowsOf(tokenizerIn(`${demoFolder}/base`), `${demoFolder}/train.jsonl`, 128, count);
