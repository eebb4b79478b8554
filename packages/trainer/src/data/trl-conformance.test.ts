/** Ids, labels, truncation, dropped rows and packing equal TRL's, as recorded by conformance/reference/dataset_fixtures.py. */
import { readFileSync } from 'node:fs';
import { resolve } from 'node:path';
import { memoryFiles } from '@lorikeet/files';
import { createTokenizer } from '@lorikeet/tokenizer';
import { describe, expect, it } from 'vitest';
import { type LossOn, loadChatDataset, packExamples, tokenizeRows } from './index.ts';

const read = (path: string) => JSON.parse(readFileSync(resolve(import.meta.dirname, path), 'utf8'));
const recorded: {
  maxLength: number;
  chatTemplate: string;
  cases: { format: string; rows: object[]; lossOn: LossOn | null; examples: { ids: number[]; labels: number[] }[] }[];
  packing: { lengths: number[]; maxLength: number; bins: number[][] }[];
} = read('recordings/trl.json');
const tokenizer = createTokenizer({
  tokenizerJson: read('../../../tokenizer/src/recordings/llama-like.json').tokenizerJson,
  tokenizerConfig: { eos_token: '<|endoftext|>', pad_token: '<unk>' },
  chatTemplate: recorded.chatTemplate,
});

describe('rows are tokenized and masked as TRL does', () => {
  for (const [index, { format, rows, lossOn, examples }] of recorded.cases.entries())
    it(`${index}: ${format}, loss on ${lossOn ?? 'the default'}`, async () => {
      const files = memoryFiles();
      await files.append('rows.jsonl', new TextEncoder().encode(rows.map((row) => JSON.stringify(row)).join('\n')));
      const dataset = await loadChatDataset(files, 'rows.jsonl');
      expect(dataset.format).toBe(format);
      const ours = tokenizeRows(dataset.rows, tokenizer, {
        lossOn: lossOn ?? undefined,
        maxLength: recorded.maxLength,
      });
      expect(ours.examples.map(({ ids, labels }) => ({ ids: [...ids], labels: [...labels] }))).toEqual(examples);
    });
});

describe('packing fills bins as TRL does', () => {
  for (const [index, { lengths, maxLength, bins }] of recorded.packing.entries())
    it(`list ${index}`, () => {
      const ours = packExamples(lengths, maxLength).map((bin) => bin.map((example) => lengths[example]!));
      expect(ours.map(String).sort()).toEqual(bins.map(String).sort());
    });
});
