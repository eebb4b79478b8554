import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { FormatError } from './errors.ts';
import { JsonScanner } from './json-scanner.ts';
import { memoryFiles } from './memory-files.ts';
import { decodeText, invalidUtf8Offset, parseJson, readJson, readText } from './text.ts';

const utf8 = (text: string): Uint8Array => new TextEncoder().encode(text);

describe('readText', () => {
  test('drops a byte order mark and keeps everything else', async () => {
    const files = memoryFiles();
    await files.append('a', utf8('\ufeffkorean 한국어\r\n\u0000'));
    expect(await readText(files, 'a')).toBe('korean 한국어\r\n\u0000');
  });

  test('says where it is not UTF-8, and when it is UTF-16', () => {
    expect(() => decodeText(Uint8Array.of(0x61, 0x0a, 0x62, 0xff), 'a.txt')).toThrow(
      /a\.txt:2:2: must be UTF-8: byte 0xff is not/,
    );
    expect(() => decodeText(Uint8Array.of(0xff, 0xfe, 0x61, 0x00), 'a.txt')).toThrow(
      /a\.txt:1:1: must be UTF-8: it is UTF-16/,
    );
  });

  test('the offset of the first bad byte, wherever chunks of 65,536 end', () => {
    fc.assert(
      fc.property(
        fc.constantFrom('a', 'é', '€', '🦜'),
        fc.integer({ min: -6, max: 6 }),
        fc.constantFrom(0xff, 0xc0, 0xf8),
        (unit, shift, bad) => {
          const one = utf8(unit);
          const units = Math.floor(((1 << 16) + shift) / one.length);
          const valid = utf8(unit.repeat(units));
          expect(invalidUtf8Offset(valid)).toBeUndefined();
          const broken = new Uint8Array(valid.length + 3);
          broken.set(valid);
          broken.set([bad, 0x61, 0x61], valid.length);
          expect(invalidUtf8Offset(broken)).toBe(valid.length);
        },
      ),
      { numRuns: 40 },
    );
  });

  test('agrees with the fatal decoder on any bytes', () => {
    fc.assert(
      fc.property(fc.uint8Array({ maxLength: 12 }), (bytes) => {
        let valid = true;
        try {
          new TextDecoder('utf-8', { fatal: true }).decode(bytes);
        } catch {
          valid = false;
        }
        const offset = invalidUtf8Offset(bytes);
        expect(offset === undefined).toBe(valid);
        if (offset !== undefined)
          expect(() => new TextDecoder('utf-8', { fatal: true }).decode(bytes.slice(0, offset + 1))).toThrow();
      }),
      { numRuns: 3000 },
    );
  });
});

describe('readJson', () => {
  test.each([
    ['{"a": 1,}', '1:9', 'expected a key, found "}"'],
    ['{\n  "a": 1\n  "b": 2\n}', '3:3', 'expected a comma or the end of the object, found """'],
    ['[1, 2', '1:6', 'found the end'],
    ['{"a": nul}', '1:7', 'expected null'],
    ['{"a": 01}', '1:7', 'malformed number 01'],
    ['"ab\nc"', '1:4', 'control character'],
    ['', '1:1', 'expected a value, found the end'],
    ['{} {}', '1:4', 'expected the end'],
    ['{"a": 1, "a": 2, }', '1:18', 'expected a key'],
    ["{'a': 1}", '1:2', 'found "\'"'],
  ])('%j is refused with line and column', async (text, at, why) => {
    const files = memoryFiles();
    await files.append('c.json', utf8(text));
    const error = await readJson(files, 'c.json').catch((reason: unknown) => reason);
    expect(error).toBeInstanceOf(FormatError);
    expect((error as Error).message.startsWith(`c.json:${at}: must be JSON: `)).toBe(true);
    expect((error as Error).message).toContain(why);
  });

  test('__proto__ becomes a key and nothing else', () => {
    const value = parseJson(utf8('{"__proto__": {"polluted": 1}}'), 'x') as Record<string, unknown>;
    expect(Object.keys(value)).toEqual(['__proto__']);
    expect(({} as Record<string, unknown>).polluted).toBeUndefined();
  });

  test('the scanner finds a problem exactly where JSON.parse does not parse', () => {
    const fragment = fc.constantFrom(
      '{',
      '}',
      '[',
      ']',
      '"a"',
      ':',
      ',',
      '1',
      '-',
      '0',
      '.5',
      'e3',
      'true',
      'null',
      ' ',
      '"\\u00e9"',
      '"\\ud800"',
      '\\',
      '"',
    );
    const soup = fc.array(fragment, { maxLength: 8 }).map((parts) => parts.join(''));
    fc.assert(
      fc.property(
        fc.oneof(
          soup,
          fc.json(),
          fc.json().map((text) => text.slice(0, -1)),
        ),
        (text) => {
          let parses = true;
          try {
            JSON.parse(text);
          } catch {
            parses = false;
          }
          expect(new JsonScanner(utf8(text)).findProblem() === undefined).toBe(parses);
        },
      ),
      { numRuns: 5000 },
    );
  });

  test('strings of the scanner are those of JSON.parse', () => {
    fc.assert(
      fc.property(
        fc.string({ unit: 'binary' }).filter((text) => text.isWellFormed()),
        fc.boolean(),
        (text, escaped) => {
          const units = Array.from(
            { length: text.length },
            (_, i) => `\\u${text.charCodeAt(i).toString(16).padStart(4, '0')}`,
          );
          const json = escaped ? `"${units.join('')}"` : JSON.stringify(text);
          expect(new JsonScanner(utf8(json)).string()).toBe(text);
        },
      ),
    );
  });
});
