import { FormatError, type FormatLocation } from './errors.ts';
import type { FileSystem } from './file-system.ts';
import { JsonScanner } from './json-scanner.ts';

/** Offset of the first byte that is not part of valid UTF-8; undefined when all is. Uses no second copy of the text. */
export function invalidUtf8Offset(bytes: Uint8Array): number | undefined {
  const chunkBytes = 1 << 16;
  const decoder = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true });
  let start = 0;
  try {
    for (; start < bytes.length; start += chunkBytes) {
      decoder.decode(unshared(bytes.subarray(start, start + chunkBytes)), { stream: true });
    }
    decoder.decode();
    return undefined;
  } catch {
    return preciseOffset(bytes, start);
  }
}

/** Repeats the failing chunk byte by byte, from the beginning of the character that the chunk's border may cut. */
function preciseOffset(bytes: Uint8Array, chunkStart: number): number {
  let from = Math.min(chunkStart, bytes.length);
  for (let back = 0; back < 3 && from > 0 && (bytes[from]! & 0xc0) === 0x80; back++) from--;
  if (from > 0 && from === bytes.length) from = Math.max(0, from - 3);
  while (from > 0 && (bytes[from]! & 0xc0) === 0x80) from--;
  const decoder = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true });
  for (let i = from; i < bytes.length; i++) {
    try {
      decoder.decode(unshared(bytes.subarray(i, i + 1)), { stream: true });
    } catch {
      return i;
    }
  }
  return bytes.length; // the last character is cut off
}

/** Browsers refuse to decode shared memory. */
function unshared(bytes: Uint8Array): Uint8Array<ArrayBuffer> {
  return bytes.buffer instanceof ArrayBuffer ? (bytes as Uint8Array<ArrayBuffer>) : new Uint8Array(bytes);
}

/** Line and column (1-based, in bytes) of a byte offset. */
export function locationOf(bytes: Uint8Array, offset: number): Required<FormatLocation> {
  let line = 1;
  let lineStart = 0;
  for (let i = bytes.indexOf(0x0a); i >= 0 && i < offset; i = bytes.indexOf(0x0a, i + 1)) {
    line++;
    lineStart = i + 1;
  }
  return { offset, line, column: offset - lineStart + 1 };
}

/**
 * UTF-8 bytes as text; a byte order mark is dropped.
 * @throws FormatError with line and column of the first byte that is not UTF-8
 */
export function decodeText(bytes: Uint8Array, path: string): string {
  try {
    return new TextDecoder('utf-8', { fatal: true }).decode(unshared(bytes));
  } catch (cause) {
    if (!(cause instanceof TypeError)) throw cause;
  }
  const utf16 = (bytes[0] === 0xff && bytes[1] === 0xfe) || (bytes[0] === 0xfe && bytes[1] === 0xff);
  const at = locationOf(bytes, invalidUtf8Offset(bytes) ?? 0);
  const why = utf16 ? 'it is UTF-16' : `byte 0x${(bytes[at.offset] ?? 0).toString(16).padStart(2, '0')} is not`;
  throw new FormatError(path, `${path}:${at.line}:${at.column}: must be UTF-8: ${why}. Save the file as UTF-8.`, at);
}

/** Reads a text file. @throws FileError, FormatError when it is not UTF-8 */
export async function readText(files: FileSystem, path: string): Promise<string> {
  return decodeText(await files.read(path), path);
}

/**
 * Parses JSON. A byte order mark is dropped; duplicate keys follow JSON.parse (the last wins).
 * @throws FormatError with file, line, column and what was found there
 */
export function parseJson(bytes: Uint8Array, path: string): unknown {
  const text = decodeText(bytes, path);
  try {
    return JSON.parse(text);
  } catch (cause) {
    if (!(cause instanceof SyntaxError)) throw cause;
    const skipBom = bytes[0] === 0xef && bytes[1] === 0xbb ? 3 : 0;
    const problem = new JsonScanner(bytes, skipBom).findProblem();
    const at = locationOf(bytes, problem?.offset ?? bytes.length);
    const what = problem?.message ?? cause.message;
    throw new FormatError(path, `${path}:${at.line}:${at.column}: must be JSON: ${what}. Correct the file there.`, at);
  }
}

/** Reads a JSON file. @throws FileError, FormatError that names file, line and column */
export async function readJson(files: FileSystem, path: string): Promise<unknown> {
  return parseJson(await files.read(path), path);
}
