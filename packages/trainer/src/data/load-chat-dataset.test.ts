import { existsSync } from 'node:fs';
import { resolve } from 'node:path';
import { FormatError, memoryFiles, nodeFiles, sha256Hex } from '@lorikeet/files';
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { DatasetError, type LoadOptions, loadChatDataset } from './index.ts';

const path = 'data/rows.jsonl';
async function load(content: string | Uint8Array, options?: LoadOptions) {
  const files = memoryFiles();
  const bytes = typeof content === 'string' ? new TextEncoder().encode(content) : content;
  await files.makeDirectory('data');
  await files.append(path, bytes);
  return loadChatDataset(files, path, options);
}
const problem = async (content: string | Uint8Array, options?: LoadOptions): Promise<Error> =>
  load(content, options).then(
    () => expect.unreachable('the file was accepted'),
    (error: Error) => error,
  );
const json = (...rows: unknown[]) => rows.map((row) => JSON.stringify(row)).join('\n');
const chat = (user: string, assistant: string) => ({
  messages: [
    { role: 'user', content: user },
    { role: 'assistant', content: assistant },
  ],
});
const turns = (user: string, assistant: string) => chat(user, assistant).messages;

describe('formats', () => {
  it.each([
    ['messages', chat('안녕', '네 😀'), { kind: 'chat', messages: turns('안녕', '네 😀') }],
    [
      'conversations',
      {
        id: 1,
        conversations: [
          { from: 'system', value: '' },
          { from: 'human', value: 'مرحبا' },
          { from: 'gpt', value: 'أهلا' },
        ],
      },
      { kind: 'chat', messages: [{ role: 'system', content: '' }, ...turns('مرحبا', 'أهلا')] },
    ],
    [
      'prompt-completion',
      { prompt: 'こん', completion: 'にちは' },
      { kind: 'prompt-completion', prompt: 'こん', completion: 'にちは' },
    ],
    [
      'prompt-completion',
      { prompt: turns('a', 'b').slice(0, 1), completion: turns('a', 'b').slice(1) },
      {
        kind: 'prompt-completion',
        prompt: [{ role: 'user', content: 'a' }],
        completion: [{ role: 'assistant', content: 'b' }],
      },
    ],
    [
      'alpaca',
      { instruction: '번역', input: 'bird', output: '새' },
      { kind: 'chat', messages: turns('번역\nbird', '새') },
    ],
    [
      'alpaca',
      { instruction: '번역', input: '', output: '새', system: '짧게' },
      { kind: 'chat', messages: [{ role: 'system', content: '짧게' }, ...turns('번역', '새')] },
    ],
    ['question-answer', { question: '1+1?', answer: '#### 2' }, { kind: 'chat', messages: turns('1+1?', '#### 2') }],
    ['text', { text: '앵무새 🦜' }, { kind: 'text', text: '앵무새 🦜' }],
  ])('%s', async (format, row, expected) => {
    for (const content of [json(row, row), JSON.stringify([row, row], null, 2)]) {
      const dataset = await load(content);
      expect(dataset.format).toBe(format);
      expect(dataset.rows.map(({ line: _, ...rest }) => rest)).toEqual([expected, expected]);
      expect(dataset.sha256).toBe(sha256Hex(new TextEncoder().encode(content)));
    }
  });
  it('keeps further fields of a turn for the chat template', async () => {
    const { rows } = await load(json({ messages: [{ role: 'system', content: '', tools: '[]' }, ...turns('a', 'b')] }));
    expect(rows[0]).toMatchObject({ messages: [{ role: 'system', content: '', tools: '[]' }, {}, {}] });
  });
});

