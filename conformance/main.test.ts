/** The runner fails where it compared nothing: a misspelt option must not look like agreement. */
import { execFile } from 'node:child_process';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, test } from 'vitest';

let dir: string;
beforeAll(async () => {
  dir = await mkdtemp(join(tmpdir(), 'conformance-'));
});
afterAll(() => rm(dir, { recursive: true }));

const run = (...args: readonly string[]): Promise<{ code: number; text: string }> =>
  new Promise((done) => {
    const all = [join(import.meta.dirname, 'main.ts'), ...args, '--report', join(dir, 'report.json')];
    const child = execFile(process.execPath, all, (_, stdout, stderr) =>
      done({ code: child.exitCode ?? -1, text: stdout + stderr }),
    );
  });

test.each([
  [['--family', 'dta'], /--family: must be one of ops, .*: got dta/],
  [['--backend', 'gpu'], /--backend: must be one of .*: got gpu/],
  [['--family', 'data', '--backend', 'cpu', '--case', 'no such case'], /nothing was compared[\s\S]*0 passed, 1 failed/],
] as const)('%j', async (args, message) => {
  const { code, text } = await run(...args);
  expect(text).toMatch(message);
  expect(code).toBe(1);
});

test('a case that is there passes', async () => {
  const { code, text } = await run('--family', 'data', '--backend', 'cpu', '--case', 'rouge');
  expect(text).toMatch(/[1-9]\d* passed, 0 failed, 0 skipped/);
  expect(code).toBe(0);
});
