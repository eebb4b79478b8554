/** Ids, texts, chats and masks equal those of Hugging Face's Python libraries, as recorded by conformance/reference/tokenizer_fixtures.py. */
import { createHash } from 'node:crypto';
import { existsSync, readFileSync } from 'node:fs';
import { resolve } from 'node:path';
import { describe, expect, it, type TestContext } from 'vitest';
import { type ChatMessage, createTokenizer, type Tokenizer } from './index.ts';

interface ChatRecord {
  messages: ChatMessage[];
  text: string;
  ids: number[];
  assistantMask: number[];
  promptIds: number[];
}
interface Trained {
  tokenizerJson: object;
  texts: { text: string; ids: number[]; decoded: string }[];
  withSpecialTokens: number[];
  decoded: { ids: number[]; text: string; plain: string }[];
  trainingTemplate: string;
  chats: ChatRecord[];
}

const repositoryRoot = resolve(import.meta.dirname, '../../..');
const shared = resolve(repositoryRoot, '../shared/data');
const readJson = (path: string) => JSON.parse(readFileSync(path, 'utf8'));
const fixture = (name: string) => readJson(resolve(import.meta.dirname, 'recordings', name));

/** The templates of the model repositories; TRL's training variants print the same text with generation tags. */
const phi3Template =
  "{% for message in messages %}{% if message['role'] == 'system' %}{{'<|system|>\n' + message['content'] + '<|end|>\n'}}{% elif message['role'] == 'user' %}{{'<|user|>\n' + message['content'] + '<|end|>\n'}}{% elif message['role'] == 'assistant' %}{{'<|assistant|>\n' + message['content'] + '<|end|>\n'}}{% endif %}{% endfor %}{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% else %}{{ eos_token }}{% endif %}";
const phi4Template =
  "{% for message in messages %}{% if message['role'] == 'system' and 'tools' in message and message['tools'] is not none %}{{ '<|' + message['role'] + '|>' + message['content'] + '<|tool|>' + message['tools'] + '<|/tool|>' + '<|end|>' }}{% else %}{{ '<|' + message['role'] + '|>' + message['content'] + '<|end|>' }}{% endif %}{% endfor %}{% if add_generation_prompt %}{{ '<|assistant|>' }}{% else %}{{ eos_token }}{% endif %}";

function mask(bits: readonly boolean[]): number[] {
  return bits.map(Number);
}

/** Where an answer begins with white space that `<|assistant|>` swallows, Transformers trains `<|assistant|>` as well; we do not. */
function withoutHeaders(record: ChatRecord, header: number | undefined): number[] {
  return record.assistantMask.map((bit, i) => (record.ids[i] === header ? 0 : bit));
}

function expectChats(tokenizer: Tokenizer, records: readonly ChatRecord[]) {
  for (const record of records) {
    expect(tokenizer.applyChatTemplate(record.messages)).toBe(record.text);
    const chat = tokenizer.encodeChat(record.messages);
    expect(chat.ids).toEqual(record.ids);
    expect(mask(chat.assistantMask), JSON.stringify(record.text)).toEqual(
      withoutHeaders(record, tokenizer.tokenToId('<|assistant|>')),
    );
    expect(tokenizer.chatIds(record.messages, { addGenerationPrompt: true })).toEqual(record.promptIds);
  }
}

describe.each([
  ['llama-like.json', phi3Template],
  ['phi4-like.json', phi4Template],
])('a tokenizer trained by Python: %s', (name, chatTemplate) => {
  const python: Trained = fixture(name);
  const config = { eos_token: '<|endoftext|>' };
  const load = (template: string) =>
    createTokenizer({ tokenizerJson: python.tokenizerJson, tokenizerConfig: config, chatTemplate: template });
  const tokenizer = load(chatTemplate);

  it('gives the ids of each text', () => {
    for (const { text, ids } of python.texts)
      expect(tokenizer.encode(text, { addSpecialTokens: false, allowSpecial: true }), JSON.stringify(text)).toEqual(
        ids,
      );
  });
  it('gives the text of each list of ids', () => {
    for (const { ids, decoded } of python.texts) expect(tokenizer.decode(ids)).toBe(decoded);
  });
  it('decodes random ids, broken UTF-8 included', () => {
    for (const { ids, text, plain } of python.decoded) {
      expect(tokenizer.decode(ids)).toBe(text);
      expect(tokenizer.decode(ids, { skipSpecialTokens: true })).toBe(plain);
    }
  });
  it('adds what the post-processor adds', () => {
    expect(tokenizer.encode('앵무새 parrot')).toEqual(python.withSpecialTokens);
  });
  it("renders chats and masks them as TRL's training template does, from the model's own template", () => {
    expectChats(tokenizer, python.chats);
  });
  it('honours {% generation %} tags', () => {
    expectChats(load(python.trainingTemplate), python.chats);
  });
});

