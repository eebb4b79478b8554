/** Codes that callers branch on; other systems' codes pass through as they are. */
export type FileErrorCode =
  | 'ENOENT'
  | 'EEXIST'
  | 'EACCES'
  | 'EIO'
  | 'ENOSPC'
  | 'ENOTDIR'
  | 'EISDIR'
  | 'ENOTEMPTY'
  | 'EINVAL'
  | 'ELOCKED'
  | (string & {});

/** Storage failed: the disk, a missing file, a permission. `code` as in POSIX, `path` as the caller gave it. */
export class FileError extends Error {
  override name = 'FileError';
  readonly code: FileErrorCode;
  readonly path: string;
  constructor(code: FileErrorCode, path: string, message: string, options?: { cause?: unknown }) {
    super(message, options);
    this.code = code;
    this.path = path;
  }
}

/** The lock of a directory is held by another process. */
export class LockError extends FileError {
  override name = 'LockError';
  /** Process id of the holder; undefined when the lock file cannot be read or a browser tab holds it. */
  readonly pid: number | undefined;
  constructor(path: string, pid: number | undefined, message: string) {
    super('ELOCKED', path, message);
    this.pid = pid;
  }
}

/** Where in a file the content is wrong. */
export interface FormatLocation {
  /** Byte offset from the start of the file. */
  offset?: number;
  /** 1-based. */
  line?: number;
  /** 1-based, in bytes. */
  column?: number;
}

/** A file was read but its content is not what it must be. */
export class FormatError extends Error {
  override name = 'FormatError';
  readonly path: string;
  /** Place of the problem as far as it is known; see FormatLocation. */
  readonly offset: number | undefined;
  readonly line: number | undefined;
  readonly column: number | undefined;
  constructor(path: string, message: string, at: FormatLocation = {}) {
    super(message);
    this.path = path;
    this.offset = at.offset;
    this.line = at.line;
    this.column = at.column;
  }
}

/** A directory is not what its MANIFEST.json says, or has none: do not load from it. */
export class ManifestError extends FormatError {
  override name = 'ManifestError';
}

const meanings: Record<string, string> = {
  ENOENT: 'there is no such file or directory',
  EEXIST: 'it exists already',
  EACCES: 'permission is denied. Check the owner and mode of the path',
  EPERM: 'the system does not permit it. Check the owner and mode of the path',
  EROFS: 'the file system is read-only. Choose another directory',
  EIO: 'the device reported an input/output error. Check the disk',
  ENOSPC: 'the disk is full. Free some space or choose another directory',
  EDQUOT: 'the disk quota is used up. Free some space or choose another directory',
  ENOTDIR: 'a part of the path is a file, not a directory',
  EISDIR: 'it is a directory, not a file',
  ENOTEMPTY: 'the directory is not empty',
  EMFILE: 'too many files are open. Raise the limit (ulimit -n) or close some',
  ENAMETOOLONG: 'the name is too long',
};

/** Makes the error of a failed operation: `write run/a.bin: the disk is full. Free some space ... (ENOSPC)`. */
export function fileError(code: FileErrorCode, operation: string, path: string, cause?: unknown): FileError {
  const detail = cause instanceof Error ? cause.message : undefined;
  const meaning = meanings[code] ?? detail ?? 'the operation failed';
  return new FileError(code, path, `${operation} ${path}: ${meaning} (${code})`, { cause });
}
