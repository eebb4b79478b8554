/**
 * Trains the pieces of a byte-pair tokenizer with SentencePiece's conventions, as Phi-3's own has: a space is the
 * character U+2581, and a character without a piece falls back to the pieces of its UTF-8 bytes.
 *
 * One thing differs on purpose: a space joins a following word in one last merge only, and never a word that can stand
 * for a name or a value. Such a word is then the same ids after a space and inside quotes, and copying it is copying.
 */

export const spaceMark = '\u2581';

export interface BpeOptions {
  /** Pieces without special tokens: 256 bytes, 95 characters, merges. */
  readonly pieces: number;
  /** How many of the merges join a space and a whole word. */
  readonly spacedWords: number;
  /** Words that a space never joins. */
  readonly bareWords: ReadonlySet<string>;
}

export interface BpePieces {
  /** Piece texts in id order, after the special tokens: bytes, characters, merged pieces. */
  readonly pieces: readonly string[];
  /** Pairs in the order in which they are applied. */
  readonly merges: readonly (readonly [string, string])[];
}

/** Trains on `texts`. Ties are broken by text order, so the result depends on the texts alone. */
export function trainBpe(texts: Iterable<string>, { pieces, spacedWords, bareWords }: BpeOptions): BpePieces {
  const { words, afterSpace } = countWords(texts);
  const characters = [spaceMark, ...Array.from({ length: 94 }, (_, i) => String.fromCharCode(33 + i))];
  const known = [...Array.from({ length: 256 }, (_, i) => bytePiece(i)), ...characters];
  const { merges, segmented } = mergeWords(words, pieces - known.length - spacedWords);
  // 'so' of 'so|ap' must not join the space before 'soap'.
  const bare = new Set([...bareWords].map((word) => segmented.get(word)?.[0] ?? word));
  const single = new Set(merges.map(([left, right]) => left + right));
  const spaced = [...afterSpace]
    .filter(
      ([word]) =>
        (single.has(word) || word.length === 1) && !bareWords.has(word) && !bare.has(word) && !/[0-9]/.test(word),
    )
    .sort(byCountThenText)
    .slice(0, spacedWords)
    .map(([word]) => [spaceMark, word] as const);
  const all = [...merges, ...spaced];
  return { pieces: [...known, ...all.map(([left, right]) => left + right)], merges: all };
}

/** `<0x0A>` for byte 10. */
export function bytePiece(byte: number): string {
  return `<0x${byte.toString(16).toUpperCase().padStart(2, '0')}>`;
}

/** Runs of letters (with `_`) and of punctuation; digits stay single and other characters are spelled in bytes. */
function countWords(texts: Iterable<string>): { words: Map<string, number>; afterSpace: Map<string, number> } {
  const words = new Map<string, number>();
  const afterSpace = new Map<string, number>();
  const count = (counts: Map<string, number>, word: string) => counts.set(word, (counts.get(word) ?? 0) + 1);
  for (const text of texts) {
    for (const [run] of ` ${text}`.matchAll(/ ?(?:[A-Za-z_]+|[0-9]{1,2}|[!-/:-@[-^`{-~]+)/g)) {
      const word = run.trimStart();
      count(words, word);
      if (run !== word) count(afterSpace, word);
    }
  }
  return { words, afterSpace };
}

interface Word {
  readonly text: string;
  symbols: string[];
  readonly count: number;
}

/** Learns `limit` merges; `segmented` holds every word in the pieces they leave. */
function mergeWords(
  counts: ReadonlyMap<string, number>,
  limit: number,
): { merges: [string, string][]; segmented: ReadonlyMap<string, readonly string[]> } {
  const words: Word[] = [...counts].map(([text, count]) => ({ text, symbols: [...text], count }));
  const merges: [string, string][] = [];
  while (merges.length < limit) {
    const best = mostFrequentPair(words);
    if (best === undefined)
      throw new Error(`trainBpe: the corpus must hold ${limit} pairs: it holds ${merges.length}. Make it longer.`);
    merges.push(best);
    for (const word of words) word.symbols = joinPair(word.symbols, best);
  }
  return { merges, segmented: new Map(words.map(({ text, symbols }) => [text, symbols])) };
}

function mostFrequentPair(words: readonly Word[]): [string, string] | undefined {
  const pairs = new Map<string, number>();
  for (const { symbols, count } of words) {
    for (let i = 1; i < symbols.length; i++) {
      const pair = `${symbols[i - 1]} ${symbols[i]}`;
      pairs.set(pair, (pairs.get(pair) ?? 0) + count);
    }
  }
  let best: [string, number] | undefined;
  for (const entry of pairs) if (best === undefined || byCountThenText(entry, best) < 0) best = entry;
  return best?.[0].split(' ') as [string, string] | undefined;
}

function joinPair(symbols: string[], [left, right]: readonly [string, string]): string[] {
  if (!symbols.includes(left)) return symbols;
  const out: string[] = [];
  for (let i = 0; i < symbols.length; i++) {
    const joins = symbols[i] === left && symbols[i + 1] === right;
    out.push(joins ? left + right : symbols[i]!);
    if (joins) i++;
  }
  return out;
}

function byCountThenText(a: readonly [string, number], b: readonly [string, number]): number {
  return b[1] - a[1] || (a[0] < b[0] ? -1 : 1);
}
