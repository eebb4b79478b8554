import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { FileError, ManifestError } from './errors.ts';
import { type Fault, faultyFiles } from './faulty-files.ts';
import type { FileSystem } from './file-system.ts';
import { manifestName, verifyManifest } from './manifest.ts';
import { memoryFiles } from './memory-files.ts';
import { opfsFiles } from './opfs-files.ts';
import { opfsStandIn } from './testing/opfs-stand-in.ts';
import { readJson, readText } from './text.ts';
import { writeAtomic, writeJson } from './write-atomic.ts';
import { cleanStale, discardDirectory, writeDirectoryAtomic } from './write-directory-atomic.ts';

const bytes = (text: string): Uint8Array => new TextEncoder().encode(text);
async function* chunks(...texts: string[]): AsyncGenerator<Uint8Array> {
  for (const text of texts) yield bytes(text);
}

async function put(files: FileSystem, path: string, text: string): Promise<void> {
  await files.append(path, bytes(text));
}

const faults: Fault[] = ['ENOSPC', 'EIO', 'short', 'EMFILE', 'crash'];

/** Runs `act` with the n-th call failing, for n = 1, 2, ... until it no longer fails; `check` looks at the disk each time. */
async function everyFailure(
  prepare: () => Promise<FileSystem>,
  act: (files: FileSystem) => Promise<void>,
  check: (inner: FileSystem, threw: unknown) => Promise<void>,
): Promise<number> {
  let runs = 0;
  for (const fault of faults) {
    for (let failAt = 1; ; failAt++) {
      const inner = await prepare();
      const files = faultyFiles(inner, { failAt, fault });
      const threw = await act(files).then(
        () => undefined,
        (error: unknown) => error,
      );
      await check(inner, threw);
      if (files.calls < failAt) break;
      runs++;
    }
  }
  return runs;
}

describe('writeAtomic', () => {
  test('writes bytes, text and streams, and leaves no temporary file', async () => {
    const files = memoryFiles();
    await writeAtomic(files, 'a', bytes('one'));
    await writeAtomic(files, 'b', 'zwei 🦜');
    await writeAtomic(files, 'c', chunks('th', 'ree'));
    await writeAtomic(files, 'c', [bytes('th'), bytes('ree!')]);
    await writeJson(files, 'e.json', { a: 6, b: { a: -1, c: '"a": 6', a2: 6 }, f: 1.5 }, { floatKeys: ['a', 'f'] });
    expect(await readText(files, 'e.json')).toBe(
      '{\n  "a": 6.0,\n  "b": {\n    "a": -1.0,\n    "c": "\\"a\\": 6",\n    "a2": 6\n  },\n  "f": 1.5\n}\n',
    );
    await writeJson(files, 'd.json', { four: 4 });
    expect(await files.list('')).toEqual(['a', 'b', 'c', 'd.json', 'e.json']);
    expect(await readText(files, 'b')).toBe('zwei 🦜');
    expect(await readText(files, 'c')).toBe('three!');
    expect(await readJson(files, 'd.json')).toEqual({ four: 4 });
  });

  test('a source that throws leaves the old content and no rest', async () => {
    const files = memoryFiles();
    await writeAtomic(files, 'a', 'old');
    const broken = (async function* () {
      yield bytes('half');
      throw new Error('source broke');
    })();
    await expect(writeAtomic(files, 'a', broken)).rejects.toThrow('source broke');
    expect(await readText(files, 'a')).toBe('old');
    expect(await files.list('')).toEqual(['a']);
  });

  test('n-th failure loop: the old or the new content, whole; a plain failure leaves no rest', async () => {
    const runs = await everyFailure(
      async () => {
        const files = memoryFiles();
        await put(files, 'a', 'old content');
        return files;
      },
      (files) => writeAtomic(files, 'a', chunks('new ', 'content')),
      async (inner, threw) => {
        const content = await readText(inner, 'a');
        expect(['old content', 'new content']).toContain(content);
        if (threw === undefined) expect(content).toBe('new content');
        if (threw instanceof FileError) expect(await inner.list('')).toEqual(['a']);
      },
    );
    expect(runs).toBe(faults.length * 7); // open, write, write, sync, close, rename, sync directory
  });

  test('200 power cuts: the old or the new content, whole', async () => {
    const seen = new Set<string>();
    await fc.assert(
      fc.asyncProperty(
        fc.nat(7),
        fc.infiniteStream(fc.double({ min: 0, max: 1, maxExcluded: true, noNaN: true })),
        async (failAt, random) => {
          const disk = memoryFiles({ simulatePowerLoss: true });
          await writeAtomic(disk, 'a', 'old content');
          const files = faultyFiles(disk, { failAt: failAt + 1, fault: 'crash' });
          await writeAtomic(files, 'a', chunks('new ', 'content')).catch(() => undefined);
          const after = await readText(
            disk.afterPowerLoss(() => random.next().value as number),
            'a',
          );
          expect(['old content', 'new content']).toContain(after);
          if (failAt === 7) expect(after).toBe('new content');
          seen.add(after);
        },
      ),
      { numRuns: 200 },
    );
    expect(seen.size).toBe(2);
  });
});

