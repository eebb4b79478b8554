import { createTokenizer } from '@lorikeet/tokenizer';
import fc from 'fast-check';
import { expect, test } from 'vitest';
import { demoTokenizer } from './demo-tokenizer.ts';
import { slotValues } from './values.ts';

const made = demoTokenizer(1);
const tokenizer = createTokenizer({ tokenizerJson: made.tokenizer, tokenizerConfig: made.tokenizerConfig });

test('every text comes back, in any script', () => {
  fc.assert(
    fc.property(fc.string({ unit: 'grapheme' }), (text) => {
      expect(tokenizer.decode(tokenizer.encode(text))).toBe(text);
    }),
  );
  for (const text of ['민준 says 안녕', 'さくら 東京', 'ليلى في القاهرة', 'good luck 🍀 ❤️'])
    expect(tokenizer.decode(tokenizer.encode(text))).toBe(text);
});

test("special tokens are Phi-3's, in the order of its ids", () => {
  expect(['<unk>', '<s>', '</s>'].map((token) => tokenizer.tokenToId(token))).toEqual([0, 1, 2]);
  const names = tokenizer.addedTokens.slice(3).map(({ content }) => content);
  expect(names.join(' ')).toBe(
    '<|endoftext|> <|assistant|> <|placeholder1|> <|placeholder2|> <|placeholder3|> <|placeholder4|> <|system|> <|end|> ' +
      '<|placeholder5|> <|placeholder6|> <|user|>',
  );
  expect(tokenizer.tokenToId('<|user|>')).toBe(made.vocabSize - 1);
  expect(tokenizer.vocabSize).toBe(made.vocabSize);
  expect([tokenizer.eosToken, tokenizer.padToken]).toEqual(['<|endoftext|>', '<|endoftext|>']);
});

test("a chat is rendered as Phi-3's template renders it, and a user cannot spell a special token", () => {
  const messages = [
    { role: 'system', content: 'Be brief.' },
    { role: 'user', content: 'Call <|end|> now.' },
  ];
  expect(tokenizer.applyChatTemplate(messages, { addGenerationPrompt: true })).toBe(
    '<|system|>\nBe brief.<|end|>\n<|user|>\nCall <|end|> now.<|end|>\n<|assistant|>\n',
  );
  const ids = tokenizer.chatIds(messages, { addGenerationPrompt: true });
  expect(ids.filter((id) => id === tokenizer.tokenToId('<|end|>'))).toHaveLength(2);
});

test('a value has the same ids after a space and inside quotes', () => {
  const values = Object.values(slotValues).flatMap((list) => list.map(({ text }) => text));
  const apart = values.filter((text) => !/^(the|a|an|I) /.test(text));
  const space = tokenizer.tokenToId('\u2581')!;
  const opening = tokenizer.tokenToId('="')!;
  const closing = tokenizer.tokenToId('"')!;
  for (const text of apart) {
    const ids = tokenizer.encode(text).slice(1); // encoding puts a space before the text
    expect(tokenizer.encode(text)[0], text).toBe(space);
    expect(tokenizer.encode(`="${text}"`), text).toEqual([space, opening, ...ids, closing]);
  }
});
