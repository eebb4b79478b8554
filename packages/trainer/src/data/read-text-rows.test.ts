import { FormatError, memoryFiles, sha256Hex } from '@lorikeet/files';
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { DatasetError, type LoadOptions, loadChatDataset } from './index.ts';

async function load(content: string | Uint8Array, options?: LoadOptions, path = 'data/stories.txt') {
  const files = memoryFiles();
  const bytes = typeof content === 'string' ? new TextEncoder().encode(content) : content;
  await files.makeDirectory('data');
  await files.append(path, bytes);
  return { ...(await loadChatDataset(files, path, options)), bytes };
}
const textsOf = async (content: string, options?: LoadOptions) =>
  (await load(content, options)).rows.map((row) => [row.line, row.kind === 'text' ? row.text : row.kind]);

describe('plain text', () => {
  it('is a row a paragraph where blank lines part it', async () => {
    const text = '\ufeff옛날 옛적에\r\n토끼가 살았다.\r\n\r\n \t\r\n  めでたし 🐇\n\nمرحبا';
    expect(await textsOf(text)).toEqual([
      [1, '옛날 옛적에\n토끼가 살았다.'],
      [5, '  めでたし 🐇'],
      [7, 'مرحبا'],
    ]);
    const { format, sha256, bytes, skipped } = await load(text);
    expect([format, sha256, skipped.count]).toEqual(['text', sha256Hex(bytes), 0]);
  });

  it('is a row a line without blank lines, and where they are slips in a long list', async () => {
    expect(await textsOf('a\nb\n')).toEqual([
      [1, 'a'],
      [2, 'b'],
    ]);
    const long = Array.from({ length: 100 }, (_, i) => (i === 50 ? '' : `row ${i}`)).join('\n');
    const rows = await textsOf(long);
    expect(rows).toHaveLength(99);
    expect(rows[50]).toEqual([52, 'row 51']);
  });

  it('is what sampleBy says', async () => {
    expect(await textsOf('a\nb\n\nc', { sampleBy: 'line' })).toHaveLength(3);
    expect(await textsOf('a\nb', { sampleBy: 'paragraph' })).toEqual([[1, 'a\nb']]);
  });

  it('any text: every line that is not blank is in one row, at its place', async () => {
    const line = fc.string({ unit: 'grapheme', maxLength: 8 }).map((text) => text.replace(/[\r\n\ufeff]/g, ''));
    const lines = fc
      .array(line, { minLength: 1, maxLength: 30 })
      .filter((all) => all.some((text) => text.trim() !== ''));
    await fc.assert(
      fc.asyncProperty(lines, fc.constantFrom('line' as const, 'paragraph' as const), async (all, sampleBy) => {
        // A file that opens as JSON does is read as JSON.
        const rows = await textsOf(`-${all.join('\n')}`, { sampleBy });
        const expected = [`-${all[0]}`, ...all.slice(1)];
        const found = rows.flatMap(([at, text]) =>
          (text as string).split('\n').map((part, i) => [(at as number) + i, part]),
        );
        expect(found).toEqual(expected.flatMap((text, i) => (text.trim() === '' ? [] : [[i + 1, text]])));
      }),
    );
  });
});

describe('what is no plain text', () => {
  it('JSON rows in a .txt file are rows', async () => {
    const row = '{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}';
    expect((await load(row)).format).toBe('messages');
    expect((await load(`[ ${row} ]`)).format).toBe('messages');
  });

  it('bytes that are no UTF-8 are named by line; skipped with their paragraph', async () => {
    const bad = new Uint8Array([0x61, 0x0a, 0x0a, 0x62, 0xff, 0x0a, 0x63, 0x0a, 0x0a, 0x64]);
    await expect(load(bad)).rejects.toThrow(DatasetError);
    await expect(load(bad)).rejects.toThrow(/stories\.txt:3: must be UTF-8/);
    const { rows, skipped } = await load(bad, { onBadRow: 'skip' });
    expect(rows.map(({ line }) => line)).toEqual([1, 6]);
    expect(skipped.count).toBe(1);
  });

  it('UTF-16, an empty file and a line without end are refused', async () => {
    await expect(load(new Uint8Array([0xff, 0xfe, 0x61, 0]))).rejects.toThrow(/UTF-16/);
    await expect(load(' \n\n')).rejects.toThrow(FormatError);
    await expect(load('a'.repeat(100), { maxLineBytes: 50 })).rejects.toThrow(/at most 50 bytes/);
  });
});