test.each(['sync', 'syncDirectory'] as const)('the power cuts above would notice a forgotten %s', async (forgotten) => {
  const outcomes = new Set<string>();
  for (let seed = 1; seed <= 100; seed++) {
    const disk = memoryFiles({ simulatePowerLoss: true });
    await writeAtomic(disk, 'a', 'old content');
    const forgetful: FileSystem = {
      ...disk,
      syncDirectory: async (dir) => (forgotten === 'syncDirectory' ? undefined : disk.syncDirectory(dir)),
      openWrite: async (path) => {
        const writer = await disk.openWrite(path);
        return forgotten === 'sync' ? { ...writer, sync: async () => undefined } : writer;
      },
    };
    await writeAtomic(forgetful, 'a', 'new content');
    let state = seed * 21474836; // spread over the generator's range, which starts slowly from small seeds
    const random = (): number => (state = (state * 48271) % 2147483647) / 2147483647;
    outcomes.add(await readText(disk.afterPowerLoss(random), 'a'));
  }
  // With both syncs the only outcome after success is the new content.
  expect([...outcomes].filter((content) => content !== 'new content')).not.toEqual([]);
});

const version = (tag: string) => async (files: FileSystem, temporary: string) => {
  await put(files, `${temporary}/state.json`, `{"version": "${tag}"}`);
  await files.makeDirectory(`${temporary}/weights`);
  await writeAtomic(files, `${temporary}/weights/w.bin`, `weights ${tag}`);
};
const save = (files: FileSystem, tag: string): Promise<void> =>
  writeDirectoryAtomic(files, 'run/checkpoint-1', (temporary) => version(tag)(files, temporary));

/** The tag of the complete checkpoint, after what a restarted program does first. */
async function loadedTag(files: FileSystem): Promise<string | undefined> {
  await cleanStale(files, 'run');
  if (!(await files.exists('run/checkpoint-1'))) return undefined;
  await verifyManifest(files, 'run/checkpoint-1');
  expect(await files.list('run')).toEqual(['checkpoint-1']);
  const { version: tag } = (await readJson(files, 'run/checkpoint-1/state.json')) as { version: string };
  expect(await readText(files, 'run/checkpoint-1/weights/w.bin')).toBe(`weights ${tag}`);
  return tag;
}

