import { describe, expect, it } from 'vitest';
import { createTokenizer } from './index.ts';
import { canExplode } from './pattern-safety.ts';

describe('patterns of tokenizers in use pass', () => {
  it.each([
    ['GPT-2', "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+"],
    [
      'o200k',
      "[^\\r\\n\\p{L}\\p{N}]?[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}]*[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\\p{N}{1,3}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n/]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+",
    ],
    [
      'Llama 3',
      "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1,3}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+",
    ],
    ['Bloom', ' ?[^(\\s|[.,!?…。，、।۔،])]+'],
    ['digits from the right', '\\d(?=(?:\\d{3})+(?!\\d))'],
    ['Hangul', '[가-힣]+|[^)+]*\\)'],
  ])('%s', (_, source) => {
    expect(canExplode(source)).toBe(false);
  });
});

describe('patterns that can run without end are refused', () => {
  it.each([
    '(a+)+$',
    '(a|a)*b',
    '(?:\\s*x*)+',
    '((가*)b)+',
    '([a-z]+)*!',
    '(?:a{2,})+',
    '(x+){12}',
    '((a|b)c)+',
    '(\\w+\\s?)*$',
  ])('%s', (source) => {
    expect(canExplode(source)).toBe(true);
  });
  it('when the tokenizer is made', () => {
    const pre_tokenizer = {
      type: 'Sequence',
      pretokenizers: [{ type: 'Split', pattern: { Regex: '(가+)+!' }, behavior: 'Isolated', invert: false }],
    };
    const tokenizerJson = { model: { type: 'BPE', vocab: {}, merges: [] }, pre_tokenizer };
    expect(() => createTokenizer({ tokenizerJson })).toThrow(/a pattern of pre_tokenizer .* got "\(가\+\)\+!"/);
  });
});
