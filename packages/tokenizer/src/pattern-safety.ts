/**
 * Refuses regular expressions of a `tokenizer.json` that can take exponential time. They come with a model that somebody else made and run over
 * a user's text, and JavaScript cannot stop one that has begun.
 *
 * The rule: a group repeated without bound may hold neither another unbounded repetition nor alternatives (`(a+)+`, `(a|b)*`). Without
 * those the time is polynomial in the text. The patterns of GPT-2, o200k (Phi-4-mini), Llama 3, Qwen and DeepSeek all keep it.
 */

/** @throws {TypeError} naming the pattern */
export function checkPatterns(json: Readonly<Record<string, unknown>>): void {
  for (const part of ['normalizer', 'pre_tokenizer', 'post_processor', 'decoder'])
    for (const source of patternsIn(json[part]))
      if (canExplode(source))
        throw new TypeError(
          `createTokenizer: a pattern of ${part} in tokenizer.json must not repeat a group that itself repeats or chooses: got ${JSON.stringify(source.slice(0, 100))}. On some texts it would run without end; use the tokenizer of the model's maker.`,
        );
}

function* patternsIn(value: unknown): Generator<string> {
  if (typeof value !== 'object' || value === null) return;
  for (const [name, item] of Object.entries(value)) {
    if (name === 'Regex' && typeof item === 'string') yield item;
    else yield* patternsIn(item);
  }
}

/** True if some group repeated without bound holds an unbounded repetition or a choice. */
export function canExplode(source: string): boolean {
  /** For each open group: whether something within is unbounded or a choice. */
  const groups: boolean[] = [false];
  for (let i = 0; i < source.length; i++) {
    const character = source[i]!;
    if (character === '\\') i++;
    else if (character === '[') i = endOfClass(source, i);
    else if (character === '(') groups.push(false);
    else if (character === '|') groups[groups.length - 1] = true;
    else if (character === ')') {
      const isRisky = groups.length > 1 && groups.pop()!;
      if (isRisky && repeatsWithoutBound(source, i + 1)) return true;
      if (isRisky || repeatsWithoutBound(source, i + 1)) groups[groups.length - 1] = true;
    } else if (repeatsWithoutBound(source, i + 1)) groups[groups.length - 1] = true;
    // An escape or a class may be followed by a repetition as well.
    if ((character === '\\' || character === '[') && repeatsWithoutBound(source, i + 1))
      groups[groups.length - 1] = true;
  }
  return false;
}

/** `*`, `+`, or `{n,}`, and also `{n,m}` and `{n}` with more than nine turns, which are as bad in practice. */
function repeatsWithoutBound(source: string, at: number): boolean {
  const repetition = /^(?:[*+]|\{(\d*)(,?)(\d*)\})/.exec(source.slice(at, at + 24));
  if (repetition === null) return false;
  const [whole, least, comma, most] = repetition;
  if (whole === '*' || whole === '+') return true;
  return comma === ',' && most === '' ? true : Number(most || least) > 9;
}

/** Index of the `]` that closes the class at `start`; classes nest in Oniguruma (`[a&&[^b]]`, `[[:alpha:]]`). */
function endOfClass(source: string, start: number): number {
  let depth = 0;
  for (let i = start; i < source.length; i++) {
    if (source[i] === '\\') i++;
    else if (source[i] === '[') depth++;
    else if (source[i] === ']' && --depth === 0) return i;
  }
  return source.length;
}
