import { cp, mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { readRecordings } from './recording.ts';

const recordings = join(import.meta.dirname, 'recordings');
let copy = '';

beforeAll(async () => {
  copy = await mkdtemp(join(tmpdir(), 'conformance-'));
  await cp(join(recordings, 'trainer'), join(copy, 'trainer'), { recursive: true });
});
afterAll(() => rm(copy, { recursive: true }));

test('a recording whose generator changed is refused with the command that makes it anew', async () => {
  const path = join(copy, 'trainer', 'recording.json');
  const manifest = JSON.parse(await readFile(path, 'utf8')) as { generatorSha256: string };
  await writeFile(path, JSON.stringify({ ...manifest, generatorSha256: manifest.generatorSha256.replace(/^./, 'x') }));
  await expect(readRecordings(copy)).rejects.toThrow('Run reference/record.py --only trainer and commit both.');
});

test('a family that was never recorded is an error, not an empty table', async () => {
  await expect(readRecordings(recordings, new Set(['opz']))).rejects.toThrow('no recording of opz');
});
