import { type FileSystem, writeAtomic } from '@lorikeet/files';
import { bitsOf, type FileDType, rankOf, toFormatDtype } from './dtypes.ts';
import { SafetensorsError, shown } from './errors.ts';
import { maxHeaderBytes, maxNameBytes, maxRank, maxTensors, prefixBytes } from './header.ts';

/** Bytes of a tensor, or a function that makes them when their turn comes: all at once or in pieces. */
export type TensorBytes =
  | Uint8Array
  | (() => Uint8Array | Promise<Uint8Array> | Iterable<Uint8Array> | AsyncIterable<Uint8Array>);

/** A tensor to be written. */
export interface WriteEntry {
  name: string;
  /** Our name (`bf16`) or the file's (`BF16`). */
  dtype: FileDType | (string & {});
  shape: readonly number[];
  /** Little-endian elements in row-major order. */
  bytes: TensorBytes;
}

/** `__metadata__` of a file. Python writes `{ format: 'pt' }`, without which transformers refuses a file. */
export type Metadata = Readonly<Record<string, string>> | ReadonlyMap<string, string>;

/** A tensor whose size and file dtype are known and checked. */
export interface Planned {
  name: string;
  formatDtype: string;
  shape: readonly number[];
  byteLength: number;
  bytes: TensorBytes;
}

/** Bytes that a tensor takes in a file. @throws SafetensorsError when its name, dtype or shape cannot be written */
function plan(path: string, { name, dtype, shape, bytes }: WriteEntry): Planned {
  const refuse = (problem: string): never => {
    throw new SafetensorsError(path, `${path}: cannot write tensor ${shown(name)}: ${problem}`, { tensor: name });
  };
  if (name === '__metadata__') refuse('this name is reserved.');
  if (!name.isWellFormed() || new TextEncoder().encode(name).length > maxNameBytes) {
    refuse(`name must be well-formed and at most ${maxNameBytes} bytes.`);
  }
  const formatDtype = toFormatDtype(dtype) ?? refuse(`unknown dtype ${shown(dtype)}.`);
  const fine = shape.length <= maxRank && shape.every((dim) => Number.isSafeInteger(dim) && dim >= 0);
  const bits = shape.reduce((product, dim) => product * dim, bitsOf(formatDtype)!);
  if (!fine || !Number.isSafeInteger(bits) || bits % 8 !== 0)
    refuse(`shape [${shape}] of ${formatDtype} must be whole bytes below 2^53 bits.`);
  if (bytes instanceof Uint8Array && bytes.length !== bits / 8) {
    refuse(`shape [${shape}] of ${formatDtype} must have ${bits / 8} bytes: ${bytes.length} were given.`);
  }
  return { name, formatDtype, shape: [...shape], byteLength: bits / 8, bytes };
}

/** The order of the Rust library, so that files come out the same byte for byte: widest dtype first, then by name. */
function inFileOrder(planned: Planned[]): Planned[] {
  const encoder = new TextEncoder();
  const keyed = planned.map((entry) => ({ entry, key: encoder.encode(entry.name) }));
  keyed.sort((a, b) => rankOf(b.entry.formatDtype) - rankOf(a.entry.formatDtype) || compareBytes(a.key, b.key));
  return keyed.map(({ entry }) => entry);
}

function compareBytes(a: Uint8Array, b: Uint8Array): number {
  const shorter = Math.min(a.length, b.length);
  for (let i = 0; i < shorter; i++) if (a[i] !== b[i]) return a[i]! - b[i]!;
  return a.length - b.length;
}

function encodeHeader(path: string, planned: readonly Planned[], metadata: Metadata | undefined): Uint8Array {
  const members: string[] = [];
  const pairs = metadata === undefined ? [] : metadata instanceof Map ? [...metadata] : Object.entries(metadata);
  for (const [key, value] of pairs) {
    if (typeof value !== 'string' || !value.isWellFormed() || !key.isWellFormed()) {
      throw new SafetensorsError(path, `${path}: metadata ${shown(key)} must be a well-formed string.`);
    }
  }
  const pair = ([key, value]: [string, string]): string => `${JSON.stringify(key)}:${JSON.stringify(value)}`;
  if (metadata !== undefined) members.push(`"__metadata__":{${pairs.map(pair).join(',')}}`);
  let begin = 0;
  for (const { name, formatDtype, shape, byteLength } of planned) {
    const offsets = `[${begin},${begin + byteLength}]`;
    members.push(`${JSON.stringify(name)}:{"dtype":"${formatDtype}","shape":[${shape}],"data_offsets":${offsets}}`);
    begin += byteLength;
  }
  const text = new TextEncoder().encode(`{${members.join(',')}}`);
  const length = Math.ceil(text.length / 8) * 8; // padded with spaces, so that the data starts on a multiple of 8
  if (length > maxHeaderBytes)
    throw new SafetensorsError(path, `${path}: header must have at most ${maxHeaderBytes} bytes: it needs ${length}.`);
  const header = new Uint8Array(prefixBytes + length).fill(0x20);
  new DataView(header.buffer).setBigUint64(0, BigInt(length), true);
  header.set(text, prefixBytes);
  return header;
}

async function* pieces(bytes: TensorBytes): AsyncGenerator<Uint8Array> {
  const made = await (typeof bytes === 'function' ? bytes() : bytes);
  if (made instanceof Uint8Array) yield made;
  else yield* made;
}

async function* fileContent(path: string, header: Uint8Array, planned: readonly Planned[]): AsyncGenerator<Uint8Array> {
  yield header;
  for (const { name, byteLength, bytes } of planned) {
    let given = 0;
    const wrong = (): never => {
      throw new SafetensorsError(
        path,
        `${path}: tensor ${shown(name)} must have ${byteLength} bytes: its source gave ${given < byteLength ? 'only ' : ''}${given}. Nothing was written.`,
        { tensor: name },
      );
    };
    for await (const piece of pieces(bytes)) {
      given += piece.length;
      if (given > byteLength) wrong();
      yield piece;
    }
    if (given !== byteLength) wrong();
  }
}

/** Checks and orders tensors for one file. @throws SafetensorsError */
export function planTensors(path: string, entries: Iterable<WriteEntry>): Planned[] {
  const planned: Planned[] = [];
  const names = new Set<string>();
  for (const entry of entries) {
    if (names.has(entry.name))
      throw new SafetensorsError(
        path,
        `${path}: tensor ${shown(entry.name)} must be written once: it was given twice.`,
        { tensor: entry.name },
      );
    names.add(entry.name);
    planned.push(plan(path, entry));
    if (planned.length > maxTensors)
      throw new SafetensorsError(path, `${path}: must have at most ${maxTensors} tensors.`);
  }
  return inFileOrder(planned);
}

/**
 * Writes a safetensors file, atomically, without holding it in memory: the header first (all sizes follow from dtype and shape),
 * then each tensor as its source yields it, in the Rust library's order. The same tensors give the same bytes as Python's
 * `safetensors.torch.save_file` (with at most one metadata key: Python does not order them).
 *
 * @returns size of the file in bytes
 * @throws SafetensorsError when a tensor cannot be written or its source gives another number of bytes; FileError. Nothing is
 * written then, and what stood at `path` stays.
 */
export async function writeSafetensors(
  files: FileSystem,
  path: string,
  entries: Iterable<WriteEntry>,
  metadata?: Metadata,
): Promise<number> {
  const planned = planTensors(path, entries);
  const header = encodeHeader(path, planned, metadata);
  await writeAtomic(files, path, fileContent(path, header, planned));
  return planned.reduce((sum, { byteLength }) => sum + byteLength, header.length);
}
