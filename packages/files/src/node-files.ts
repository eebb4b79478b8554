import { type FileError, fileError } from './errors.ts';
import type { FileSystem, FileWriter } from './file-system.ts';
import { releaseTemporary, temporarySibling } from './temporary.ts';

// Types only: the modules come through process.getBuiltinModule, so that this package loads in a browser.
type Fs = typeof import('node:fs/promises');
type Path = typeof import('node:path');
type Handle = import('node:fs/promises').FileHandle;

interface Modules {
  fs: Fs;
  path: Path;
}

function builtinModules(): Modules {
  const get = globalThis.process?.getBuiltinModule;
  if (!get)
    throw new Error('nodeFiles: needs Node 20.16 or newer: this is not Node. Use opfsFiles() or memoryFiles().');
  return { fs: get('node:fs/promises') as Fs, path: get('node:path') as Path };
}

const codeOf = (error: unknown): string => (error as { code?: string } | null)?.code ?? 'EIO';

async function typed<T>(operation: string, path: string, run: () => Promise<T>): Promise<T> {
  try {
    return await run();
  } catch (error) {
    if ((error as Error | null)?.name === 'FileError') throw error;
    throw fileError(codeOf(error), operation, path, error);
  }
}

const within = (path: Path, root: string, target: string): boolean =>
  target === root || target.startsWith(root.endsWith(path.sep) ? root : root + path.sep);

/** The real path of the deepest part that exists: what a symlink on the way points to. */
async function realAncestor({ fs, path }: Modules, target: string): Promise<string> {
  for (let at = target; ; at = path.dirname(at)) {
    try {
      return await fs.realpath(at);
    } catch (error) {
      // A dangling symlink resolves to nothing but still leads somewhere: follow it by its text.
      const link = await fs.readlink(at).catch(() => undefined);
      if (link !== undefined) return realAncestor({ fs, path }, path.resolve(path.dirname(at), link));
      if (codeOf(error) !== 'ENOENT' || path.dirname(at) === at) throw error;
    }
  }
}

/** Turns the caller's path into one for the system; with a root, refuses what would leave it, through `..` or a symlink. */
function resolver(modules: Modules, root: string | undefined): (operation: string, path: string) => Promise<string> {
  const { fs, path } = modules;
  if (root === undefined) return async (_operation, given) => given;
  const absoluteRoot = path.resolve(root);
  const refuse = (operation: string, given: string): FileError =>
    fileError('EACCES', operation, given, new Error(`it lies outside ${absoluteRoot}`));
  return async (operation, given) => {
    const target = path.resolve(absoluteRoot, given);
    if (!within(path, absoluteRoot, target)) throw refuse(operation, given);
    // A root that is not made yet holds no symlink.
    const realRoot = await fs.realpath(absoluteRoot).catch(() => undefined);
    if (realRoot && !within(path, realRoot, await realAncestor(modules, target))) throw refuse(operation, given);
    return target;
  };
}

async function readFully(handle: Handle, path: string, offset: number, length: number): Promise<Uint8Array> {
  const bytes = new Uint8Array(length);
  let done = 0;
  while (done < length) {
    const { bytesRead } = await handle.read(bytes, done, Math.min(length - done, 1 << 30), offset + done);
    if (bytesRead === 0) {
      throw fileError('EIO', `read bytes ${offset} to ${offset + length} (the file ends at ${offset + done}) of`, path);
    }
    done += bytesRead;
  }
  return bytes;
}

async function writeFully(handle: Handle, chunk: Uint8Array): Promise<void> {
  // write(2) may take fewer bytes than it is given: the rest is tried again, and a full disk then says ENOSPC.
  for (let done = 0; done < chunk.length; ) done += (await handle.write(chunk, done, chunk.length - done)).bytesWritten;
}

function nodeWriter(modules: Modules, handle: Handle, given: string, target: string): FileWriter {
  let open = true;
  return {
    write: (chunk) => typed('write', given, () => writeFully(handle, chunk)),
    sync: () => typed('sync', given, () => handle.sync()),
    close: () => {
      open = false;
      return typed('close', given, () => handle.close());
    },
    async abort() {
      if (open) await handle.close().catch(() => undefined);
      open = false;
      await modules.fs.rm(target, { force: true }).catch(() => undefined);
    },
  };
}

async function makeDirectory({ fs, path }: Modules, target: string): Promise<void> {
  try {
    await fs.mkdir(target, { recursive: true });
  } catch (error) {
    // On a read-only file system Node's recursive mkdir says ENOENT; one step at a time says why.
    if (codeOf(error) !== 'ENOENT' || path.dirname(target) === target) throw error;
    await makeDirectory({ fs, path }, path.dirname(target));
    await fs.mkdir(target);
  }
}

