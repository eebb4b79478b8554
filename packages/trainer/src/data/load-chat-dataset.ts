import { bytesToHex, type FileSystem, FormatError, JsonScanner, parseJson, sha256 } from '@lorikeet/files';
import { readLines } from './lines.ts';
import { isTextFile, readTextRows, type SampleBy } from './read-text-rows.ts';
import { type DataFormat, describeFormats, detectFormat, type Row, type RowProblem, readRow } from './row.ts';

/** How strictly a file is read, and what it holds where looking should not decide. */
export interface LoadOptions {
  /** What a bad row does: 'error' refuses the file after reading all of it, 'skip' leaves the row out and counts it. @defaultValue 'error' */
  readonly onBadRow?: 'error' | 'skip';
  /** The format, if looking at the first readable row should not decide. */
  readonly format?: DataFormat;
  /** What one row of a .txt file is. Default: a paragraph where blank lines part the text, else a line. */
  readonly sampleBy?: SampleBy;
  /** Longest line of a JSONL or text file. @defaultValue 16 MiB */
  readonly maxLineBytes?: number;
  /** Largest JSON file that is one list; such a file is held whole. @defaultValue 512 MiB */
  readonly maxJsonBytes?: number;
}

/** A file that was read and checked whole. */
export interface ChatDataset {
  readonly path: string;
  readonly format: DataFormat;
  readonly rows: readonly Row[];
  /** Rows left out, with the first 20 reasons. 0 unless `onBadRow` is 'skip'. */
  readonly skipped: { readonly count: number; readonly problems: readonly RowProblem[] };
  /** SHA-256 of the file, in hex. */
  readonly sha256: string;
}

const shownProblems = 20;

/** A data file has rows that cannot be used. The message lists the first 20 as `file:line: problem`, and their number. */
export class DatasetError extends FormatError {
  override name = 'DatasetError';
  /** The first 20, in the order of lines; problemCount is the number of all. */
  readonly problems: readonly RowProblem[];
  readonly problemCount: number;

  constructor(path: string, problems: readonly RowProblem[], problemCount: number, rowCount: number) {
    const lines = problems.slice(0, shownProblems).map(({ line, message }) => `${path}:${line}: ${message}`);
    const more = problemCount > lines.length ? `\n... and ${problemCount - lines.length} more.` : '';
    const summary = `${path}: every row must be usable: ${problemCount} of ${rowCount} ${rowCount === 1 ? 'is' : 'are'} not. Correct the file, or leave bad rows out with onBadRow: 'skip'.`;
    super(path, `${summary}\n${lines.join('\n')}${more}`, { line: problems[0]?.line ?? 1 });
    this.problems = problems;
    this.problemCount = problemCount;
  }
}

/**
 * Reads a data set of chats, prompts with completions, or texts: JSONL (a row a line) or JSON (one list of rows), found by looking, as
 * is the format of the rows; or plain text (`.txt`), a row a paragraph or a line. The whole file is checked before anything is
 * returned.
 *
 * A byte order mark, CRLF and blank lines are accepted; half surrogate pairs (`"\ud83d"`) become U+FFFD; `\u0000` stays.
 *
 * @throws {DatasetError} listing what is wrong, line by line
 * @throws {FormatError} if the file is empty, not UTF-8 JSON at all, or of no known format
 * @throws {FileError} if it cannot be read
 */
export async function loadChatDataset(
  files: FileSystem,
  path: string,
  options: LoadOptions = {},
): Promise<ChatDataset> {
  const size = await files.size(path);
  const head = await files.readRange(path, 0, Math.min(size, 4096));
  refuseUtf16(path, head);
  const isText = (options.format ?? 'text') === 'text' && isTextFile(path, head);
  const isList = !isText && head[firstContent(head)] === 0x5b;
  const hash = sha256();
  const collector = new RowCollector(path, isText ? 'text' : options.format);
  const maxLineBytes = options.maxLineBytes ?? 16 << 20;
  if (isText) await readTextRows(files, path, { maxLineBytes, sampleBy: options.sampleBy }, hash, collector);
  else if (isList) await readList(files, path, options.maxJsonBytes ?? 512 << 20, hash, collector);
  else await readJsonLines(files, path, maxLineBytes, hash, collector);
  if (!isText && !isList && collector.rowCount === 0 && (await isOneObject(files, path, size)))
    throw new FormatError(
      path,
      `${path}:1: must be a list of rows ([...]) or one row a line: it is one JSON object over several lines. Save the list alone.`,
      { line: 1 },
    );
  return { path, ...collector.finish(options.onBadRow ?? 'error'), sha256: bytesToHex(hash.digest()) };
}

/** Collects rows and problems; the first row of a known format decides which format the file has. */
class RowCollector {
  readonly #path: string;
  readonly #rows: Row[] = [];
  readonly #problems: RowProblem[] = [];
  #problemCount = 0;
  #format: DataFormat | undefined;

  constructor(path: string, format: DataFormat | undefined) {
    this.#path = path;
    this.#format = format;
  }

  /** Usable rows so far. */
  get rowCount(): number {
    return this.#rows.length;
  }

