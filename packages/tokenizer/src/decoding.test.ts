import { readFileSync } from 'node:fs';
import { resolve } from 'node:path';
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { byteFallbackText, settledLength } from './decoding.ts';
import { createTokenizer } from './index.ts';

const load = (name: string) =>
  createTokenizer({
    tokenizerJson: JSON.parse(readFileSync(resolve(import.meta.dirname, 'recordings', `${name}.json`), 'utf8'))
      .tokenizerJson,
  });
const text = fc
  .array(
    fc.oneof(
      fc.constantFrom(
        '안녕하세요',
        '닭볶음탕',
        'こんにちは',
        'مرحبا',
        '👨‍👩‍👧‍👦',
        '👍🏽',
        '🇰🇷',
        '🇯🇵',
        '❤️',
        '1️⃣',
        ' ',
        '\n',
        '\ufeff',
        'parrot ',
      ),
      fc.string({ unit: 'grapheme', maxLength: 6 }),
      fc.string({ unit: 'binary', maxLength: 3 }),
    ),
    { maxLength: 12 },
  )
  .map((parts) => parts.join(''));

describe.each(['llama-like', 'phi4-like'])('streams of %s', (name) => {
  const tokenizer = load(name);
  const specialId = tokenizer.tokenToId('<|end|>')!;

  it('joined are the text of all tokens, special ones anywhere between', () => {
    fc.assert(
      fc.property(fc.array(text, { maxLength: 4 }), (texts) => {
        const ids = texts.flatMap((part) => [specialId, ...tokenizer.encode(part, { addSpecialTokens: false })]);
        const stream = tokenizer.streamDecoder();
        const joined = ids.map((id) => stream.push(id)).join('') + stream.end();
        expect(joined).toBe(tokenizer.decode(ids, { skipSpecialTokens: true }));
        const verbatim = tokenizer.streamDecoder({ skipSpecialTokens: false });
        expect(ids.map((id) => verbatim.push(id)).join('') + verbatim.end()).toBe(tokenizer.decode(ids));
      }),
    );
  });
  it('never show half a character', () => {
    fc.assert(
      fc.property(text, (whole) => {
        const stream = tokenizer.streamDecoder();
        const pieces = tokenizer
          .encode(whole.replaceAll('\ufffd', ''), { addSpecialTokens: false })
          .map((id) => stream.push(id));
        for (const piece of pieces) {
          expect(piece).not.toContain('\ufffd');
          expect(piece.isWellFormed()).toBe(true);
        }
      }),
    );
  });
  it('survive any ids, and give what lenient decoding gives', () => {
    fc.assert(
      fc.property(fc.array(fc.nat({ max: tokenizer.vocabSize + 5 }), { maxLength: 40 }), (ids) => {
        const stream = tokenizer.streamDecoder();
        const joined = ids.map((id) => stream.push(id)).join('') + stream.end();
        expect(joined.replaceAll('\ufffd', '').length).toBeGreaterThanOrEqual(
          tokenizer.decode(ids, { skipSpecialTokens: true }).replaceAll('\ufffd', '').length,
        );
      }),
    );
  });
});

describe('what waits', () => {
  it.each([
    ['한', 1],
    ['a\ufffd', 1],
    ['🇰', 0],
    ['🇰🇷', 4],
    ['🇰🇷🇯', 4],
    ['x👩', 1],
    ['x👩\u200d', 1],
    ['x👩\u200d👧', 1],
    ['x👩\u200d👧!', 7],
    ['👍🏽.', 5],
    ['', 0],
  ])('%j: %i units are settled', (value, settled) => {
    expect(settledLength(value)).toBe(settled);
  });
  it('is given by end, after which the decoder starts anew', () => {
    const tokenizer = load('llama-like');
    const stream = tokenizer.streamDecoder();
    expect(stream.push(tokenizer.tokenToId('<0xED>')!)).toBe('');
    expect(stream.end()).toBe('\ufffd');
    expect(stream.end()).toBe('');
    expect(
      tokenizer
        .encode('닭 둘', { addSpecialTokens: false })
        .map((id) => stream.push(id))
        .join('') + stream.end(),
    ).toBe('닭 둘');
  });
});

describe('runs of byte tokens', () => {
  const bytes = ['<0xED>', '<0x95>', '<0x9C>'];
  it('become characters, U+FEFF included', () => {
    expect(byteFallbackText(['a', ...bytes, '<0xEF>', '<0xBB>', '<0xBF>', 'b'], false)).toEqual(['a', '한\ufeff', 'b']);
  });
  it('that are broken become one U+FFFD a byte, or keep their good characters', () => {
    expect(byteFallbackText([...bytes, '<0xFF>'], false)).toEqual(['\ufffd'.repeat(4)]);
    expect(byteFallbackText([...bytes, '<0xFF>'], true)).toEqual(['한\ufffd']);
  });
});
