import { spawnSync } from 'node:child_process';
import { mkdtempSync, rmSync, symlinkSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, describe, expect, test } from 'vitest';
import { FileError } from './errors.ts';
import { faultyFiles } from './faulty-files.ts';
import type { FileSystem } from './file-system.ts';
import { memoryFiles } from './memory-files.ts';
import { nodeFiles } from './node-files.ts';
import { opfsFiles } from './opfs-files.ts';
import { joinPath } from './paths.ts';
import { opfsStandIn } from './testing/opfs-stand-in.ts';

const made: string[] = [];
afterEach(() => {
  for (const dir of made.splice(0)) rmSync(dir, { recursive: true, force: true });
});
function temporaryDirectory(): string {
  const dir = mkdtempSync(join(tmpdir(), 'lorikeet files ✨ '));
  made.push(dir);
  return dir;
}

const bytes = (text: string): Uint8Array => new TextEncoder().encode(text);
const text = (data: Uint8Array): string => new TextDecoder().decode(data);
const code = (promise: Promise<unknown>): Promise<unknown> =>
  promise.then(
    () => 'no error',
    (error: unknown) => {
      expect(error).toBeInstanceOf(FileError);
      return (error as FileError).code;
    },
  );

async function write(files: FileSystem, path: string, ...chunks: string[]): Promise<void> {
  const writer = await files.openWrite(path);
  for (const chunk of chunks) await writer.write(bytes(chunk));
  await writer.sync();
  await writer.close();
}

// One behaviour for all: [name, file system, directory to work in].
const systems: [string, () => [FileSystem, string]][] = [
  ['node', () => [nodeFiles(), temporaryDirectory()]],
  ['node with a root', () => [nodeFiles(temporaryDirectory()), '']],
  ['memory', () => [memoryFiles(), '']],
  ['memory with power loss', () => [memoryFiles({ simulatePowerLoss: true }), '']],
  ['faulty without a fault', () => [faultyFiles(memoryFiles(), {}), '']],
  ['OPFS on a page', () => [opfsFiles(opfsStandIn()), '']],
  ['OPFS in a worker', () => [opfsFiles(opfsStandIn({ syncHandles: true, move: true })), '']],
];

