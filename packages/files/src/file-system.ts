/**
 * A handle that writes one file from its start.
 * Nothing is promised to survive a power cut before `sync` has resolved.
 */
export interface FileWriter {
  /** Appends all of `chunk`; resolves when every byte has been handed over (the chunk may then be reused). */
  write(chunk: Uint8Array): Promise<void>;
  /** Forces what was written to the disk (fsync; in a browser, flush). */
  sync(): Promise<void>;
  /** Ends the file. Does not sync. */
  close(): Promise<void>;
  /** Gives up: closes and removes the file. Never throws, so it can stand in an error path. */
  abort(): Promise<void>;
}

/** What stands at a path. */
export type EntryKind = 'file' | 'directory';

/**
 * The one door to storage: Node's disk, a browser's private files (OPFS), memory, or a faulty wrapper in tests.
 *
 * Paths use `/`. Every failure is a `FileError` with a `code` (`ENOENT`, `ENOSPC`, `EIO`, `EACCES`, `EEXIST`, ...) and the path.
 * One behaviour suite, `file-system.test.ts`, runs on all implementations.
 */
export interface FileSystem {
  /** Whether `rename` of a directory is one atomic step (POSIX). In OPFS it is a copy with MANIFEST.json last. */
  readonly renamesDirectories: boolean;
  /** All bytes of a file. */
  read(path: string): Promise<Uint8Array>;
  /** Exactly `length` bytes from byte `offset`; a file that ends earlier is a `FileError` EIO that names the offset. */
  readRange(path: string, offset: number, length: number): Promise<Uint8Array>;
  /** Size of a file in bytes. */
  size(path: string): Promise<number>;
  /** What stands at `path`, or undefined. */
  kind(path: string): Promise<EntryKind | undefined>;
  /** Whether a file or directory stands at `path`. */
  exists(path: string): Promise<boolean>;
  /** Names (not paths) in a directory, sorted by code unit. */
  list(dir: string): Promise<string[]>;
  /** Makes a directory and its parents; no error when it is there. */
  makeDirectory(dir: string): Promise<void>;
  /** Removes a file, or a directory with all in it; no error when nothing is there. */
  remove(path: string): Promise<void>;
  /** Moves a file (replacing a file at `to`) or a directory (`to` must not exist). */
  rename(from: string, to: string): Promise<void>;
  /** Adds bytes at the end of a file, which is made when missing. Not synced: see `syncFile`. */
  append(path: string, bytes: Uint8Array): Promise<void>;
  /** Makes a file that did not exist, complete or not at all; `EEXIST` when it did. For lock files. */
  createExclusive(path: string, bytes: Uint8Array): Promise<void>;
  /** Opens a file for writing from its start; what was in it is lost. Its directory must exist. */
  openWrite(path: string): Promise<FileWriter>;
  /** Forces the content of a file to the disk. */
  syncFile(path: string): Promise<void>;
  /** Forces the entries of a directory (creations, renames, removals) to the disk. */
  syncDirectory(dir: string): Promise<void>;
  /** Bytes still free for files under `path`, undefined when the system does not tell. */
  freeBytes(path?: string): Promise<number | undefined>;
}