describe('writeDirectoryAtomic', () => {
  test.each([
    ['memory', memoryFiles],
    ['OPFS', () => opfsFiles(opfsStandIn())],
  ])('makes and replaces a directory with a manifest: %s', async (_name, make) => {
    const files = make();
    await save(files, 'one');
    expect(await loadedTag(files)).toBe('one');
    await save(files, 'two');
    expect(await loadedTag(files)).toBe('two');
    const manifest = await verifyManifest(files, 'run/checkpoint-1');
    expect(manifest.directory).toBe('checkpoint-1');
    expect(manifest.files.map(({ name, size }) => [name, size])).toEqual([
      ['state.json', 18],
      ['weights/w.bin', 11],
    ]);
  });

  test('a callback that throws, or writes a manifest of its own, changes nothing', async () => {
    const files = memoryFiles();
    await save(files, 'one');
    const broken = writeDirectoryAtomic(files, 'run/checkpoint-1', async (temporary) => {
      await put(files, `${temporary}/x`, 'x');
      throw new Error('out of luck');
    });
    await expect(broken).rejects.toThrow('out of luck');
    const own = writeDirectoryAtomic(files, 'run/checkpoint-1', (temporary) =>
      put(files, `${temporary}/${manifestName}`, '{}'),
    );
    await expect(own).rejects.toThrow(/must not be given a MANIFEST.json/);
    expect(await files.list('run')).toEqual(['checkpoint-1']);
    expect(await loadedTag(files)).toBe('one');
  });

  test('does not replace a file', async () => {
    const files = memoryFiles();
    await files.makeDirectory('run');
    await put(files, 'run/checkpoint-1', 'a file');
    await expect(save(files, 'one')).rejects.toMatchObject({ code: 'ENOTDIR' });
    expect(await readText(files, 'run/checkpoint-1')).toBe('a file');
  });

  test.each([
    ['replacing', true, memoryFiles],
    ['new', false, memoryFiles],
    ['replacing in OPFS', true, () => opfsFiles(opfsStandIn())],
    ['new in OPFS', false, () => opfsFiles(opfsStandIn())],
  ])('n-th failure loop, %s: the old or the new directory, verified', async (_name, replacing, make) => {
    const runs = await everyFailure(
      async () => {
        const files = make();
        if (replacing) await save(files, 'old');
        return files;
      },
      (files) => save(files, 'new'),
      async (inner, threw) => {
        // The same process sees the old one at once after a plain failure, without cleaning.
        if (replacing && threw instanceof FileError) await verifyManifest(inner, 'run/checkpoint-1');
        const tag = await loadedTag(inner);
        expect([replacing ? 'old' : undefined, 'new']).toContain(tag);
        if (threw === undefined) expect(tag).toBe('new');
      },
    );
    expect(runs).toBeGreaterThan(faults.length * 25);
  });

  test('a disk that fails for good during the exchange: the sealed draft is put in place at the next start', async () => {
    const inner = memoryFiles();
    await save(inner, 'old');
    const count = (operation: string): boolean => operation === 'rename';
    // Renames of a save: w.bin, old -> trash, draft -> final, and the roll-back.
    const files = faultyFiles(inner, { failAt: 3, fault: 'EIO', persistent: true, counts: count });
    await expect(save(files, 'new')).rejects.toMatchObject({ code: 'EIO' });
    expect(await inner.exists('run/checkpoint-1')).toBe(false);
    expect(await loadedTag(inner)).toBe('new');
  });

  test('200 power cuts: the old or the new directory, verified', async () => {
    const seen = new Set<string | undefined>();
    const calls = faultyFiles(memoryFiles(), {});
    await save(calls, 'old');
    await save(calls, 'new');
    await fc.assert(
      fc.asyncProperty(
        fc.integer({ min: 1, max: calls.calls }),
        fc.infiniteStream(fc.double({ min: 0, max: 1, maxExcluded: true, noNaN: true })),
        async (failAt, random) => {
          const disk = memoryFiles({ simulatePowerLoss: true });
          await disk.makeDirectory('run');
          await disk.syncDirectory('');
          await save(disk, 'old');
          const files = faultyFiles(disk, { failAt, fault: 'crash' });
          await save(files, 'new').catch(() => undefined);
          const tag = await loadedTag(disk.afterPowerLoss(() => random.next().value as number));
          expect(['old', 'new']).toContain(tag);
          seen.add(tag);
        },
      ),
      { numRuns: 200 },
    );
    expect(seen.size).toBe(2);
  });
});

