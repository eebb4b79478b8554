import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, expect, test } from 'vitest';
import { checkBundleBudgets } from './bundle-budgets.ts';

const root = mkdtempSync(join(tmpdir(), 'lorikeet-check-'));
afterAll(() => rmSync(root, { recursive: true }));

const problemsOf = async (text: string, most: number) => {
  mkdirSync(join(root, 'p/src'), { recursive: true });
  writeFileSync(join(root, 'p/src/index.ts'), text);
  const budgets = { maxFileLines: 1, maxSourceLines: {}, maxBundleGzipBytes: { p: most } };
  return (await checkBundleBudgets(root, budgets)).problems.map(({ message }) => message);
};

test('a bundle over its budget fails', async () => {
  const noise = Array.from({ length: 400 }, (_, i) => `export const n${i} = ${Math.sin(i + 1)};`).join('\n');
  expect(await problemsOf(noise, 100)).toEqual([expect.stringMatching(/has \d{4} bytes gzipped, its budget is 100/)]);
  expect(await problemsOf(noise, 100_000)).toEqual([]);
});

test('what a browser cannot have does not bundle', async () => {
  expect(await problemsOf("import { readFileSync } from 'node:fs';\nexport { readFileSync };", 100_000)).toEqual([
    expect.stringContaining('does not bundle for a browser'),
  ]);
});