describe.each(systems)('FileSystem: %s', (_name, make) => {
  function setUp(): { files: FileSystem; at: (name: string) => string } {
    const [files, dir] = make();
    return { files, at: (name) => joinPath(dir, name) };
  }

  test('writes, reads, sizes, and overwrites from the start', async () => {
    const { files, at } = setUp();
    await write(files, at('a.txt'), 'hel', '', 'lo ', 'Größe 🦜');
    expect(text(await files.read(at('a.txt')))).toBe('hello Größe 🦜');
    expect(await files.size(at('a.txt'))).toBe(18);
    expect(text(await files.readRange(at('a.txt'), 3, 2))).toBe('lo');
    expect(await files.readRange(at('a.txt'), 18, 0)).toHaveLength(0);
    await write(files, at('a.txt'), 'x');
    expect(text(await files.read(at('a.txt')))).toBe('x');
  });

  test('a range past the end is EIO and names the bytes', async () => {
    const { files, at } = setUp();
    await write(files, at('a'), '0123456789');
    expect(await code(files.readRange(at('a'), 8, 3))).toBe('EIO');
    await expect(files.readRange(at('a'), 8, 3)).rejects.toThrow(/bytes 8 to 11 \(the file ends at 10\)/);
  });

  test('missing things are ENOENT with the path, except for exists, kind and remove', async () => {
    const { files, at } = setUp();
    const path = at('no/such');
    const attempts = [files.read, (p: string) => files.readRange(p, 0, 1), files.size, files.list];
    for (const attempt of attempts) {
      expect(await code(attempt(path))).toBe('ENOENT');
    }
    expect(await code(files.openWrite(path))).toBe('ENOENT');
    expect(await code(files.rename(path, at('b')))).toBe('ENOENT');
    expect(await code(files.syncFile(path))).toBe('ENOENT');
    expect(await code(files.syncDirectory(path))).toBe('ENOENT');
    expect(await files.exists(path)).toBe(false);
    expect(await files.kind(path)).toBeUndefined();
    await files.remove(path);
    await expect(files.read(path)).rejects.toMatchObject({ path });
  });

  test('directories: nested, sorted list, recursive removal', async () => {
    const { files, at } = setUp();
    await files.makeDirectory(at('a/b/c'));
    await files.makeDirectory(at('a/b/c'));
    await write(files, at('a/b/z'), '1');
    await write(files, at('a/b/Ä'), '2');
    expect(await files.list(at('a/b'))).toEqual(['c', 'z', 'Ä']);
    expect(await files.kind(at('a/b'))).toBe('directory');
    expect(await files.kind(at('a/b/z'))).toBe('file');
    await files.syncDirectory(at('a/b'));
    await files.syncFile(at('a/b/z'));
    await files.remove(at('a'));
    expect(await files.exists(at('a'))).toBe(false);
  });

  test('rename replaces a file, moves a directory with all in it, and refuses to replace a directory', async () => {
    const { files, at } = setUp();
    await write(files, at('new'), 'new');
    await write(files, at('old'), 'old');
    await files.rename(at('new'), at('old'));
    expect(text(await files.read(at('old')))).toBe('new');
    expect(await files.exists(at('new'))).toBe(false);
    await files.makeDirectory(at('d/e'));
    await write(files, at('d/e/f'), 'deep');
    await write(files, at('d/MANIFEST.json'), '{}');
    await files.rename(at('d'), at('moved'));
    expect(text(await files.read(at('moved/e/f')))).toBe('deep');
    expect(await files.exists(at('d'))).toBe(false);
    await files.makeDirectory(at('empty'));
    expect(await code(files.rename(at('moved'), at('empty')))).toBe('EEXIST');
  });

  test('append makes and extends a file; createExclusive makes it once', async () => {
    const { files, at } = setUp();
    await files.append(at('log'), bytes('one\n'));
    await files.append(at('log'), bytes('two\n'));
    expect(text(await files.read(at('log')))).toBe('one\ntwo\n');
    await files.createExclusive(at('lock'), bytes('1'));
    expect(await code(files.createExclusive(at('lock'), bytes('2')))).toBe('EEXIST');
    expect(text(await files.read(at('lock')))).toBe('1');
    expect(await files.list(at(''))).toEqual(['lock', 'log']);
  });

  test('abort leaves nothing, also after close', async () => {
    const { files, at } = setUp();
    const writer = await files.openWrite(at('a'));
    await writer.write(bytes('half'));
    await writer.abort();
    expect(await files.exists(at('a'))).toBe(false);
  });

  test('a directory is not a file', async () => {
    const { files, at } = setUp();
    await files.makeDirectory(at('d'));
    expect(await code(files.read(at('d')))).toBe('EISDIR');
    expect(await code(files.openWrite(at('d')))).toBe('EISDIR');
  });

  test('what was read is a copy', async () => {
    const { files, at } = setUp();
    await write(files, at('a'), 'abc');
    (await files.read(at('a'))).fill(0);
    (await files.readRange(at('a'), 0, 3)).fill(0);
    expect(text(await files.read(at('a')))).toBe('abc');
  });
});

describe('nodeFiles with a root', () => {
  test('refuses to leave it through .., an absolute path or a symlink', async () => {
    const outside = temporaryDirectory();
    const root = temporaryDirectory();
    const files = nodeFiles(root);
    await write(nodeFiles(), join(outside, 'secret'), 'secret');
    symlinkSync(outside, join(root, 'link'));
    symlinkSync(join(outside, 'not-made'), join(root, 'dangling'));
    symlinkSync('/', join(root, 'slash'));
    for (const path of [
      '../x',
      'a/../../x',
      join(outside, 'secret'),
      'link/secret',
      'link',
      'dangling',
      'slash/etc/passwd',
    ]) {
      expect([path, await code(files.read(path))]).toEqual([path, 'EACCES']);
      expect([path, await code(files.append(path, bytes('x')))]).toEqual([path, 'EACCES']);
    }
    expect(text(await nodeFiles().read(join(outside, 'secret')))).toBe('secret');
    expect(await nodeFiles().exists(join(outside, 'not-made'))).toBe(false);
  });

  test('a symlink that stays inside works, and a root can be made through it', async () => {
    const root = temporaryDirectory();
    const files = nodeFiles(join(root, 'later'));
    await files.makeDirectory('deep');
    await write(files, 'deep/a', 'a');
    symlinkSync(join(root, 'later', 'deep'), join(root, 'later', 'link'));
    expect(text(await files.read('link/a'))).toBe('a');
  });

  test('tells the free bytes of a directory that is not made yet', async () => {
    const free = await nodeFiles().freeBytes(join(temporaryDirectory(), 'later/deeper'));
    expect(free).toBeGreaterThan(0);
  });

  test('names of 250 characters work, longer ones are ENAMETOOLONG', async () => {
    const files = nodeFiles(temporaryDirectory());
    await write(files, 'n'.repeat(250), 'x');
    expect(await code(files.openWrite('n'.repeat(300)))).toBe('ENAMETOOLONG');
  });
});