describe('verifyManifest', () => {
  async function saved(): Promise<FileSystem> {
    const files = memoryFiles();
    await save(files, 'one');
    return files;
  }
  const dir = 'run/checkpoint-1';
  const rewrite = async (files: FileSystem, change: (manifest: Record<string, unknown>) => void): Promise<void> => {
    const manifest = (await readJson(files, `${dir}/${manifestName}`)) as Record<string, unknown>;
    change(manifest);
    await writeJson(files, `${dir}/${manifestName}`, manifest);
  };

  test('names what is missing, of another size, or changed by one bit', async () => {
    const files = await saved();
    await put(files, `${dir}/state.json`, ' ');
    await expect(verifyManifest(files, dir)).rejects.toThrow(/state\.json: must have 18 bytes: it has 19/);
    await files.remove(`${dir}/state.json`);
    await expect(verifyManifest(files, dir)).rejects.toThrow(/state\.json: is missing/);
    const flipped = await saved();
    const weights = await flipped.read(`${dir}/weights/w.bin`);
    weights[3]! ^= 1;
    await writeAtomic(flipped, `${dir}/weights/w.bin`, weights);
    await expect(verifyManifest(flipped, dir)).rejects.toThrow(/w\.bin: must have sha256/);
    await flipped.remove(`${dir}/${manifestName}`);
    await expect(verifyManifest(flipped, dir)).rejects.toThrow(/is not complete: it has no MANIFEST/);
  });

  test('files that are not listed are ignored, and the directory may be renamed', async () => {
    const files = await saved();
    await put(files, `${dir}/notes.txt`, 'mine');
    await files.rename(dir, 'run/best');
    expect((await verifyManifest(files, 'run/best')).files).toHaveLength(2);
  });

  test.each<[string, (manifest: Record<string, unknown>) => void, RegExp]>([
    ['newer version', (m) => Object.assign(m, { version: 2 }), /newer version \(manifest 2/],
    ['no version', (m) => delete m.version, /must hold version 1/],
    ['no files', (m) => Object.assign(m, { files: {} }), /must hold version 1/],
    ['path out', (m) => Object.assign(m, { files: [{ name: '../x', size: 0, sha256: '0'.repeat(64) }] }), /has a part/],
    ['bad hash', (m) => Object.assign(m, { files: [{ name: 'x', size: 0, sha256: 'ABC' }] }), /64 hex digits/],
    [
      'bad size',
      (m) => Object.assign(m, { files: [{ name: 'x', size: -1, sha256: '0'.repeat(64) }] }),
      /name and a size/,
    ],
    ['null entry', (m) => Object.assign(m, { files: [null] }), /name and a size/],
    ['twice', (m) => Object.assign(m, { files: [...(m.files as []), ...(m.files as [])] }), /listed twice/],
  ])('refuses a manifest with %s', async (_name, change, message) => {
    const files = await saved();
    await rewrite(files, change);
    const error = await verifyManifest(files, dir).catch((reason: unknown) => reason);
    expect(error).toBeInstanceOf(ManifestError);
    expect((error as Error).message).toMatch(message);
  });

  test('a torn manifest is told with its line', async () => {
    const files = await saved();
    await writeAtomic(files, `${dir}/${manifestName}`, '{\n  "version": 1,\n');
    const error = await verifyManifest(files, dir).catch((reason: unknown) => reason);
    expect(error).toBeInstanceOf(ManifestError);
    expect((error as Error).message).toMatch(/MANIFEST\.json:3:1: must be JSON/);
  });
});

describe('cleanStale', () => {
  test('removes what dead processes left and keeps what lives', async () => {
    const files = memoryFiles();
    await files.makeDirectory('run/.tmp-999999999-0123456789abcdef');
    await put(files, 'run/.tmp-999999999-0123456789abcdef/half', 'x');
    await put(files, `run/.tmp-${process.pid}-0123456789abcdef`, 'of an earlier process with our pid');
    await put(files, 'run/.trash-999999999-0123456789abcdef', 'x');
    await put(files, `run/.tmp-${process.ppid}-0123456789abcdef`, 'of a living process');
    await put(files, 'run/.tmp-mine', 'not in our form');
    await put(files, 'run/log.jsonl', '{}');
    let during: string[] = [];
    await writeDirectoryAtomic(files, 'run/checkpoint-1', async (temporary) => {
      await put(files, `${temporary}/a`, 'a');
      during = (await cleanStale(files, 'run')).removed;
    });
    expect(during).toHaveLength(3);
    expect(await files.list('run')).toEqual([
      `.tmp-${process.ppid}-0123456789abcdef`,
      '.tmp-mine',
      'checkpoint-1',
      'log.jsonl',
    ]);
    await verifyManifest(files, 'run/checkpoint-1');
    expect(await cleanStale(files, 'nowhere')).toEqual({ recovered: [], removed: [] });
  });

  test('a manifest that names a path outside is not followed', async () => {
    const files = memoryFiles();
    await save(files, 'one');
    const manifest = (await readJson(files, `run/checkpoint-1/${manifestName}`)) as Record<string, unknown>;
    await writeJson(files, `run/checkpoint-1/${manifestName}`, { ...manifest, directory: '../evil' });
    await files.rename('run/checkpoint-1', 'run/.tmp-999999999-0123456789abcdef');
    expect((await cleanStale(files, 'run')).removed).toHaveLength(1);
    expect(await files.exists('evil')).toBe(false);
  });

  test('discardDirectory: gone under its name at once', async () => {
    const files = memoryFiles();
    await save(files, 'one');
    const failing = faultyFiles(files, { failAt: 1, fault: 'EIO', counts: (operation) => operation === 'remove' });
    await expect(discardDirectory(failing, 'run/checkpoint-1')).rejects.toMatchObject({ code: 'EIO' });
    expect(await files.exists('run/checkpoint-1')).toBe(false);
  });
});
