/** Where and why a text is not JSON. */
export class JsonProblem extends Error {
  override name = 'JsonProblem';
  /** Byte offset in the scanned bytes. */
  readonly offset: number;
  constructor(offset: number, message: string) {
    super(message);
    this.offset = offset;
  }
}

/** First bytes of values, as `peek` names them. */
export type JsonKind = 'object' | 'array' | 'string' | 'number' | 'true' | 'false' | 'null';

const quote = 0x22;
const backslash = 0x5c;
const escapes: Record<string, string> = { '"': '"', '\\': '\\', '/': '/', b: '\b', f: '\f', n: '\n', r: '\r', t: '\t' };
const inNumber = Uint8Array.from({ length: 256 }, (_, byte) =>
  '-+.0123456789eE'.includes(String.fromCharCode(byte)) ? 1 : 0,
);
const numberForm = /^-?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][+-]?[0-9]+)?$/;

/**
 * Walks over JSON (RFC 8259) in bytes without building values, so that a reader can check a hostile header as it goes:
 * it knows the offset of everything, sees duplicate keys and the text of numbers, and allocates nothing it was not asked for.
 * The bytes must be valid UTF-8. Every method throws `JsonProblem`.
 */
export class JsonScanner {
  readonly bytes: Uint8Array;
  /** Byte offset of what is read next. */
  at: number;
  readonly end: number;
  #lenient = false;
  readonly #decoder = new TextDecoder('utf-8', { ignoreBOM: true });

  constructor(bytes: Uint8Array, start = 0, end = bytes.length) {
    this.bytes = bytes;
    this.at = start;
    this.end = end;
  }

  /** Throws the problem at an offset. */
  fail(message: string, offset = this.at): never {
    throw new JsonProblem(offset, message);
  }

  /** Passes JSON's white space. */
  skipSpace(): void {
    for (; this.at < this.end; this.at++) {
      const byte = this.bytes[this.at];
      if (byte !== 0x20 && byte !== 0x0a && byte !== 0x0d && byte !== 0x09) return;
    }
  }

  /** What stands here, for messages. */
  found(): string {
    if (this.at >= this.end) return 'the end';
    const byte = this.bytes[this.at]!;
    return byte > 0x20 && byte < 0x7f
      ? `"${String.fromCharCode(byte)}"`
      : `byte 0x${byte.toString(16).padStart(2, '0')}`;
  }

  /** Consumes one punctuation byte after white space. */
  expect(character: string, what: string): void {
    this.skipSpace();
    if (this.at >= this.end || this.bytes[this.at] !== character.charCodeAt(0))
      this.fail(`expected ${what}, found ${this.found()}`);
    this.at++;
  }

  /** Consumes the byte if it is there. */
  accept(character: string): boolean {
    this.skipSpace();
    if (this.at >= this.end || this.bytes[this.at] !== character.charCodeAt(0)) return false;
    this.at++;
    return true;
  }

  /** The kind of the value that starts here. */
  peek(): JsonKind {
    this.skipSpace();
    const byte = this.at < this.end ? this.bytes[this.at]! : 0;
    if (byte === 0x7b) return 'object';
    if (byte === 0x5b) return 'array';
    if (byte === quote) return 'string';
    if (byte === 0x2d || (byte >= 0x30 && byte <= 0x39)) return 'number';
    if (byte === 0x74) return 'true';
    if (byte === 0x66) return 'false';
    if (byte === 0x6e) return 'null';
    return this.fail(`expected a value, found ${this.found()}`);
  }

  /**
   * Consumes a string and returns it unescaped.
   * @param maxBytes longest content in bytes as written; a longer one is refused before it is built
   */
  string(what = 'a string', maxBytes = Number.POSITIVE_INFINITY): string {
    this.expect('"', what);
    const start = this.at;
    let plain = true;
    for (; ; this.at++) {
      if (this.at >= this.end) this.fail('unterminated string', start - 1);
      const byte = this.bytes[this.at]!;
      if (byte === quote) break;
      if (byte < 0x20) this.fail('a control character must be escaped in a string');
      if (this.at - start >= maxBytes) this.fail(`${what} is longer than ${maxBytes} bytes`, start - 1);
      if (byte !== backslash) continue;
      plain = false;
      this.at++;
    }
    const stop = this.at++;
    if (plain) return this.#text(start, stop);
    return this.#unescape(start, stop);
  }

