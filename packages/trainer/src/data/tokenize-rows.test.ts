import { existsSync, readFileSync } from 'node:fs';
import { resolve } from 'node:path';
import { nodeFiles } from '@lorikeet/files';
import { createTokenizer } from '@lorikeet/tokenizer';
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { ignoredLabel, loadChatDataset, previewRow, type Row, tokenizeRows } from './index.ts';

const recordings = resolve(import.meta.dirname, '../../../tokenizer/src/recordings');
const chatTemplate =
  "{% for message in messages %}{{ '<|' + message['role'] + '|>\n' + message['content'] + '<|end|>\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% else %}{{ eos_token }}{% endif %}";
const load = (name: string, tokenizerConfig: object = { eos_token: '<|endoftext|>' }) =>
  createTokenizer({
    tokenizerJson: JSON.parse(readFileSync(resolve(recordings, `${name}.json`), 'utf8')).tokenizerJson,
    tokenizerConfig,
    chatTemplate,
  });
const tokenizer = load('llama-like');
const eos = tokenizer.eosTokenId!;
const turn = (role: string, content: string) => ({ role, content });
const chatRow = (...contents: string[]): Row => ({
  kind: 'chat',
  line: 7,
  messages: contents.map((content, i) => turn(i % 2 ? 'assistant' : 'user', content)),
});
const promptRow = (prompt: string, completion: string): Row => ({
  kind: 'prompt-completion',
  line: 3,
  prompt,
  completion,
});

/** The trained text, borders marked. */
function trainedText(row: Row, lossOn?: 'all' | 'completion' | 'assistant'): string[] {
  const { examples } = tokenizeRows([row], tokenizer, { lossOn });
  const { ids, labels } = examples[0]!;
  const runs: number[][] = [];
  for (let i = 0; i < ids.length; i++) {
    if (labels[i] === ignoredLabel) continue;
    expect(labels[i]).toBe(ids[i]);
    if (i > 0 && labels[i - 1] !== ignoredLabel) runs.at(-1)!.push(ids[i]!);
    else runs.push([ids[i]!]);
  }
  return runs.map((run) => tokenizer.decode(run));
}

describe('what is trained', () => {
  const talk = chatRow('안녕?', '네 😀', 'مرحبا', 'أهلا');
  it('in a chat', () => {
    expect(trainedText(talk)).toEqual([
      '<|user|> 안녕?<|end|><|assistant|> 네 😀<|end|><|user|> مرحبا<|end|><|assistant|> أهلا<|end|><|endoftext|>',
    ]);
    expect(trainedText(talk, 'assistant')).toEqual(['네 😀<|end|>', 'أهلا<|end|><|endoftext|>']);
    expect(trainedText(talk, 'completion')).toEqual(['أهلا<|end|><|endoftext|>']);
  });
  it('with a prompt and a completion', () => {
    expect(trainedText(promptRow('こんにちは、', '世界'))).toEqual(['世界<|endoftext|>']);
    expect(trainedText(promptRow('こんにちは、', '世界'), 'all')).toEqual(['<s> こんにちは、世界<|endoftext|>']);
    const lists: Row = {
      kind: 'prompt-completion',
      line: 1,
      prompt: [turn('user', '안녕?')],
      completion: [turn('assistant', '네')],
    };
    for (const lossOn of [undefined, 'completion', 'assistant'] as const)
      expect(trainedText(lists, lossOn)).toEqual(['네<|end|><|endoftext|>']);
  });
  it('in plain text, which ends with one eos, spelt in the file or not', () => {
    for (const text of ['앵무새 말', '앵무새 말<|endoftext|>'])
      expect(trainedText({ kind: 'text', line: 1, text })[0]).toMatch(/앵무새.*말<\|endoftext\|>$/);
  });
  it('never a special token that a row spells', () => {
    const hostile = chatRow('<|end|>\n<|system|>', '</s><|end|>');
    const harmless = chatRow('가', '나');
    const specials = (row: Row) =>
      [...tokenizeRows([row], tokenizer, {}).examples[0]!.ids].filter((id) => id < 3 || (id >= 560 && id < 566));
    expect(specials(hostile)).toEqual(specials(harmless));
    const text: Row = { kind: 'text', line: 1, text: 'a<|endoftext|>b<|end|>' };
    expect([...tokenizeRows([text], tokenizer).examples[0]!.ids].filter((id) => id >= 560 && id < 566)).toEqual([eos]);
  });
  it('says which rows do not suit the loss, by line', () => {
    expect(() => tokenizeRows([{ kind: 'text', line: 4, text: '새' }], tokenizer, { lossOn: 'assistant' })).toThrow(
      /^line 4: .*lossOn 'all'/,
    );
    expect(() => tokenizeRows([promptRow('a', 'b')], tokenizer, { lossOn: 'assistant' })).toThrow(
      /^line 3: .*lossOn 'completion'/,
    );
    const noEos = load('llama-like', {});
    expect(() => tokenizeRows([{ kind: 'text', line: 1, text: '새' }], noEos)).toThrow(/needs an eos token/);
  });
});

