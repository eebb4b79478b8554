import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, test, vi } from 'vitest';
import { openBackend } from './open-backend.ts';

let dir: string;
beforeEach(async () => {
  dir = await mkdtemp(join(tmpdir(), 'lorikeet-tuning-'));
});
afterEach(async () => {
  vi.unstubAllEnvs();
  await rm(dir, { recursive: true });
});

async function withTable(text: string) {
  const path = join(dir, 'tuning.json');
  await writeFile(path, text);
  vi.stubEnv('LORIKEET_TUNING', path);
  return openBackend({ device: 'cpu', threads: 1 });
}

test('the table that LORIKEET_TUNING names is in use', async () => {
  const parameters = { 'matmul.plainTile': '4x16', 'matmul.pairedTile': '4x16' };
  const backend = await withTable(JSON.stringify({ version: 1, hardware: 'a test', date: '2026-11-26', parameters }));
  expect(backend.describe()).toMatchObject({ matmulTile: '4x16', tuning: 'a test, 2026-11-26' });
  await backend.close();
});

test('a table that is none is refused with its reason', async () => {
  await expect(withTable('{"version": 9}')).rejects.toMatchObject({
    exitCode: 2,
    details: { found: expect.stringContaining('version must be 1: got 9') },
  });
  vi.stubEnv('LORIKEET_TUNING', join(dir, 'absent.json'));
  await expect(openBackend({ device: 'cpu' })).rejects.toThrow('must name a tuning table');
});