describe('lines', () => {
  const expected = [1, 3, 6];
  const text = `${json(chat('가', '나'))}\n\n${json(chat('ا', 'ب'))}\n  \t\n\n${json(chat('😀', '👍🏽'))}`;
  it.each([
    ['LF', text],
    ['LF at the end', `${text}\n\n`],
    ['CRLF', text.replaceAll('\n', '\r\n')],
    ['byte order mark', `\ufeff${text}`],
  ])('%s', async (_, content) => {
    expect((await load(content)).rows.map(({ line }) => line)).toEqual(expected);
  });
  it('of a JSON list are where its rows begin, with any white space and brackets in texts', async () => {
    await fc.assert(
      fc.asyncProperty(
        fc.array(fc.tuple(fc.string({ unit: 'binary' }), fc.stringMatching(/^[ \n\r\t]{0,4}$/)), { minLength: 1 }),
        async (rows) => {
          const lines: number[] = [];
          let content = '[';
          for (const [i, [value, space]] of rows.entries()) {
            content += `${space}`;
            lines.push(content.split('\n').length);
            content += `${JSON.stringify({ text: `${value}"[\\{`, other: [1, [2]] }, null, 1)}${space}${i < rows.length - 1 ? ',' : ''}`;
          }
          expect((await load(`${content}\n]`)).rows.map(({ line }) => line)).toEqual(lines);
        },
      ),
    );
  });
  it('across the pieces in which a file is read', async () => {
    const rows = Array.from({ length: 40 }, (_, i) => ({ text: `${'한'.repeat(60_000)}${i}` }));
    const dataset = await load(json(...rows));
    expect(dataset.rows.map((row) => row.kind === 'text' && row.text)).toEqual(rows.map(({ text }) => text));
  });
});

describe('what is refused, with file and line', () => {
  it.each([
    ['an empty file', '', /^data\/rows.jsonl: a data file must hold rows: it is empty/],
    ['blank lines', '\n \r\n\n', /it is empty/],
    ['an empty list', '[]', /it is empty/],
    [
      'UTF-16 with a mark',
      new Uint8Array([0xff, 0xfe, 0x7b, 0, 0x7d, 0]),
      /^data\/rows.jsonl:1: must be UTF-8: it is UTF-16/,
    ],
    ['UTF-16 without', new Uint8Array([0x7b, 0, 0x7d, 0]), /it is UTF-16/],
    ['bytes that are not UTF-8', new Uint8Array([0x7b, 0xff, 0x7d]), /rows.jsonl:1: must be UTF-8/],
    ['a broken list', '[{"text": "가"},\n {"text": }]', /rows.jsonl:2:11: must be JSON/],
    [
      'a list inside an object',
      JSON.stringify({ data: [{ text: '가' }] }, null, 2),
      /rows.jsonl:1: must be a list of rows/,
    ],
    ['one bad row and its line end', '{"messages": []}\n', /rows.jsonl:1: messages must be a list of turns/],
    ['a list of texts', '["가"]', /rows.jsonl:1: must have the fields of a known format/],
  ])('%s', async (_, content, message) => {
    const error = await problem(content);
    expect(error).toBeInstanceOf(FormatError);
    expect(error.message).toMatch(message);
  });
  it.each([
    ['a NUL byte', '{"text": "a\0b"}', 'rows.jsonl:2: must be JSON: there is a NUL byte at column 12'],
    ['half an object', '{"text": "가', 'rows.jsonl:2: must be JSON: unterminated string at column 10'],
    ['a number', '17', 'rows.jsonl:2: must be an object with the fields of "text": got a number'],
    [
      'another format',
      json(chat('a', 'b')),
      'rows.jsonl:2: must have the fields of "text", like the first row: got those of "messages"',
    ],
    ['null', '{"text": null}', 'rows.jsonl:2: text must be a text: got null'],
  ])('%s', async (_, line, message) => {
    expect((await problem(`{"text": "첫째"}\n${line}\n`)).message).toContain(message);
  });
  it.each([
    [{ messages: [] }, 'messages must be a list of turns: got an empty list'],
    [{ messages: 'x' }, 'messages must be a list of turns: got a text'],
    [{ messages: [{ role: 'user' }] }, 'messages[0].content must be a text: got nothing'],
    [{ messages: [{ role: 'user', content: null }] }, 'messages[0].content must be a text: got null'],
    [{ messages: [{ role: 'user', content: 5 }] }, 'messages[0].content must be a text: got a number'],
    [{ messages: [{ role: 'user', content: ['a'] }] }, 'messages[0].content must be a text: got a list'],
    [{ messages: [{ role: 'robot', content: 'a' }] }, 'messages[0].role must be one of system, user,'],
    [
      { messages: [{ role: 'a secret', content: 'a' }] },
      'messages[0].role must be one of system, user, human, assistant, gpt, chatgpt, model: got a text',
    ],
    [{ messages: ['a'] }, 'messages[0] must be an object: got a text'],
    [{ messages: [{ role: 'user', content: 'a' }] }, 'must have a turn of the assistant'],
    [{ conversations: [{ from: 'gpt' }] }, 'conversations[0].value must be a text: got nothing'],
    [{ prompt: 'a', completion: [] }, 'prompt and completion must both be texts or both be lists'],
    [
      { prompt: [{ role: 'user', content: 'a' }], completion: [{ role: 'user', content: 'a' }] },
      'completion must hold a turn of the assistant',
    ],
    [{ instruction: 'a', input: 3, output: 'b' }, 'input must be a text: got a number'],
  ])('row %#', async (row, message) => {
    expect((await problem(json(row))).message).toContain(`rows.jsonl:1: ${message}`);
  });
  it('a line that is too long, without holding it', async () => {
    const error = await problem(`${json({ text: '새' })}\n${json({ text: 'x'.repeat(300) })}\n`, { maxLineBytes: 200 });
    expect(error.message).toContain('rows.jsonl:2: must be at most 200 bytes long: it is longer');
    expect((await problem(`[${json({ text: '새' })}]`, { maxJsonBytes: 9 })).message).toContain('Save it as JSONL');
  });
  it('the first twenty of many, with their number, and nothing that a row says', async () => {
    const lines = Array.from({ length: 100 }, (_, i) =>
      i % 2
        ? '{"messages": 비밀}'
        : json({ messages: [{ role: 'canary-7f3a-not-to-be-told', content: 'canary-7f3a' }] }),
    );
    const error = (await problem(lines.join('\n'))) as DatasetError;
    expect(error).toBeInstanceOf(DatasetError);
    expect(error.problemCount).toBe(100);
    expect(error.message.match(/rows\.jsonl:\d+: /g)).toHaveLength(20);
    expect(error.message).toMatch(/100 of 100 are not[\s\S]*\.\.\. and 80 more\.$/);
    expect(error.message).not.toMatch(/canary|비밀/);
  });
  it("is left out and counted with onBadRow 'skip', unless nothing else is there", async () => {
    const rows = [...Array(811).fill(json(chat('안', '녕'))), '{', ...Array(10).fill(json(chat('b', 'c')))];
    expect((await problem(rows.join('\n'))).message).toContain('1 of 822 are not');
    const dataset = await load(rows.join('\n'), { onBadRow: 'skip' });
    expect([dataset.rows.length, dataset.skipped.count, dataset.skipped.problems[0]?.line]).toEqual([821, 1, 812]);
    expect((await problem('{', { onBadRow: 'skip' })).message).toContain('1 of 1 is not');
  });
});

