import type { FileSystem, Sha256 } from '@lorikeet/files';

/** One line of a file, without its end. */
export interface Line {
  /** From 1. */
  readonly number: number;
  /** The line's bytes; undefined if it is longer than allowed. Valid until the next line is asked for. */
  readonly bytes: Uint8Array | undefined;
}

const chunkBytes = 4 << 20;

/**
 * The lines of a file, read in pieces of 4 MiB; ends are LF or CRLF. All bytes go to `hash` as they pass.
 * A line over `maxLineBytes` is passed over without being held.
 */
export async function* readLines(
  files: FileSystem,
  path: string,
  maxLineBytes: number,
  hash: Sha256,
): AsyncGenerator<Line> {
  const size = await files.size(path);
  let held: Uint8Array[] = [];
  let heldBytes = 0;
  let number = 0;
  const hold = (piece: Uint8Array) => {
    heldBytes += piece.length;
    if (heldBytes <= maxLineBytes) held.push(piece);
    else held = [];
  };
  const take = (): Line => {
    const bytes = heldBytes > maxLineBytes ? undefined : withoutReturn(join(held, heldBytes));
    held = [];
    heldBytes = 0;
    return { number: ++number, bytes };
  };
  for (let offset = 0; offset < size; offset += chunkBytes) {
    const chunk = await files.readRange(path, offset, Math.min(chunkBytes, size - offset));
    hash.update(chunk);
    let start = 0;
    for (let end = chunk.indexOf(0x0a); end >= 0; end = chunk.indexOf(0x0a, start)) {
      hold(chunk.subarray(start, end));
      yield take();
      start = end + 1;
    }
    hold(chunk.subarray(start));
  }
  if (heldBytes > 0) yield take();
}

function join(pieces: readonly Uint8Array[], totalBytes: number): Uint8Array {
  if (pieces.length === 1) return pieces[0]!;
  const whole = new Uint8Array(totalBytes);
  let at = 0;
  for (const piece of pieces) {
    whole.set(piece, at);
    at += piece.length;
  }
  return whole;
}

function withoutReturn(bytes: Uint8Array): Uint8Array {
  return bytes.at(-1) === 0x0d ? bytes.subarray(0, -1) : bytes;
}
