import { expect, test } from 'vitest';
import { trainBpe } from './bpe-trainer.ts';

const options = { pieces: 256 + 95 + 4, spacedWords: 1, bareWords: new Set<string>() };

test('merges are the most frequent pairs, ties in text order', () => {
  // 'ab' stands four times, 'abc' three; then 'xy' and 'yx' tie at two.
  const { merges } = trainBpe(['abc abc abc ab', 'xyx xyx'], options);
  expect(merges.slice(0, 3)).toEqual([
    ['a', 'b'],
    ['ab', 'c'],
    ['x', 'y'],
  ]);
});

test('a space joins the most frequent whole word last, and never a bare word', () => {
  const texts = ['abc abc abc ab', 'xyx xyx'];
  expect(trainBpe(texts, options).merges.at(-1)).toEqual(['\u2581', 'abc']);
  expect(trainBpe(texts, { ...options, bareWords: new Set(['abc']) }).merges.at(-1)).toEqual(['\u2581', 'ab']);
});

test('pieces are 256 bytes, 95 characters and the merges, without repetition', () => {
  const { pieces, merges } = trainBpe(['abc abc abc ab', 'xyx xyx'], options);
  expect(pieces.slice(0, 2)).toEqual(['<0x00>', '<0x01>']);
  expect(pieces[255]).toBe('<0xFF>');
  expect(pieces.slice(351)).toEqual(merges.map(([left, right]) => left + right));
  expect(new Set(pieces).size).toBe(pieces.length);
});

test('numbers of more than two digits are never one piece, other scripts none at all', () => {
  const { merges } = trainBpe(Array(50).fill('1234 5 한국어 한국어'), { ...options, pieces: 256 + 95 + 3 });
  expect(merges.every(([left, right]) => (left + right).length <= 2)).toBe(true);
  expect(merges.flat().every((text) => /^[\u2581 -~]+$/.test(text))).toBe(true);
});

test('a corpus too small for the pieces asked for is an error', () => {
  expect(() => trainBpe(['ab'], { ...options, pieces: 400 })).toThrow(/must hold .* pairs: it holds 1/);
});
