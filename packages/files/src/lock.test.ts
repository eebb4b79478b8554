import { spawnSync } from 'node:child_process';
import { mkdtempSync, rmSync } from 'node:fs';
import { hostname, tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, describe, expect, test } from 'vitest';
import { LockError } from './errors.ts';
import { acquireLock, lockInBrowser, lockName } from './lock.ts';
import { memoryFiles } from './memory-files.ts';
import { nodeFiles } from './node-files.ts';
import { writeJson } from './write-atomic.ts';

const directory = mkdtempSync(join(tmpdir(), 'lorikeet-lock-'));
afterAll(() => rmSync(directory, { recursive: true, force: true }));

const owner = (pid: number, host = hostname()) => ({ pid, host, token: '00' });
const refusal = async (promise: Promise<unknown>): Promise<LockError> => {
  const error = await promise.catch((reason: unknown) => reason);
  expect(error).toBeInstanceOf(LockError);
  return error as LockError;
};

describe('acquireLock', () => {
  test('a second one is refused with the pid until the first is released', async () => {
    const files = nodeFiles(directory);
    const lock = await acquireLock(files, '');
    expect(lock.notice).toBeUndefined();
    const error = await refusal(acquireLock(files, ''));
    expect(error).toMatchObject({ pid: process.pid, code: 'ELOCKED' });
    expect(error.message).toContain(`process ${process.pid} holds it`);
    await lock.release();
    await lock.release();
    expect(await files.list('')).toEqual([]);
    await using again = await acquireLock(files, '');
    expect(again.notice).toBeUndefined();
  });

  test('a living process of this machine holds it; its pid is told', async () => {
    const files = memoryFiles();
    await writeJson(files, lockName, owner(process.ppid));
    expect((await refusal(acquireLock(files, ''))).pid).toBe(process.ppid);
  });

  test('the lock of a killed process is taken over with a notice', async () => {
    const module = join(import.meta.dirname, 'index.ts');
    const program = `
      const { acquireLock, nodeFiles } = await import(${JSON.stringify(module)});
      await acquireLock(nodeFiles(), ${JSON.stringify(directory)});
      process.kill(process.pid, 'SIGKILL');`;
    const child = spawnSync(process.execPath, ['--input-type=module', '-e', program]);
    expect(child.signal).toBe('SIGKILL');
    const files = nodeFiles(directory);
    expect(await files.list('')).toEqual([lockName]);
    await using lock = await acquireLock(files, '');
    expect(lock.notice).toBe(`took over the lock of . from process ${child.pid}, which is gone`);
    expect(await files.list('')).toEqual([lockName]);
  });

  test('our own pid in a lock we do not hold is a dead process, as in a container', async () => {
    const files = memoryFiles();
    await writeJson(files, lockName, owner(process.pid));
    const lock = await acquireLock(files, '');
    expect(lock.notice).toContain('took over');
    await lock.release();
    expect(await files.list('')).toEqual([]);
  });

  test('another machine cannot be asked: refused with its name', async () => {
    const files = memoryFiles();
    await writeJson(files, lockName, owner(1, 'other-host'));
    expect((await refusal(acquireLock(files, ''))).message).toContain('process 1 on other-host');
  });

  test.each(['', '{}', '[1]', 'null', '{"pid":"x"}', 'garbage'])(
    'a lock file that says %j is refused, not removed',
    async (text) => {
      const files = memoryFiles();
      await files.append(lockName, new TextEncoder().encode(text));
      const error = await refusal(acquireLock(files, ''));
      expect(error.pid).toBeUndefined();
      expect(error.message).toMatch(/Delete it if no other run/);
      expect(await files.exists(lockName)).toBe(true);
    },
  );

  test('of ten that find the same dead lock one wins', async () => {
    const files = memoryFiles();
    await writeJson(files, lockName, owner(999_999_999));
    const results = await Promise.allSettled(Array.from({ length: 10 }, () => acquireLock(files, '')));
    expect(results.filter(({ status }) => status === 'fulfilled')).toHaveLength(1);
    for (const result of results) if (result.status === 'rejected') expect(result.reason).toBeInstanceOf(LockError);
  });

  test('release does not remove a lock that is no longer ours', async () => {
    const files = memoryFiles();
    const lock = await acquireLock(files, '');
    await writeJson(files, lockName, owner(process.ppid));
    await lock.release();
    expect(await files.exists(lockName)).toBe(true);
  });
});

describe('lockInBrowser', () => {
  test('a Web Lock keeps a second tab out until it is released', async () => {
    const locks = globalThis.navigator.locks; // Node has the browser's Web Locks since 24.5
    const lock = await lockInBrowser('run', locks);
    expect((await refusal(lockInBrowser('run', locks))).message).toContain('another tab holds it');
    await lock.release();
    await (await lockInBrowser('run', locks)).release();
  });

  test('says so where there are none', async () => {
    expect((await lockInBrowser('run', undefined)).notice).toContain('no Web Locks');
  });
});