describe('texts', () => {
  it('have half surrogate pairs read as U+FFFD and keep an escaped NUL', async () => {
    const { rows } = await load('{"text": "\\ud83d 가 \\u0000 \\ud83d\\ude00"}');
    expect(rows[0]).toMatchObject({ text: '\ufffd 가 \0 😀' });
  });
  it('named __proto__ change no object', async () => {
    await problem('{"messages": [{"__proto__": {"polluted": 1}, "role": "user", "content": "a"}]}');
    await load('{"__proto__": {"polluted": 1}, "text": "새"}');
    expect(({} as Record<string, unknown>).polluted).toBeUndefined();
  });
});

const shared = resolve(import.meta.dirname, '../../../../../shared/data');
describe('files that others made', () => {
  const cases = [
    ['instruct-1100/instruction-data.json', 'alpaca', 1100],
    ['instruct-1100/messages.train.jsonl', 'messages', 935],
    ['oasst-en100/messages.train.jsonl', 'messages', 477],
    ['gsm8k/test.jsonl', 'question-answer', 1319],
    ['wikisql-mlx/train.jsonl', 'text', 1000],
    ['format-samples/alpaca-identity.json', 'alpaca', 91],
    ['format-samples/sharegpt-fastchat-dummy.json', 'conversations', 500],
  ] as const;
  for (const [name, format, count] of cases)
    it(name, async (ctx) => {
      const file = resolve(shared, name);
      if (!existsSync(file)) ctx.skip(`skipped: ../shared/data/${name} is not on this machine`);
      const dataset = await loadChatDataset(nodeFiles(), file);
      expect([dataset.format, dataset.rows.length, dataset.skipped.count]).toEqual([format, count, 0]);
    });
});
