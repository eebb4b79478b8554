import { fileError } from './errors.ts';
import type { FileSystem, FileWriter } from './file-system.ts';
import { joinPath, pathSegments } from './paths.ts';

/** Only in dedicated workers, and not yet in TypeScript's DOM library. */
interface SyncAccessHandle {
  write(bytes: Uint8Array, options: { at: number }): number;
  truncate(size: number): void;
  getSize(): number;
  flush(): void;
  close(): void;
}
type FileHandle = FileSystemFileHandle & {
  createSyncAccessHandle?: () => Promise<SyncAccessHandle>;
  move?: (parent: FileSystemDirectoryHandle, name: string) => Promise<void>;
};

// WHATWG File System Standard: which DOMException each method rejects with.
const codes: Record<string, string> = {
  NotFoundError: 'ENOENT',
  QuotaExceededError: 'ENOSPC',
  NotAllowedError: 'EACCES',
  SecurityError: 'EACCES',
  NoModificationAllowedError: 'EACCES',
  InvalidModificationError: 'ENOTEMPTY',
  NotReadableError: 'EIO',
  TypeMismatchError: 'EISDIR',
};

async function typed<T>(operation: string, path: string, run: () => Promise<T>): Promise<T> {
  try {
    return await run();
  } catch (error) {
    const name = (error as Error | null)?.name ?? '';
    if (name === 'FileError') throw error;
    throw fileError(codes[name] ?? 'EIO', operation, path, error);
  }
}

class Opfs {
  readonly root: () => Promise<FileSystemDirectoryHandle>;
  constructor(root: () => Promise<FileSystemDirectoryHandle>) {
    this.root = root;
  }

  async directory(parts: readonly string[], create = false): Promise<FileSystemDirectoryHandle> {
    let at = await this.root();
    for (const name of parts) at = await at.getDirectoryHandle(name, { create });
    return at;
  }

  async slot(operation: string, path: string): Promise<[FileSystemDirectoryHandle, string]> {
    const parts = pathSegments(path);
    const name = parts.pop();
    if (name === undefined) throw fileError('EINVAL', operation, path);
    return [await this.directory(parts), name];
  }

  async file(operation: string, path: string, create = false): Promise<FileHandle> {
    const [parent, name] = await this.slot(operation, path);
    return parent.getFileHandle(name, { create });
  }

  async kind(path: string): Promise<'file' | 'directory' | undefined> {
    const parts = pathSegments(path);
    const name = parts.pop();
    if (name === undefined) return 'directory';
    try {
      const parent = await this.directory(parts);
      try {
        return (await parent.getFileHandle(name)).kind;
      } catch (error) {
        if ((error as Error).name === 'TypeMismatchError') return 'directory';
        throw error;
      }
    } catch (error) {
      if (['NotFoundError', 'TypeMismatchError'].includes((error as Error).name)) return undefined;
      throw error;
    }
  }
}

/** A position and the two ways to write: a synchronous handle in a worker, a swap file that `close` commits elsewhere. */
async function opfsWriter(opfs: Opfs, path: string, append: boolean): Promise<FileWriter> {
  const handle = await opfs.file('open', path, true);
  const remove = async (): Promise<void> => {
    const [parent, name] = await opfs.slot('abort', path);
    await parent.removeEntry(name);
  };
  if (handle.createSyncAccessHandle) {
    const sync = await handle.createSyncAccessHandle();
    if (!append) sync.truncate(0);
    let at = append ? sync.getSize() : 0;
    return {
      write: (chunk) =>
        typed('write', path, async () => {
          const written = sync.write(chunk, { at });
          at += written;
          if (written < chunk.length) throw fileError('ENOSPC', 'write', path);
        }),
      sync: () => typed('sync', path, async () => sync.flush()),
      close: () => typed('close', path, async () => sync.close()),
      abort: async () => {
        sync.close();
        await remove().catch(() => undefined);
      },
    };
  }
  const stream = await handle.createWritable({ keepExistingData: append });
  if (append) await stream.seek((await handle.getFile()).size);
  return {
    // The chunk is copied: the stream may hold on to it, and the browser refuses views of shared memory.
    write: (chunk) => typed('write', path, () => stream.write(new Uint8Array(chunk))),
    sync: async () => undefined, // the swap file becomes the file at close
    close: () => typed('close', path, () => stream.close()),
    abort: async () => {
      await stream.abort().catch(() => undefined);
      await remove().catch(() => undefined);
    },
  };
}

const copyChunkBytes = 4 << 20;

async function copyFile(opfs: Opfs, from: string, to: string): Promise<void> {
  const source = await (await opfs.file('rename', from)).getFile();
  const writer = await opfsWriter(opfs, to, false);
  try {
    for (let at = 0; at < source.size; at += copyChunkBytes) {
      await writer.write(new Uint8Array(await source.slice(at, at + copyChunkBytes).arrayBuffer()));
    }
    await writer.sync();
    await writer.close();
  } catch (error) {
    await writer.abort();
    throw error;
  }
}

