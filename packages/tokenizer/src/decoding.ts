import { ByteFallbackDecoder, type LibraryDecoder, SequenceDecoder } from './hugging-face.ts';

/** Turns token texts into text; `lenient` is for streams, see {@link byteFallbackText}. */
export type TokenTextDecoder = (tokens: string[], lenient: boolean) => string;

const utf8 = {
  strict: new TextDecoder('utf-8', { fatal: true, ignoreBOM: true }),
  lossy: new TextDecoder('utf-8', { ignoreBOM: true }),
};
const byteToken = /^<0x([0-9A-Fa-f]{2})>$/;

/**
 * Replaces each run of byte tokens (`<0xED>`, `<0x95>`, `<0x9C>`) by its text. Like `byte_fallback.rs` of tokenizers 0.23, a run that is
 * not valid UTF-8 becomes one U+FFFD a byte. With `lenient` the valid characters inside such a run are kept, because a stream has
 * shown them before the run went wrong. (The decoder of `@huggingface/tokenizers` 0.2.0 drops U+FEFF and always behaves leniently.)
 */
export function byteFallbackText(tokens: readonly string[], lenient: boolean): string[] {
  const out: string[] = [];
  let run: number[] = [];
  const flush = () => {
    if (run.length > 0) out.push(bytesText(Uint8Array.from(run), lenient));
    run = [];
  };
  for (const token of tokens) {
    const byte = byteToken.exec(token);
    if (byte) run.push(Number.parseInt(byte[1]!, 16));
    else {
      flush();
      out.push(token);
    }
  }
  flush();
  return out;
}

function bytesText(bytes: Uint8Array, lenient: boolean): string {
  if (lenient) return utf8.lossy.decode(bytes);
  try {
    return utf8.strict.decode(bytes);
  } catch {
    return '\uFFFD'.repeat(bytes.length);
  }
}

/** The tokenizer's decoder with byte fallback done as above; without a decoder, tokens are joined by spaces as Hugging Face does. */
export function tokenTextDecoder(decoder: LibraryDecoder | null): TokenTextDecoder {
  if (decoder === null) return (tokens) => tokens.join(' ');
  const chain = decoder instanceof SequenceDecoder ? decoder.decoders : [decoder];
  return (tokens, lenient) =>
    chain
      .reduce<string[]>(
        (texts, step) =>
          step instanceof ByteFallbackDecoder ? byteFallbackText(texts, lenient) : step.decode_chain(texts),
        tokens,
      )
      .join('');
}

/** Text of a growing list of token ids, a whole character at a time. */
export interface StreamDecoder {
  /**
   * Takes the next token and returns the text that became complete with it, often '' in the middle of a character. All returned
   * texts and `end()` joined are the text of all tokens; no piece holds half a character, half a flag or half an emoji sequence.
   */
  push(id: number): string;
  /** What is still held back; bytes that never became a character are U+FFFD. The decoder may be used again afterwards. */
  end(): string;
}

/**
 * What may still change when more tokens come: the replacement character of unfinished bytes, one half of a flag, and an emoji that a
 * joiner, a variation selector or a skin tone may yet extend (`👩` before `‍👧`).
 */
const modifier = '[\\uFE0E\\uFE0F\\u20E3\\u{1F3FB}-\\u{1F3FF}]*';
const emoji = `\\p{Extended_Pictographic}${modifier}`;
const unsettled = new RegExp(`(?:${emoji}\\u200D)*(?:${emoji})?\\uFFFD?$`, 'u');
const flagLetters = /\p{Regional_Indicator}+$/u;

/** Length of the part of `text` that later tokens cannot change. */
export function settledLength(text: string): number {
  const tail = unsettled.exec(text);
  const settled = tail === null ? text.length : tail.index;
  const flags = flagLetters.exec(text.slice(0, settled));
  // A letter is one half of a flag and takes two UTF-16 units; an odd count means the last one waits.
  return flags !== null && flags[0].length % 4 !== 0 ? settled - 2 : settled;
}

/**
 * Decodes token by token in time that does not grow with the text: only the tokens since the last settled one are decoded again.
 * `textOf` gives '' for a token that is not shown; such a token never starts the window, since a decoder that strips the first
 * space of its input would then strip one in the middle of the text.
 */
export function createStreamDecoder(
  textOf: (ids: readonly number[]) => string,
  isShown: (id: number) => boolean,
): StreamDecoder {
  let pending: number[] = [];
  let emitted = 0;
  return {
    push(id) {
      if (!isShown(id)) return '';
      pending.push(id);
      const text = textOf(pending);
      const settled = emitted + settledLength(text.slice(emitted));
      const fresh = text.slice(emitted, settled);
      emitted = settled;
      if (settled === text.length && pending.length > 1) {
        pending = [id];
        emitted = textOf(pending).length;
      }
      return fresh;
    },
    end() {
      const rest = textOf(pending).slice(emitted);
      pending = [];
      emitted = 0;
      return rest;
    },
  };
}
