import type { FileSystem, Sha256 } from '@lorikeet/files';
import { readLines } from './lines.ts';

/** What one row of a text file is, as in `datasets`' "text" builder: a line, or lines up to the next blank one. */
export type SampleBy = 'line' | 'paragraph';

/** Where rows and problems of a file go. */
export interface TextRowSink {
  add(line: number, value: { readonly text: string }): void;
  problem(line: number, message: string): void;
}

export interface TextRowsOptions {
  readonly maxLineBytes: number;
  /** Default: found by looking. */
  readonly sampleBy?: SampleBy | undefined;
}

/**
 * Most lines of an average paragraph. Above it blank lines are taken for slips in a file of one row a line; wrapped prose, verse
 * and dialogue stay far below.
 */
const maxMeanParagraphLines = 40;

const byteOrderMark = '\u{feff}';

/** True for a file of plain text by its name, unless it opens as JSON rows do. `head` is its beginning. */
export function isTextFile(path: string, head: Uint8Array): boolean {
  return /\.txt$/i.test(path) && !/^\u{feff}?\s*(\[\s*)?\{\s*"/u.test(new TextDecoder().decode(head));
}

/**
 * Reads a file of plain text. Each row is a paragraph where blank lines part the text, else a line; blank lines themselves are no
 * rows. Texts stay as they are but for line ends. A paragraph that holds a bad line is left out whole.
 */
export async function readTextRows(
  files: FileSystem,
  path: string,
  { maxLineBytes, sampleBy }: TextRowsOptions,
  hash: Sha256,
  sink: TextRowSink,
): Promise<void> {
  const paragraphs = await readParagraphs(files, path, maxLineBytes, hash, sink);
  const lineCount = paragraphs.reduce((sum, { lines }) => sum + lines.length, 0);
  const parted = paragraphs.length > 1 && lineCount <= paragraphs.length * maxMeanParagraphLines;
  const rows =
    (sampleBy ?? (parted ? 'paragraph' : 'line')) === 'paragraph' ? paragraphs.map(joined) : paragraphs.flatMap(apart);
  for (const { line, text } of rows) if (text !== undefined) sink.add(line, { text });
}

interface Paragraph {
  /** Number of its first line. */
  readonly line: number;
  /** Undefined where a line could not be read. */
  readonly lines: (string | undefined)[];
}

interface TextAt {
  readonly line: number;
  readonly text: string | undefined;
}

const joined = ({ line, lines }: Paragraph): TextAt => ({
  line,
  text: lines.includes(undefined) ? undefined : lines.join('\n'),
});

const apart = ({ line, lines }: Paragraph): TextAt[] => lines.map((text, i) => ({ line: line + i, text }));

async function readParagraphs(
  files: FileSystem,
  path: string,
  maxLineBytes: number,
  hash: Sha256,
  sink: TextRowSink,
): Promise<Paragraph[]> {
  const decoder = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true });
  const paragraphs: Paragraph[] = [];
  let current: Paragraph | undefined;
  for await (const { number, bytes } of readLines(files, path, maxLineBytes, hash)) {
    const text = lineText(number, bytes, maxLineBytes, decoder, sink);
    if (text?.trim() === '') {
      current = undefined;
      continue;
    }
    if (!current) paragraphs.push((current = { line: number, lines: [] }));
    current.lines.push(text);
  }
  return paragraphs;
}

function lineText(
  number: number,
  bytes: Uint8Array | undefined,
  maxLineBytes: number,
  decoder: TextDecoder,
  sink: TextRowSink,
): string | undefined {
  if (bytes === undefined) {
    sink.problem(number, `must be at most ${maxLineBytes} bytes long: it is longer`);
    return undefined;
  }
  try {
    // A copy: shared memory cannot be decoded everywhere.
    const text = decoder.decode(new Uint8Array(bytes));
    return number === 1 && text.startsWith(byteOrderMark) ? text.slice(1) : text;
  } catch {
    sink.problem(number, 'must be UTF-8: it is not. Save the file as UTF-8');
    return undefined;
  }
}