  add(line: number, value: unknown): void {
    this.#format ??= detectFormat(value);
    if (this.#format === undefined) {
      this.problem(line, `must have the fields of a known format (${describeFormats()})`);
      return;
    }
    const content = readRow(value, this.#format);
    if (typeof content === 'string') this.problem(line, content);
    else this.#rows.push({ ...content, line });
  }

  problem(line: number, message: string): void {
    this.#problemCount++;
    if (this.#problems.length < shownProblems) this.#problems.push({ line, message });
  }

  finish(onBadRow: 'error' | 'skip'): Pick<ChatDataset, 'format' | 'rows' | 'skipped'> {
    const total = this.#rows.length + this.#problemCount;
    if (total === 0)
      throw new FormatError(
        this.#path,
        `${this.#path}: a data file must hold rows: it is empty. Put one JSON object on each line.`,
      );
    // With every row bad there is nothing to go on with, whatever was asked.
    if (this.#problemCount > 0 && (onBadRow === 'error' || this.#rows.length === 0))
      throw new DatasetError(this.#path, this.#problems, this.#problemCount, total);
    return {
      format: this.#format!,
      rows: this.#rows,
      skipped: { count: this.#problemCount, problems: this.#problems },
    };
  }
}

async function readJsonLines(
  files: FileSystem,
  path: string,
  maxLineBytes: number,
  hash: ReturnType<typeof sha256>,
  collector: RowCollector,
): Promise<void> {
  const decoder = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true });
  for await (const { number, bytes } of readLines(files, path, maxLineBytes, hash)) {
    if (bytes === undefined) {
      collector.problem(number, `must be at most ${maxLineBytes} bytes long: it is longer`);
      continue;
    }
    const start = number === 1 && hasUtf8Mark(bytes) ? 3 : 0;
    if (firstContent(bytes, start) === bytes.length) continue;
    let text: string;
    try {
      text = decoder.decode(new Uint8Array(bytes.subarray(start)));
    } catch {
      collector.problem(number, 'must be UTF-8: it is not. Save the file as UTF-8');
      continue;
    }
    let value: unknown;
    try {
      value = JSON.parse(text);
    } catch (error) {
      collector.problem(number, jsonProblem(bytes, start, error));
      continue;
    }
    collector.add(number, value);
  }
}

function jsonProblem(bytes: Uint8Array, start: number, error: unknown): string {
  const nul = bytes.indexOf(0);
  if (nul >= 0) return `must be JSON: there is a NUL byte at column ${nul + 1}`;
  const problem = new JsonScanner(bytes, start).findProblem();
  if (problem === undefined) return `must be JSON: ${error instanceof Error ? error.message : error}`;
  return `must be JSON: ${problem.message} at column ${problem.offset + 1}`;
}

async function readList(
  files: FileSystem,
  path: string,
  maxJsonBytes: number,
  hash: ReturnType<typeof sha256>,
  collector: RowCollector,
): Promise<void> {
  const size = await files.size(path);
  if (size > maxJsonBytes)
    throw new FormatError(
      path,
      `${path}: a JSON list must be at most ${maxJsonBytes} bytes: it has ${size}. Save it as JSONL, one row a line.`,
    );
  const bytes = await files.read(path);
  hash.update(bytes);
  const values = parseJson(bytes, path) as unknown[];
  const lines = elementLines(bytes);
  values.forEach((value, index) => collector.add(lines[index] ?? 1, value));
}

/** The line on which each element of a JSON list begins. The bytes are known to be JSON. */
function elementLines(bytes: Uint8Array): number[] {
  const lines: number[] = [];
  let line = 1;
  let depth = 0;
  let inString = false;
  let expectsElement = false;
  for (let i = 0; i < bytes.length; i++) {
    const byte = bytes[i]!;
    if (inString) {
      if (byte === 0x5c) i++;
      else if (byte === 0x22) inString = false;
      continue;
    }
    if (byte === 0x0a) line++;
    if (isSpace(byte)) continue;
    if (expectsElement && byte !== 0x5d) lines.push(line);
    expectsElement = (depth === 0 && byte === 0x5b) || (depth === 1 && byte === 0x2c);
    if (byte === 0x22) inString = true;
    else if (byte === 0x5b || byte === 0x7b) depth++;
    else if (byte === 0x5d || byte === 0x7d) depth--;
  }
  return lines;
}

/** True if the whole file is a single JSON value of several lines, such as `{ "data": [...] }`. */
async function isOneObject(files: FileSystem, path: string, size: number): Promise<boolean> {
  if (size > 64 << 20) return false;
  const bytes = await files.read(path);
  const start = firstContent(bytes);
  const lineEnd = bytes.indexOf(0x0a, start);
  const severalLines = lineEnd >= 0 && firstContent(bytes, lineEnd) < bytes.length;
  return severalLines && bytes[start] === 0x7b && new JsonScanner(bytes, start).findProblem() === undefined;
}

function refuseUtf16(path: string, head: Uint8Array): void {
  const mark = (head[0] === 0xff && head[1] === 0xfe) || (head[0] === 0xfe && head[1] === 0xff);
  // Without a mark, every other byte of UTF-16 JSON is 0.
  const bare = head.length >= 4 && ((head[1] === 0 && head[3] === 0) || (head[0] === 0 && head[2] === 0));
  if (mark || bare)
    throw new FormatError(path, `${path}:1: must be UTF-8: it is UTF-16. Save the file as UTF-8.`, { line: 1 });
}

function firstContent(bytes: Uint8Array, from = hasUtf8Mark(bytes) ? 3 : 0): number {
  let at = from;
  while (at < bytes.length && isSpace(bytes[at]!)) at++;
  return at;
}

function hasUtf8Mark(bytes: Uint8Array): boolean {
  return bytes[0] === 0xef && bytes[1] === 0xbb && bytes[2] === 0xbf;
}

function isSpace(byte: number): boolean {
  return byte === 0x20 || byte === 0x0a || byte === 0x0d || byte === 0x09;
}
