import { existsSync, readFileSync } from 'node:fs';
import { resolve } from 'node:path';
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { chatTemplateNames, chatTemplates, checkChatTemplate, createTokenizer, TemplateError } from './index.ts';

const data = resolve(import.meta.dirname, '../../../../shared/data');
const read = (folder: string, name: string) => JSON.parse(readFileSync(resolve(data, folder, name), 'utf8'));
const open = (folder: string, chatTemplate?: string) =>
  createTokenizer({
    tokenizerJson: read(folder, 'tokenizer.json'),
    tokenizerConfig: read(folder, 'tokenizer_config.json'),
    ...(chatTemplate === undefined ? {} : { chatTemplate }),
  });
const isAbsent = !existsSync(resolve(data, 'stories260k'));
const reason = 'shared/data is not there';

const chat = [
  { role: 'system', content: 'Be kind.' },
  { role: 'user', content: '안녕 😀' },
  { role: 'assistant', content: 'Hello.' },
  { role: 'user', content: 'Why?' },
  { role: 'assistant', content: 'Because.' },
];

describe('plain, on a tokenizer without chat tokens', () => {
  it('gives header lines, and the end of text behind each answer', (ctx) => {
    if (isAbsent) ctx.skip(reason);
    const tokenizer = open('stories260k/phi3', chatTemplates.plain);
    expect(tokenizer.applyChatTemplate(chat)).toBe(
      '<s>System:\nBe kind.\nUser:\n안녕 😀\nAssistant:\nHello.</s>\nUser:\nWhy?\nAssistant:\nBecause.</s>',
    );
    const prompt = tokenizer.applyChatTemplate(chat.slice(0, 2), { addGenerationPrompt: true });
    expect(prompt).toBe('<s>System:\nBe kind.\nUser:\n안녕 😀\nAssistant:\n');
  });

  it('what is generated from is what was trained, and the answers with their ends are what is learned', (ctx) => {
    if (isAbsent) ctx.skip(reason);
    const tokenizer = open('stories260k/phi3', chatTemplates.plain);
    const text = fc.string({ unit: 'grapheme', minLength: 1, maxLength: 20 });
    fc.assert(
      fc.property(text, text, (question, answer) => {
        const turns = [
          { role: 'user', content: question },
          { role: 'assistant', content: answer },
        ];
        const { ids, assistantMask } = tokenizer.encodeChat(turns);
        const prompt = tokenizer.chatIds(turns.slice(0, 1), { addGenerationPrompt: true });
        expect(ids.slice(0, prompt.length)).toEqual(prompt);
        expect(ids.at(-1)).toBe(tokenizer.eosTokenId);
        expect(assistantMask).toEqual(ids.map((_, i) => i >= prompt.length));
      }),
    );
  });
});

it('phi3 prints what the model of that name prints', (ctx) => {
  if (isAbsent) ctx.skip(reason);
  const [own, named] = [open('phi3-tokenizer'), open('phi3-tokenizer', chatTemplates.phi3)];
  for (const addGenerationPrompt of [true, false]) {
    const turns = chat.slice(1, addGenerationPrompt ? 2 : 5);
    expect(named.chatIds(turns, { addGenerationPrompt })).toEqual(own.chatIds(turns, { addGenerationPrompt }));
  }
});

describe('checkChatTemplate', () => {
  const all = { eosToken: '</s>', tokenToId: () => 7 };
  it('passes a tokenizer that has the tokens', () => {
    for (const name of chatTemplateNames) expect(() => checkChatTemplate(name, all)).not.toThrow();
  });
  it('names the tokens that are missing', () => {
    const bare = { eosToken: '</s>', tokenToId: () => undefined };
    expect(() => checkChatTemplate('phi3', bare)).toThrow(/<\|user\|>.*Use 'plain'/);
    expect(() => checkChatTemplate('plain', bare)).not.toThrow();
    expect(() => checkChatTemplate('plain', { tokenToId: () => undefined })).toThrow(TemplateError);
  });
});