describe('limits', () => {
  test('a full memory is ENOSPC, a full browser quota too', async () => {
    const files = memoryFiles({ capacityBytes: 10 });
    await write(files, 'a', '12345');
    expect(await files.freeBytes()).toBe(5);
    const writer = await files.openWrite('b');
    await writer.write(bytes('12345'));
    expect(await code(writer.write(bytes('6')))).toBe('ENOSPC');
    for (const syncHandles of [false, true]) {
      const browser = opfsFiles(opfsStandIn({ syncHandles, quotaBytes: 4 }));
      expect(await code(write(browser, 'a', '12345'))).toBe('ENOSPC');
    }
  });
});

describe('faultyFiles', () => {
  test('fails the n-th call only, or all from there on', async () => {
    const once = faultyFiles(memoryFiles(), { failAt: 2, fault: 'ENOSPC' });
    await once.append('a', bytes('1'));
    expect(await code(once.append('a', bytes('2')))).toBe('ENOSPC');
    await once.append('a', bytes('3'));
    expect(text(await once.read('a'))).toBe('13');
    expect(once.log).toEqual(['append a', 'append a', 'append a', 'read a']);
    const always = faultyFiles(memoryFiles(), {
      failAt: 1,
      fault: 'EIO',
      persistent: true,
      counts: (op) => op === 'append',
    });
    expect(await always.exists('a')).toBe(false);
    expect(await code(always.append('a', bytes('1')))).toBe('EIO');
    expect(await code(always.append('a', bytes('1')))).toBe('EIO');
    expect(always.calls).toBe(2);
  });

  test('a short write leaves half; after a crash nothing works', async () => {
    const inner = memoryFiles();
    const short = faultyFiles(inner, { failAt: 1, fault: 'short' });
    expect(await code(short.append('a', bytes('12345678')))).toBe('EIO');
    expect(text(await inner.read('a'))).toBe('1234');
    const crash = faultyFiles(inner, { failAt: 1, fault: 'crash', counts: (op) => op === 'write' });
    const writer = await crash.openWrite('b');
    await expect(writer.write(bytes('12345678'))).rejects.toThrow(/crash injected/);
    await expect(crash.exists('b')).rejects.toThrow(/crash injected/);
    await writer.abort();
    await writer.close().catch(() => undefined);
    await inner.append('b', bytes('!'));
    expect(text(await inner.read('b'))).toMatch(/^(1234)?!$/);
  });
});

describe('power loss', () => {
  test('what was synced survives, what was not may not, and all fates occur', async () => {
    const files = memoryFiles({ simulatePowerLoss: true });
    await write(files, 'safe', 'safe content');
    await files.syncDirectory('');
    await files.append('safe', bytes(' and more'));
    await files.append('lost', bytes('12345678'));
    const fates = new Set<string>();
    let state = 1;
    const random = (): number => (state = (state * 48271) % 2147483647) / 2147483647;
    for (let i = 0; i < 200; i++) {
      const after = files.afterPowerLoss(random);
      fates.add(text(await after.read('safe')));
      fates.add((await after.exists('lost')) ? 'entry kept' : 'entry lost');
    }
    expect(fates).toContain('safe content');
    expect(fates).toContain('safe content and more');
    expect(fates).toContain('entry kept');
    expect(fates).toContain('entry lost');
    expect(fates.size).toBeGreaterThan(10);
    expect(() => memoryFiles().afterPowerLoss(random)).toThrow(/simulatePowerLoss/);
  });
});

test('a directory on a read-only file system is refused for that reason', (context) => {
  const dir = temporaryDirectory();
  const program = `
    const { nodeFiles } = await import(process.argv[1]);
    for (const path of ['a', 'a/b']) await nodeFiles().makeDirectory(process.argv[2] + '/' + path).catch((error) => console.log(error.code));`;
  const mounted = 'mount -t tmpfs -o ro tmpfs "$3" || exit 99; exec "$0" --input-type=module -e "$1" "$2" "$3"';
  const { error, status, stdout } = spawnSync(
    'unshare',
    ['-rm', 'sh', '-c', mounted, process.execPath, program, join(import.meta.dirname, 'index.ts'), dir],
    { encoding: 'utf8' },
  );
  if (error || status !== 0) context.skip('skipped: this machine lets no user mount a file system of its own');
  expect(stdout).toBe('EROFS\nEROFS\n');
});