async function createExclusive({ fs }: Modules, target: string, bytes: Uint8Array): Promise<void> {
  // link(2) makes the name appear with its content complete; a file opened with O_EXCL would be seen empty for a moment.
  const draft = temporarySibling(target, 'tmp');
  try {
    const handle = await fs.open(draft, 'wx');
    try {
      await writeFully(handle, bytes);
      await handle.sync();
    } finally {
      await handle.close();
    }
    await fs.link(draft, target).catch(async (error: unknown) => {
      if (!['EPERM', 'ENOTSUP', 'EOPNOTSUPP', 'ENOSYS', 'EMLINK'].includes(codeOf(error))) throw error;
      await fs.writeFile(target, bytes, { flag: 'wx', flush: true }); // a file system without hard links (exFAT, some network shares)
    });
  } finally {
    await fs.rm(draft, { force: true }).catch(() => undefined);
    releaseTemporary(draft);
  }
}

async function renameEntry({ fs }: Modules, from: string, to: string): Promise<void> {
  // rename(2) would replace an empty directory silently; the contract says a directory's target must not exist.
  const target = await fs.lstat(to).catch(() => undefined);
  if (target?.isDirectory()) throw Object.assign(new Error('the target exists'), { code: 'EEXIST' });
  await fs.rename(from, to);
}

async function syncPath({ fs }: Modules, target: string, flags: string): Promise<void> {
  const handle = await fs.open(target, flags);
  try {
    await handle.sync();
  } finally {
    await handle.close();
  }
}

async function syncDirectoryPath(modules: Modules, target: string): Promise<void> {
  try {
    await syncPath(modules, target, 'r');
  } catch (error) {
    // Windows and some network file systems cannot open or sync a directory; they order renames themselves.
    if (!['EPERM', 'EISDIR', 'EINVAL', 'ENOTSUP'].includes(codeOf(error))) throw error;
  }
}

/**
 * The disk through Node. Without `root` a path means what it means to the process (relative: from its working directory).
 * With `root`, paths are relative to it and everything outside is EACCES, also through symlinks.
 */
export function nodeFiles(root?: string): FileSystem {
  const modules = builtinModules();
  const { fs } = modules;
  const resolve = resolver(modules, root);
  const at = <T>(operation: string, given: string, run: (target: string) => Promise<T>): Promise<T> =>
    typed(operation, given, async () => run(await resolve(operation, given)));
  const statKind = async (target: string) => {
    const stat = await fs.stat(target).catch((error: unknown) => {
      if (['ENOENT', 'ENOTDIR'].includes(codeOf(error))) return undefined;
      throw error;
    });
    return stat && (stat.isDirectory() ? 'directory' : 'file');
  };
  return {
    renamesDirectories: true,
    read: (path) =>
      at('read', path, async (target) => {
        const buffer = await fs.readFile(target);
        // A small Buffer is a window into Node's pool: copied, so that the caller owns its memory and it is aligned.
        return buffer.byteLength === buffer.buffer.byteLength ? new Uint8Array(buffer.buffer) : new Uint8Array(buffer);
      }),
    readRange: (path, offset, length) =>
      at('read', path, async (target) => {
        const handle = await fs.open(target, 'r');
        try {
          return await readFully(handle, path, offset, length);
        } finally {
          await handle.close();
        }
      }),
    size: (path) =>
      at('size', path, async (target) => {
        const stat = await fs.stat(target);
        if (stat.isDirectory()) throw fileError('EISDIR', 'size', path);
        return stat.size;
      }),
    kind: (path) => at('stat', path, statKind),
    exists: (path) => at('stat', path, async (target) => (await statKind(target)) !== undefined),
    list: (dir) => at('list', dir, async (target) => (await fs.readdir(target)).sort()),
    makeDirectory: (dir) => at('make directory', dir, (target) => makeDirectory(modules, target)),
    remove: (path) => at('remove', path, (target) => fs.rm(target, { recursive: true, force: true })),
    rename: (from, to) =>
      at('rename', from, async (source) => renameEntry(modules, source, await resolve('rename', to))),
    append: (path, bytes) => at('append', path, (target) => fs.appendFile(target, bytes)),
    createExclusive: (path, bytes) => at('create', path, (target) => createExclusive(modules, target, bytes)),
    openWrite: (path) =>
      at('open', path, async (target) => nodeWriter(modules, await fs.open(target, 'w'), path, target)),
    syncFile: (path) => at('sync', path, (target) => syncPath(modules, target, 'r+')),
    syncDirectory: (dir) => at('sync', dir, (target) => syncDirectoryPath(modules, target)),
    freeBytes: (path = '.') =>
      at('free bytes', path, async (target) => {
        const { bavail, bsize } = await fs.statfs(await realAncestor(modules, modules.path.resolve(target)));
        return bavail * bsize;
      }),
  };
}