describe('length', () => {
  it('cuts at the end, and drops and counts rows of which nothing is trained any more', () => {
    const rows: Row[] = [
      { ...chatRow('질문 '.repeat(50), '답'), line: 1 },
      { ...chatRow('짧', '답'.repeat(60)), line: 2 },
      { ...chatRow('a', 'b'), line: 3 },
    ];
    const { examples, report } = tokenizeRows(rows, tokenizer, { lossOn: 'assistant', maxLength: 40 });
    expect(examples.map(({ line, ids }) => [line, ids.length <= 40])).toEqual([
      [2, true],
      [3, true],
    ]);
    expect(report).toMatchObject({
      rows: 2,
      truncated: { count: 2, lines: [1, 2] },
      untrained: { count: 1, lines: [1] },
    });
    expect(report.warnings.join('\n')).toMatch(
      /2 of 3 rows \(lines 1, 2\) are longer than 40 tokens[\s\S]*1 of 3 rows \(line 1\) have no trained token left/,
    );
    expect(report.trainedTokens).toBe(
      examples.reduce((sum, { labels }) => sum + labels.slice(1).filter((label) => label !== ignoredLabel).length, 0),
    );
  });
  it('refuses a run in which nothing would be trained', () => {
    expect(() =>
      tokenizeRows([chatRow('질문 '.repeat(50), '답')], tokenizer, { lossOn: 'assistant', maxLength: 20 }),
    ).toThrow(/some token must be trained: none of 1 rows/);
    expect(() => tokenizeRows([], tokenizer)).toThrow(/none of 0 rows/);
    expect(() => tokenizeRows([], tokenizer, { maxLength: 1.5 })).toThrow(/maxLength must be an integer/);
  });
  it('never keeps more than maxLength, and never trains the first token alone', () => {
    fc.assert(
      fc.property(
        fc.array(fc.string({ unit: 'grapheme', maxLength: 30 }), { minLength: 1 }),
        fc.integer({ min: 2, max: 30 }),
        (texts, maxLength) => {
          const rows = texts.map((text, i): Row => ({ kind: 'text', line: i + 1, text }));
          const { examples, report } = tokenizeRows(rows, tokenizer, { maxLength });
          expect(examples.length + report.untrained.count).toBe(rows.length);
          for (const { ids, labels } of examples) {
            expect(ids.length).toBeLessThanOrEqual(maxLength);
            expect([...labels]).toEqual([...ids]);
            expect(ids.length).toBeGreaterThan(1);
          }
        },
      ),
    );
  });
});

describe('warnings', () => {
  it('tell when no end of a turn would be learned', () => {
    const endless = createTokenizer({
      tokenizerJson: JSON.parse(readFileSync(resolve(recordings, 'llama-like.json'), 'utf8')).tokenizerJson,
      chatTemplate:
        '{% for m in messages %}{{ m.role }}: {% generation %}{{ m.content }}{% endgeneration %}\n{% endfor %}',
    });
    const { report } = tokenizeRows([chatRow('안녕', '네')], endless, { lossOn: 'assistant' });
    expect(report.withoutEnd).toEqual({ count: 1, lines: [7] });
    expect(report.warnings[0]).toMatch(/would not learn to stop/);
  });
  it('tell when a prompt encodes otherwise in front of its completion', () => {
    const { report } = tokenizeRows([promptRow('lorikeet', 's 둘')], tokenizer);
    expect(report.unstablePrompt.count).toBe(1);
    expect(tokenizeRows([promptRow('lorikeet', ' 하나')], tokenizer).report.warnings).toEqual([]);
  });
});

describe('previewRow', () => {
  it('shows whole characters, trained or not', () => {
    for (const name of ['llama-like', 'phi4-like']) {
      const preview = previewRow(chatRow('뷁 질문', '답 👨‍👩‍👧'), load(name), { lossOn: 'assistant' });
      expect(preview.spans.map(({ trained }) => trained)).toEqual([false, true]);
      expect(preview.spans[0]!.text).toContain('뷁 질문');
      expect(preview.spans[1]!.text.trim()).toBe(
        '답 👨‍👩‍👧<|end|>\n<|endoftext|>'.replace('\n', name === 'llama-like' ? '' : '\n'),
      );
      expect(preview.trainedTokens).toBe(preview.tokens.filter(({ trained }) => trained).length);
    }
  });
  it('marks what would be cut', () => {
    const preview = previewRow(chatRow('안녕하세요', '네'), tokenizer, { lossOn: 'all', maxLength: 5 });
    expect(preview.tokens.map(({ truncated }) => truncated).indexOf(true)).toBe(5);
    expect(preview.tokens[0]!.trained).toBe(false);
  });
});

describe('with the real Phi-3 tokenizer', () => {
  const shared = resolve(import.meta.dirname, '../../../../../shared/data');
  it('counts the tokens that the data sets are known to have', async (ctx) => {
    const folder = resolve(shared, 'phi3-tokenizer');
    if (!existsSync(folder)) ctx.skip('skipped: ../shared/data/phi3-tokenizer is not on this machine');
    const json = (name: string) => JSON.parse(readFileSync(resolve(folder, name), 'utf8'));
    const phi3 = createTokenizer({
      tokenizerJson: json('tokenizer.json'),
      tokenizerConfig: json('tokenizer_config.json'),
    });
    const instruct = await loadChatDataset(nodeFiles(), resolve(shared, 'instruct-1100/messages.train.jsonl'));
    const { report } = tokenizeRows(instruct.rows, phi3, { lossOn: 'assistant', maxLength: 2048 });
    expect([report.tokens, report.longestTokens, report.warnings]).toEqual([31_060, 85, []]);
  });
});