  /** Short ASCII, which is nearly everything in a header, is several times faster without the decoder. */
  #text(start: number, stop: number): string {
    if (stop - start > 64) return this.#decoder.decode(this.bytes.slice(start, stop));
    for (let i = start; i < stop; i++) {
      if (this.bytes[i]! >= 0x80) return this.#decoder.decode(this.bytes.slice(start, stop));
    }
    return String.fromCharCode.apply(null, this.bytes.subarray(start, stop) as unknown as number[]);
  }

  #unescape(start: number, stop: number): string {
    const text = this.#decoder.decode(this.bytes.slice(start, stop));
    const out = text.replace(/\\(u[0-9a-fA-F]{4}|[\s\S])/g, (whole, code: string) => {
      if (code.length === 5) return String.fromCharCode(Number.parseInt(code.slice(1), 16));
      return escapes[code] ?? this.fail(`bad escape ${JSON.stringify(whole)} in a string`, start);
    });
    if (!out.isWellFormed() && !this.#lenient) this.fail('a string has half a surrogate pair', start);
    return out;
  }

  /** Consumes a number and returns its text, which is in JSON's form. */
  number(what = 'a number'): string {
    this.skipSpace();
    const start = this.at;
    while (this.at < this.end && inNumber[this.bytes[this.at]!]) this.at++;
    const text = String.fromCharCode(...this.bytes.subarray(start, Math.min(this.at, start + 400)));
    if (start === this.at) this.fail(`expected ${what}, found ${this.found()}`, start);
    if (!numberForm.test(text) || this.at - start > 400) this.fail(`malformed number ${text.slice(0, 40)}`, start);
    if (!this.#lenient && !Number.isFinite(Number(text))) this.fail(`number out of range ${text.slice(0, 40)}`, start);
    return text;
  }

  /** Consumes a non-negative integer without sign, fraction or exponent, at most 2^53 - 1. */
  safeInteger(what: string): number {
    this.skipSpace();
    const start = this.at;
    let digits = 0;
    while (this.at < this.end && this.at - start < 15 && (this.bytes[this.at]! - 0x30) >>> 0 < 10) {
      digits = digits * 10 + this.bytes[this.at++]! - 0x30;
    }
    // Up to 15 digits without a leading zero or anything else that belongs to a number: exact, and done.
    const more = this.at < this.end && inNumber[this.bytes[this.at]!];
    if (this.at > start && !more && (this.bytes[start] !== 0x30 || this.at === start + 1)) return digits;
    this.at = start;
    const kind = this.at < this.end ? this.peek() : undefined;
    if (kind !== 'number') this.fail(`${what} must be an integer, found ${this.found()}`);
    const text = this.number();
    const value = Number(text);
    if (!/^[0-9]+$/.test(text)) this.fail(`${what} must be an integer of 0 or more, found ${text}`, start);
    if (!Number.isSafeInteger(value)) this.fail(`${what} must be at most 2^53 - 1, found ${text}`, start);
    return value;
  }

  #literal(word: string): void {
    for (let i = 0; i < word.length; i++) {
      if (this.at + i >= this.end || this.bytes[this.at + i] !== word.charCodeAt(i)) this.fail(`expected ${word}`);
    }
    this.at += word.length;
  }

  /** Consumes `null`. */
  null(): void {
    this.skipSpace();
    this.#literal('null');
  }

  /**
   * Consumes an object, calling `visit(key, keyOffset)` with the scanner before each value, which it must consume.
   * @throws JsonProblem on a key that was there before
   */
  object(visit: (key: string, keyOffset: number) => void, keyName = 'a key', maxKeyBytes?: number): void {
    this.expect('{', 'an object');
    if (this.accept('}')) return;
    const seen = new Set<string>();
    do {
      this.skipSpace();
      const keyOffset = this.at;
      const key = this.string(keyName, maxKeyBytes);
      if (seen.has(key) && !this.#lenient) this.fail(`duplicate key ${JSON.stringify(key)}`, keyOffset);
      seen.add(key);
      this.expect(':', 'a colon');
      visit(key, keyOffset);
    } while (this.accept(','));
    this.expect('}', 'a comma or the end of the object');
  }

  /** Consumes an array, calling `visit(index)` before each element, which it must consume. */
  array(visit: (index: number) => void): void {
    this.expect('[', 'an array');
    if (this.accept(']')) return;
    let index = 0;
    do visit(index++);
    while (this.accept(','));
    this.expect(']', 'a comma or the end of the array');
  }

  /** Consumes any value. Objects and arrays may nest `depth` deep. */
  skipValue(depth: number): void {
    const kind = this.peek();
    if ((kind === 'object' || kind === 'array') && depth <= 0) this.fail('values are nested too deeply');
    if (kind === 'object') this.object(() => this.skipValue(depth - 1));
    else if (kind === 'array') this.array(() => this.skipValue(depth - 1));
    else if (kind === 'string') this.string();
    else if (kind === 'number') this.number();
    else this.#literal(kind);
  }

  /** Checks that nothing but white space is left. */
  finish(): void {
    this.skipSpace();
    if (this.at < this.end) this.fail(`expected the end, found ${this.found()}`);
  }

  /** Scans the whole text as one value and returns why JSON.parse would refuse it, if it would. */
  findProblem(): JsonProblem | undefined {
    this.#lenient = true; // duplicate keys and half surrogate pairs are not syntax errors
    try {
      this.skipValue(1000);
      this.finish();
      return undefined;
    } catch (error) {
      if (error instanceof JsonProblem) return error;
      throw error;
    }
  }
}
