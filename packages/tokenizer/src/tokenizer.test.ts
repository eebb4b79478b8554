import { readFileSync } from 'node:fs';
import { resolve } from 'node:path';
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { AddedTokenSplitter } from './added-tokens.ts';
import { createTokenizer } from './index.ts';

const tokenizerJson = JSON.parse(
  readFileSync(resolve(import.meta.dirname, 'recordings/llama-like.json'), 'utf8'),
).tokenizerJson;

describe('createTokenizer', () => {
  it('knows the named tokens, as text or as objects', () => {
    const tokenizer = createTokenizer({
      tokenizerJson,
      tokenizerConfig: { bos_token: { content: '<s>' }, eos_token: '<|endoftext|>', pad_token: null },
    });
    expect([tokenizer.bosTokenId, tokenizer.eosTokenId, tokenizer.padTokenId, tokenizer.unkToken]).toEqual([
      1,
      560,
      undefined,
      undefined,
    ]);
    expect(tokenizer.idToToken(tokenizer.tokenToId('<|end|>')!)).toBe('<|end|>');
    expect(tokenizer.tokenToId('없는 토큰')).toBeUndefined();
    expect(tokenizer.vocabSize).toBe(570);
  });
  it('takes the default of several templates, and a template file before the config', () => {
    const tokenizerConfig = {
      chat_template: [
        { name: 'tool_use', template: 'no' },
        { name: 'default', template: '기본' },
      ],
    };
    expect(createTokenizer({ tokenizerJson, tokenizerConfig }).chatTemplate).toBe('기본');
    expect(createTokenizer({ tokenizerJson, tokenizerConfig, chatTemplate: 'ملف' }).chatTemplate).toBe('ملف');
  });
  it.each([
    [{ tokenizerJson: [] }, 'tokenizer.json must hold a JSON object: got a list'],
    [{ tokenizerJson: {} }, "must describe a tokenizer of Hugging Face's format"],
    [{ tokenizerJson: { model: { type: 'Magic' } } }, "must describe a tokenizer of Hugging Face's format"],
    [
      { tokenizerJson: { ...tokenizerJson, added_tokens: [{ id: -1, content: '😀' }] } },
      'added_tokens[0] must have a content and an id',
    ],
    [{ tokenizerJson, tokenizerConfig: { eos_token: '<|끝|>', bos_token: '<s>' } }, 'eos_token "<|끝|>" is not'],
    [{ tokenizerJson, chatTemplate: '{% for %}' }, 'not valid Jinja'],
  ])('refuses %#', (source, message) => {
    expect(() => createTokenizer(source)).toThrow(message);
  });
  it('checks that a model has a row for each id', () => {
    const tokenizer = createTokenizer({ tokenizerJson });
    expect(() => tokenizer.checkModelVocabSize(570)).not.toThrow();
    expect(() => tokenizer.checkModelVocabSize(569)).toThrow(/vocab_size of 569: it has ids up to 569 \("bird song"/);
  });
  it('gives back what it was given, but for what the normalizer changes', () => {
    const tokenizer = createTokenizer({ tokenizerJson });
    fc.assert(
      fc.property(fc.string({ unit: 'binary', maxLength: 40 }), (text) => {
        const ids = tokenizer.encode(text, { addSpecialTokens: false });
        expect(tokenizer.decode(ids)).toBe(text.toWellFormed().replaceAll('▁', ' '));
      }),
    );
    expect(tokenizer.decode([])).toBe('');
    expect(tokenizer.encode('', { addSpecialTokens: false })).toEqual([]);
  });
});

describe('AddedTokenSplitter', () => {
  const flags = { singleWord: false, lstrip: false, rstrip: false, normalized: false, special: true, control: true };
  const splitter = new AddedTokenSplitter(
    [
      { ...flags, id: 1, content: '<a>' },
      { ...flags, id: 2, content: '<a><b>' },
      { ...flags, id: 3, content: '가', singleWord: true },
      { ...flags, id: 4, content: '[x]', lstrip: true, rstrip: true },
    ].map((token) => [token.content, token]),
  );
  const pieces = (text: string) => splitter.split(text, () => true).map(({ token, text }) => token?.id ?? text);
  it('takes the longest match', () => {
    expect(pieces('😀<a><b><a>x')).toEqual(['😀', 2, 1, 'x']);
  });
  it('takes a single word only between non-words', () => {
    expect(pieces('가 나가 가.')).toEqual([3, ' 나가 ', 3, '.']);
  });
  it('lets tokens swallow white space as Unicode defines it', () => {
    expect(pieces('م \u0085[x]\u3000\ufeff y')).toEqual(['م', 4, '\ufeff y']);
  });
  it('finds a token that overlaps a refused one', () => {
    const sections = splitter.split('<a><b>', (token) => token.id !== 2);
    expect(sections.map(({ token, text, start }) => [token?.id, text, start])).toEqual([
      [1, '<a>', 0],
      [undefined, '<b>', 3],
    ]);
    const inside = splitter.split('<a<a>', (_, start) => start === 2);
    expect(inside.map(({ token, text }) => token?.id ?? text)).toEqual(['<a', 1]);
  });
});