async function names(dir: FileSystemDirectoryHandle): Promise<string[]> {
  const out: string[] = [];
  for await (const name of dir.keys()) out.push(name);
  return out.sort();
}

/** OPFS cannot move directories: copy, with MANIFEST.json (the mark of completeness) after everything else, then remove. */
async function copyDirectory(opfs: Opfs, from: string, to: string): Promise<void> {
  const entries = await names(await opfs.directory(pathSegments(from)));
  await opfs.directory(pathSegments(to), true);
  const last = (name: string): number => (name === 'MANIFEST.json' ? 1 : 0);
  for (const name of entries.sort((a, b) => last(a) - last(b))) {
    const [source, target] = [joinPath(from, name), joinPath(to, name)];
    if ((await opfs.kind(source)) === 'directory') await copyDirectory(opfs, source, target);
    else await copyFile(opfs, source, target);
  }
}

async function rename(opfs: Opfs, from: string, to: string): Promise<void> {
  const [parent, name] = await opfs.slot('rename', from);
  const existing = await opfs.kind(to);
  if ((await opfs.kind(from)) === 'directory') {
    if (existing) throw fileError('EEXIST', 'rename', to);
    await copyDirectory(opfs, from, to);
    return parent.removeEntry(name, { recursive: true });
  }
  if (existing === 'directory') throw fileError('EEXIST', 'rename', to);
  const handle: FileHandle = await parent.getFileHandle(name);
  const [target, newName] = await opfs.slot('rename', to);
  if (handle.move) return handle.move(target, newName);
  await copyFile(opfs, from, to);
  await parent.removeEntry(name);
}

async function createExclusive(opfs: Opfs, path: string, bytes: Uint8Array): Promise<void> {
  // OPFS has no O_EXCL; across tabs the lock is a Web Lock (see lock.ts), within one page this check is enough.
  if (await opfs.kind(path)) throw fileError('EEXIST', 'create', path);
  await writeAll(opfs, path, bytes, false);
}

async function writeAll(opfs: Opfs, path: string, bytes: Uint8Array, append: boolean): Promise<void> {
  const writer = await opfsWriter(opfs, path, append);
  // Not aborted on failure: an append that fails must not remove what was there.
  await writer.write(bytes).finally(() => writer.close());
}

/**
 * The browser's origin-private file system. In a dedicated worker writes go through synchronous handles and `sync` flushes;
 * on a page they go through a swap file that `close` commits. `..` cannot leave the root, which is a directory of this origin.
 *
 * @param root a directory to stay in. @defaultValue navigator.storage.getDirectory()
 */
export function opfsFiles(root?: FileSystemDirectoryHandle): FileSystem {
  const opfs = new Opfs(async () => root ?? navigator.storage.getDirectory());
  const blob = async (operation: string, path: string): Promise<File> => (await opfs.file(operation, path)).getFile();
  return {
    renamesDirectories: false,
    read: (path) => typed('read', path, async () => new Uint8Array(await (await blob('read', path)).arrayBuffer())),
    readRange: (path, offset, length) =>
      typed('read', path, async () => {
        const file = await blob('read', path);
        if (offset + length > file.size) {
          throw fileError('EIO', `read bytes ${offset} to ${offset + length} (the file ends at ${file.size}) of`, path);
        }
        return new Uint8Array(await file.slice(offset, offset + length).arrayBuffer());
      }),
    size: (path) => typed('size', path, async () => (await blob('size', path)).size),
    kind: (path) => typed('stat', path, () => opfs.kind(path)),
    exists: (path) => typed('stat', path, async () => (await opfs.kind(path)) !== undefined),
    list: (dir) => typed('list', dir, async () => names(await opfs.directory(pathSegments(dir)))),
    makeDirectory: (dir) =>
      typed('make directory', dir, async () => void (await opfs.directory(pathSegments(dir), true))),
    remove: (path) =>
      typed('remove', path, async () => {
        if (!(await opfs.kind(path))) return;
        const [parent, name] = await opfs.slot('remove', path);
        await parent.removeEntry(name, { recursive: true });
      }),
    rename: (from, to) => typed('rename', from, () => rename(opfs, from, to)),
    append: (path, bytes) => typed('append', path, () => writeAll(opfs, path, bytes, true)),
    createExclusive: (path, bytes) => typed('create', path, () => createExclusive(opfs, path, bytes)),
    openWrite: (path) => typed('open', path, () => opfsWriter(opfs, path, false)),
    syncFile: (path) => typed('sync', path, async () => void (await opfs.file('sync', path))),
    syncDirectory: (dir) => typed('sync', dir, async () => void (await opfs.directory(pathSegments(dir)))),
    freeBytes: async () => {
      const { quota, usage } = (await globalThis.navigator?.storage?.estimate?.()) ?? {};
      return quota === undefined || usage === undefined ? undefined : quota - usage;
    },
  };
}
