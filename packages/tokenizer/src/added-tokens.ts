/**
 * Added tokens (`<|end|>`, `</s>`, ...) found in raw text, with the four flags of Hugging Face's `AddedVocabulary` (tokenizers 0.23,
 * `added_vocabulary.rs`): leftmost-longest matches, then `single_word`, `lstrip`, `rstrip`. `@huggingface/tokenizers` 0.2.0 ignores
 * `single_word`, strips by JavaScript's idea of white space, and cannot be told to leave a special token in a user's text alone;
 * these are the reasons this file exists.
 */

/** One entry of `added_tokens` in `tokenizer.json`. */
export interface AddedToken {
  readonly id: number;
  readonly content: string;
  /** Matches only between non-word characters. */
  readonly singleWord: boolean;
  /** White space to the left belongs to the token. */
  readonly lstrip: boolean;
  /** White space to the right belongs to the token. */
  readonly rstrip: boolean;
  /** Looked for after normalization instead of in the raw text. */
  readonly normalized: boolean;
  /** Left out by `decode(ids, { skipSpecialTokens: true })`. */
  readonly special: boolean;
  /** Steers the model (a role, an end, a pad), so text from outside may never spell it. A superset of `special`: Phi-3 marks `</s>` as not special. */
  readonly control: boolean;
}

/** A piece of the text: an added token, or text between two of them. `start` and `end` are UTF-16 offsets of what was matched, without swallowed white space. */
export interface Section {
  readonly token: AddedToken | undefined;
  readonly text: string;
  readonly start: number;
  readonly end: number;
}

/** Says whether the added token matched at [start, end) may be taken as one, or is plain text that only looks like it. */
export type TokenFilter = (token: AddedToken, start: number, end: number) => boolean;

/** Rust's `char::is_whitespace`; JavaScript's `\s` adds U+FEFF and lacks U+0085. */
const trailingSpace = /\p{White_Space}*$/u;
const leadingSpace = /^\p{White_Space}*/u;
const word = '[\\p{Alphabetic}\\p{M}\\p{Nd}\\p{Pc}\\p{Join_Control}]';
const endsWithWord = new RegExp(`${word}$`, 'u');
const startsWithWord = new RegExp(`^${word}`, 'u');

/** Finds added tokens in text; `pattern` of a token defaults to its content (the normalized ones pass their normalized form). */
export class AddedTokenSplitter {
  readonly #byPattern: ReadonlyMap<string, AddedToken>;
  /** Longest first: alternation takes the first that fits, which makes it leftmost-longest as in the Aho-Corasick search. */
  readonly #patterns: readonly string[];
  readonly #search: RegExp | undefined;

  constructor(tokens: Iterable<readonly [pattern: string, token: AddedToken]>) {
    this.#byPattern = new Map([...tokens].filter(([pattern]) => pattern.length > 0));
    this.#patterns = [...this.#byPattern.keys()].sort((a, b) => b.length - a.length);
    const alternatives = this.#patterns.map((text) => RegExp.escape(text)).join('|');
    this.#search = this.#patterns.length > 0 ? new RegExp(alternatives, 'gu') : undefined;
  }

  /** True if some token's text occurs anywhere in `text`. */
  occursIn(text: string): boolean {
    return this.#search !== undefined && text.search(this.#search) >= 0;
  }

  /** Start offsets of every occurrence, overlapping ones included. */
  occurrences(text: string): { start: number; end: number; token: AddedToken }[] {
    const found: { start: number; end: number; token: AddedToken }[] = [];
    if (this.#search === undefined) return found;
    const search = new RegExp(this.#search);
    for (let match = search.exec(text); match !== null; match = search.exec(text)) {
      found.push({ start: match.index, end: search.lastIndex, token: this.#byPattern.get(match[0])! });
      search.lastIndex = match.index + 1;
    }
    return found;
  }

  /** Cuts `text` into added tokens and the text between them; empty pieces are left out. */
  split(text: string, accepts: TokenFilter): Section[] {
    const sections: Section[] = [];
    let from = 0;
    const pushText = (end: number) => {
      if (from < end) sections.push({ token: undefined, text: text.slice(from, end), start: from, end });
    };
    for (const { token, start, end } of this.#matches(text, accepts)) {
      const left = token.lstrip ? trailingSpace.exec(text.slice(from, start))![0].length : 0;
      pushText(start - left);
      sections.push({ token, text: text.slice(start, end), start, end });
      from = token.rstrip ? end + leadingSpace.exec(text.slice(end))![0].length : end;
    }
    pushText(text.length);
    return sections;
  }

  *#matches(text: string, accepts: TokenFilter): Generator<{ token: AddedToken; start: number; end: number }> {
    if (this.#search === undefined) return;
    const search = new RegExp(this.#search);
    for (let match = search.exec(text); match !== null; match = search.exec(text)) {
      const longest = match[0];
      const start = match.index;
      const token = this.#byPattern.get(longest)!;
      if (accepts(token, start, search.lastIndex)) {
        if (!token.singleWord || standsAlone(text, start, search.lastIndex))
          yield { token, start, end: search.lastIndex };
        continue;
      }
      // A refused look-alike may begin with a real token, or overlap one: try what is shorter, then one character later.
      const shorter = this.#patterns.find(
        (pattern) =>
          pattern.length < longest.length &&
          text.startsWith(pattern, start) &&
          accepts(this.#byPattern.get(pattern)!, start, start + pattern.length),
      );
      search.lastIndex = start + (shorter?.length ?? 1);
      if (shorter !== undefined) yield { token: this.#byPattern.get(shorter)!, start, end: search.lastIndex };
    }
  }
}

function standsAlone(text: string, start: number, end: number): boolean {
  // Two UTF-16 units hold any one character before or after the match.
  return (
    !endsWithWord.test(text.slice(Math.max(0, start - 2), start)) && !startsWithWord.test(text.slice(end, end + 2))
  );
}