function phi3(ctx: TestContext): Tokenizer {
  const folder = resolve(shared, 'phi3-tokenizer');
  if (!existsSync(folder)) ctx.skip('skipped: ../shared/data/phi3-tokenizer is not on this machine');
  return createTokenizer({
    tokenizerJson: readJson(resolve(folder, 'tokenizer.json')),
    tokenizerConfig: readJson(resolve(folder, 'tokenizer_config.json')),
  });
}

function* strings(value: unknown): Generator<string> {
  if (typeof value === 'string') yield value;
  else if (typeof value === 'object' && value !== null) for (const item of Object.values(value)) yield* strings(item);
}

function datasetTexts(path: string): string[] {
  const text = readFileSync(path, 'utf8');
  const lines = text.split('\n');
  if (path.endsWith('.txt')) return lines.filter((line) => line !== '');
  return [
    ...strings(
      path.endsWith('.jsonl') ? lines.filter((line) => line.trim()).map((line) => JSON.parse(line)) : JSON.parse(text),
    ),
  ];
}

function idsSum(lists: Iterable<readonly number[]>): string {
  const hash = createHash('sha256');
  for (const ids of lists) hash.update(`${ids.join(',')}\n`);
  return hash.digest('hex');
}

describe('the real Phi-3 tokenizer', () => {
  const python: {
    stride: number;
    texts: { text: string; ids: number[] }[];
    stories260k: { text: string; ids: number[] }[];
    chats: ChatRecord[];
    datasets: Record<string, { strided: string; all: string }>;
    datasetChats: Record<string, { ids: string; assistantMask: string }>;
  } = fixture('phi3-real.json');

  it('gives the ids of each text', (ctx) => {
    const tokenizer = phi3(ctx);
    for (const { text, ids } of python.texts)
      expect(tokenizer.encode(text, { allowSpecial: true }), JSON.stringify(text)).toEqual(ids);
  });
  it('renders, encodes and masks chats', (ctx) => {
    expectChats(phi3(ctx), python.chats);
  });
  it('gives the ids of every fifth text of the data sets (all of them with LORIKEET_ALL_TEXTS=1)', (ctx) => {
    const tokenizer = phi3(ctx);
    const all = process.env.LORIKEET_ALL_TEXTS === '1';
    for (const [name, sums] of Object.entries(python.datasets)) {
      const texts = datasetTexts(resolve(shared, name)).filter((_, i) => all || i % python.stride === 0);
      const ids = texts.map((text) => tokenizer.encode(text, { addSpecialTokens: false, allowSpecial: true }));
      expect(idsSum(ids), name).toBe(all ? sums.all : sums.strided);
    }
  }, 300_000);
  it('gives ids and masks of the chats of the data sets', (ctx) => {
    const tokenizer = phi3(ctx);
    for (const [name, sums] of Object.entries(python.datasetChats)) {
      const lines = readFileSync(resolve(shared, name), 'utf8').split('\n').filter(Boolean);
      const chats = lines
        .filter((_, i) => i % python.stride === 0)
        .map((line) => tokenizer.encodeChat(JSON.parse(line).messages));
      expect(idsSum(chats.map(({ ids }) => ids)), name).toBe(sums.ids);
      expect(idsSum(chats.map(({ assistantMask }) => mask(assistantMask))), name).toBe(sums.assistantMask);
    }
  });
  it('gives the ids of stories260K, BOS included', (ctx) => {
    const path = resolve(shared, 'stories260k/phi3/tokenizer.json');
    if (!existsSync(path)) ctx.skip('skipped: ../shared/data/stories260k is not on this machine');
    const tokenizer = createTokenizer({ tokenizerJson: readJson(path) });
    for (const { text, ids } of python.stories260k) expect(tokenizer.encode(text, { allowSpecial: true })).toEqual(ids);
  });
});
