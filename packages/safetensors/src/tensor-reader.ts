import type { FileSystem } from '@lorikeet/files';
import { loadableFormatDtypes } from './dtypes.ts';
import { SafetensorsError, shown } from './errors.ts';
import { headerLength, parseHeader, prefixBytes, type TensorEntry } from './header.ts';

/** Tensors of one file or of all shards of a checkpoint. Holds no open file and no data. */
export interface TensorReader {
  /** The file or directory. */
  readonly path: string;
  /** By name, in the order of the file (shard after shard). */
  readonly entries: ReadonlyMap<string, TensorEntry>;
  /** `__metadata__`; of the first shard where there are several. */
  readonly metadata: ReadonlyMap<string, string>;
  /** The entry of a tensor that can be read. @throws SafetensorsError when it is missing or its dtype cannot be loaded */
  entry(name: string): TensorEntry;
  /** All bytes of a tensor, little-endian, in fresh memory that starts aligned. */
  read(name: string): Promise<Uint8Array>;
  /** `length` bytes of a tensor from byte `byteOffset` of it. */
  readRange(name: string, byteOffset: number, length: number): Promise<Uint8Array>;
  /** Rows `start` to `end` (exclusive) along the first dimension. */
  readRows(name: string, start: number, end: number): Promise<Uint8Array>;
  /** A tensor piece by piece, each of `chunkBytes` but the last. @defaultValue 4 MiB */
  chunks(name: string, chunkBytes?: number): AsyncIterable<Uint8Array>;
}

class FileTensorReader implements TensorReader {
  readonly #files: FileSystem;
  readonly path: string;
  readonly entries: ReadonlyMap<string, TensorEntry>;
  readonly metadata: ReadonlyMap<string, string>;

  constructor(
    files: FileSystem,
    path: string,
    entries: ReadonlyMap<string, TensorEntry>,
    metadata: ReadonlyMap<string, string>,
  ) {
    this.#files = files;
    this.path = path;
    this.entries = entries;
    this.metadata = metadata;
  }

  entry(name: string): TensorEntry {
    const entry = this.entries.get(name);
    if (!entry) {
      throw new SafetensorsError(
        this.path,
        `${this.path}: must hold tensor ${shown(name)}: it is not among its ${this.entries.size} tensors.`,
        { tensor: name },
      );
    }
    if (entry.dtype === 'unsupported') {
      throw new SafetensorsError(
        entry.path,
        `${entry.path}: tensor ${shown(name)}: unsupported dtype ${shown(entry.formatDtype)}. Can be read: ${loadableFormatDtypes.join(', ')}.`,
        { tensor: name, offset: entry.byteOffset },
      );
    }
    return entry;
  }

  async read(name: string): Promise<Uint8Array> {
    return this.readRange(name, 0, this.entry(name).byteLength);
  }

  async readRange(name: string, byteOffset: number, length: number): Promise<Uint8Array> {
    const entry = this.entry(name);
    const valid = Number.isSafeInteger(byteOffset) && Number.isSafeInteger(length) && byteOffset >= 0 && length >= 0;
    if (!valid || byteOffset + length > entry.byteLength) {
      throw new RangeError(
        `readRange: must lie within the ${entry.byteLength} bytes of ${shown(name)}: ${byteOffset} + ${length}.`,
      );
    }
    return this.#files.readRange(entry.path, entry.byteOffset + byteOffset, length);
  }

  async readRows(name: string, start: number, end: number): Promise<Uint8Array> {
    const { shape, byteLength } = this.entry(name);
    const [rows] = shape;
    if (
      rows === undefined ||
      !Number.isSafeInteger(start) ||
      !Number.isSafeInteger(end) ||
      start < 0 ||
      end < start ||
      end > rows
    ) {
      throw new RangeError(`readRows: must be rows of ${shown(name)} with shape [${shape}]: ${start} to ${end}.`);
    }
    const rowBytes = rows === 0 ? 0 : byteLength / rows;
    return this.readRange(name, start * rowBytes, (end - start) * rowBytes);
  }

  async *chunks(name: string, chunkBytes = 4 << 20): AsyncIterable<Uint8Array> {
    if (!Number.isSafeInteger(chunkBytes) || chunkBytes <= 0)
      throw new RangeError(`chunks: chunkBytes must be positive: ${chunkBytes}.`);
    const { byteLength } = this.entry(name);
    for (let at = 0; at < byteLength; at += chunkBytes)
      yield this.readRange(name, at, Math.min(chunkBytes, byteLength - at));
  }
}

/** A reader over entries that may lie in several files. */
export function tensorReader(
  files: FileSystem,
  path: string,
  entries: ReadonlyMap<string, TensorEntry>,
  metadata: ReadonlyMap<string, string>,
): TensorReader {
  return new FileTensorReader(files, path, entries, metadata);
}

/**
 * Opens a safetensors file: reads and checks its header, and nothing else until a tensor is asked for.
 * @throws SafetensorsError when the file breaks a rule, FileError when the disk fails
 */
export async function openSafetensors(files: FileSystem, path: string): Promise<TensorReader> {
  const size = await files.size(path);
  const prefix = await files.readRange(path, 0, Math.min(size, prefixBytes));
  const length = headerLength(prefix, size, path);
  const { entries, metadata } = parseHeader(await files.readRange(path, 0, prefixBytes + length), size, path);
  return tensorReader(files, path, entries, metadata);
}
