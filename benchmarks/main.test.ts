/** The whole program on its cheapest case: what it writes. */
import { execFileSync } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterEach, expect, test } from 'vitest';

const program = fileURLToPath(new URL('./main.ts', import.meta.url));
const folder = mkdtempSync(join(tmpdir(), 'lorikeet-bench-test-'));
afterEach(() => rmSync(folder, { recursive: true, force: true }));

test('one round of a small case, beside ourselves in another host, as JSON rows and a Markdown table', () => {
  const json = join(folder, 'rows.json');
  const args = ['--rounds', '1', '--no-peers', '--host', 'library', '--threads', '1,2', '--filter', 'sum over axis 1'];
  execFileSync(process.execPath, [program, ...args, '--json', json], { stdio: ['ignore', 'ignore', 'inherit'] });
  const rows = JSON.parse(readFileSync(json, 'utf8')) as Record<string, unknown>[];
  expect(rows.map(({ threads }) => threads)).toEqual([1, 2]);
  for (const row of rows) {
    const keys = ['name', 'shape', 'threads', 'unit', 'ours', 'limit', 'fractionOfLimit', 'peers', 'runs', 'spread'];
    expect(Object.keys(row)).toEqual(keys);
    expect(row).toMatchObject({ name: 'sum over axis 1', unit: 'GB/s', runs: 1, spread: 0 });
    expect(row.ours).toBeGreaterThan(0);
    expect(row.limit).toBeGreaterThanOrEqual(row.ours as number);
  }
  const beside = rows[0]!.peers as Record<string, object>;
  expect(Object.keys(beside)).toEqual(['lorikeet, not paired']);
  expect(Object.keys(Object.values(beside)[0]!)).toEqual(['version', 'value', 'ratio']);
  expect(Object.keys(rows[1]!.peers as object)).toEqual(['lorikeet, 1 thread']);
  const markdown = readFileSync(join(folder, 'rows.md'), 'utf8');
  expect(markdown).toContain('- processor: ');
  expect(markdown).toContain('| sum over axis 1 | 4096 x 3072; 1 arrays moved | 2 | GB/s |');
});
