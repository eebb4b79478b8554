import type { GeneratedToken } from './generate.ts';

/** What turns ids into text; a `StreamDecoder` of @lorikeet/tokenizer is one. */
export interface TokenDecoder {
  /** The text that became complete with this token, often ''. */
  push(id: number): string;
  /** What was still held back. */
  end(): string;
}

/** Where a text ends besides the stop tokens. */
export interface StreamTextOptions {
  /** Generation ends where one of these begins; the string itself is not shown. */
  readonly stopStrings?: readonly string[];
}

/** Length of the longest end of `text` that could be the beginning of a stop string. */
function heldLength(text: string, stopStrings: readonly string[]): number {
  let held = 0;
  for (const stop of stopStrings)
    for (let n = Math.min(stop.length - 1, text.length); n > held; n--) if (text.endsWith(stop.slice(0, n))) held = n;
  return held;
}

/** Where the first stop string begins, or -1. */
function firstStop(text: string, stopStrings: readonly string[]): number {
  const places = stopStrings.map((stop) => text.indexOf(stop)).filter((at) => at >= 0);
  return places.length ? Math.min(...places) : -1;
}

/**
 * The text of a generation, piece by piece as it becomes certain. A stop token is not shown; of what could be the beginning
 * of a stop string nothing is shown until it is clear that it is not. Ends the generation (and frees its cache) when a stop
 * string is complete.
 *
 * @throws RangeError for an empty stop string, and what the generation throws
 */
export async function* streamText(
  tokens: AsyncIterable<GeneratedToken>,
  decoder: TokenDecoder,
  { stopStrings = [] }: StreamTextOptions = {},
): AsyncGenerator<string, void, void> {
  if (stopStrings.includes(''))
    throw new RangeError('streamText: stopStrings must not be empty strings: got one. Leave it out.');
  let pending = '';
  for await (const { id, isStop } of tokens) {
    if (isStop) break;
    pending += decoder.push(id);
    const stop = firstStop(pending, stopStrings);
    if (stop >= 0) {
      decoder.end();
      if (stop > 0) yield pending.slice(0, stop);
      return;
    }
    const shown = pending.length - heldLength(pending, stopStrings);
    if (shown > 0) yield pending.slice(0, shown);
    pending = pending.slice(shown);
  }
  pending += decoder.end();
  const stop = firstStop(pending, stopStrings);
  if (stop >= 0) pending = pending.slice(0, stop);
  if (pending) yield pending;
}
