import { dataView, invalidUtf8Offset, JsonProblem, JsonScanner } from '@lorikeet/files';
import { bitsOf, type FileDType, fromFormatDtype } from './dtypes.ts';
import { SafetensorsError, shown } from './errors.ts';

/** Longest header in bytes: the limit of the Rust library (`MAX_HEADER_SIZE`, safetensors 0.8). */
export const maxHeaderBytes = 100_000_000;
/** Most tensors in a file. */
export const maxTensors = 1_000_000;
/** Longest name of a tensor in UTF-8 bytes. */
export const maxNameBytes = 1024;
/** Most dimensions of a tensor (numpy's limit); without one a header of 100 MB could ask for 400 MB of dims. */
export const maxRank = 64;
/** Bytes before the header: its length as u64, little-endian. */
export const prefixBytes = 8;

/** One tensor as the header describes it. */
export interface TensorEntry {
  readonly name: string;
  /** Our name of the element type; `unsupported`: it can be listed but not read. */
  readonly dtype: FileDType | 'unsupported';
  /** The element type as written in the file: `BF16`. */
  readonly formatDtype: string;
  /** Empty for a scalar. */
  readonly shape: readonly number[];
  readonly byteLength: number;
  /** First byte of the tensor, counted from the start of the file. */
  readonly byteOffset: number;
  /** The file it lies in. */
  readonly path: string;
}

/** What a header says, every rule checked. */
export interface Header {
  /** In the order of their bytes in the file. */
  readonly entries: ReadonlyMap<string, TensorEntry>;
  /** `__metadata__`, empty where there is none. */
  readonly metadata: ReadonlyMap<string, string>;
  /** First byte of the data. */
  readonly dataOffset: number;
}

/**
 * Checks the first 8 bytes of a file and returns the length of its header, before anything of that size is read.
 * @throws SafetensorsError
 */
export function headerLength(prefix: Uint8Array, fileSize: number, path: string): number {
  if (fileSize < prefixBytes || prefix.length < prefixBytes) {
    throw new SafetensorsError(
      path,
      `${path}: not a safetensors file (${fileSize} bytes). The shortest has ${prefixBytes + 2}.`,
    );
  }
  const length = dataView(prefix).getBigUint64(0, true);
  if (length > BigInt(maxHeaderBytes)) {
    throw new SafetensorsError(
      path,
      `${path}: header must have at most ${maxHeaderBytes} bytes: its length says ${length}. This is not a safetensors file.`,
      { offset: 0 },
    );
  }
  if (prefixBytes + Number(length) > fileSize) {
    throw new SafetensorsError(
      path,
      `${path}: header must lie in the file: it needs ${prefixBytes + Number(length)} bytes, the file has ${fileSize}. The file is cut off or no safetensors file.`,
      { offset: 0 },
    );
  }
  return Number(length);
}

interface Info {
  formatDtype: string;
  shape: number[];
  begin: number;
  end: number;
}

// A UTF-16 unit takes at most three bytes, so a short name needs no encoding.
const utf8LengthExceeds = (text: string, limit: number): boolean =>
  text.length * 3 > limit && (text.length > limit || new TextEncoder().encode(text).length > limit);

/** Reads one header and keeps the state that its rules need. */
class HeaderReader {
  readonly path: string;
  readonly scanner: JsonScanner;
  readonly dataOffset: number;
  readonly dataBytes: number;
  readonly tensors: [string, Info][] = [];
  readonly metadata = new Map<string, string>();
  #spans = 0;

  constructor(bytes: Uint8Array, length: number, fileSize: number, path: string) {
    this.path = path;
    this.dataOffset = prefixBytes + length;
    this.dataBytes = fileSize - this.dataOffset;
    this.scanner = new JsonScanner(bytes, prefixBytes, this.dataOffset);
  }

  refuse(tensor: string, problem: string): never {
    throw new SafetensorsError(this.path, `${this.path}: tensor ${shown(tensor)}: ${problem}`, {
      tensor,
      offset: this.scanner.at,
    });
  }

  scan(): void {
    // A name of 1,024 bytes may take six times as many when every byte is escaped.
    this.scanner.object((name, at) => this.#member(name, at), 'a tensor name', 6 * maxNameBytes);
    this.scanner.finish();
  }

  #member(name: string, at: number): void {
    if (name === '__metadata__') {
      this.#metadata();
      return;
    }
    if (utf8LengthExceeds(name, maxNameBytes)) {
      this.scanner.fail(`a tensor name must have at most ${maxNameBytes} bytes`, at);
    }
    if (this.tensors.length >= maxTensors) this.scanner.fail(`a file must have at most ${maxTensors} tensors`, at);
    const info = this.#info(name);
    this.#checkSize(name, info);
    this.tensors.push([name, info]);
  }

  #metadata(): void {
    const isNull = this.scanner.peek() === 'null'; // the Rust library takes it as absent
    if (isNull) this.scanner.null();
    else
      this.scanner.object((key) => this.metadata.set(key, this.scanner.string(`a string as metadata ${shown(key)}`)));
  }

  #info(name: string): Info {
    const { scanner } = this;
    let formatDtype: string | undefined;
    let shape: number[] | undefined;
    let offsets: number[] | undefined;
    scanner.object((key) => {
      if (key === 'dtype') formatDtype = scanner.string('a dtype string', 64);
      else if (key === 'shape') shape = this.#integers('a dimension', maxRank);
      else if (key === 'data_offsets') offsets = this.#integers('an offset', 2);
      else scanner.skipValue(1); // unknown fields are allowed; at most three levels in all
    });
    if (formatDtype === undefined) this.refuse(name, 'must have a dtype: it has none.');
    if (shape === undefined) this.refuse(name, 'must have a shape: it has none.');
    if (offsets?.length !== 2)
      this.refuse(name, `data_offsets must be two numbers: found ${offsets?.length ?? 'none'}.`);
    return { formatDtype, shape, begin: offsets[0]!, end: offsets[1]! };
  }

  #integers(what: string, most: number): number[] {
    const out: number[] = [];
    this.scanner.array((index) => {
      if (index >= most) this.scanner.fail(`expected at most ${most} numbers`);
      out.push(this.scanner.safeInteger(what));
    });
    return out;
  }

  /** Rules that concern one tensor alone, and the two that stop a header bomb before it is stored. */
  #checkSize(name: string, { formatDtype, shape, begin, end }: Info): void {
    if (begin > end) this.refuse(name, `data_offsets must not be reversed: [${begin}, ${end}].`);
    let elements = 1;
    for (const dim of shape) {
      if (dim > 0 && elements > Number.MAX_SAFE_INTEGER / dim)
        this.refuse(name, `shape must stay below 2^53 elements: [${shape}].`);
      elements *= dim;
    }
    const bits = bitsOf(formatDtype);
    if (bits !== undefined) {
      if (elements > Number.MAX_SAFE_INTEGER / bits)
        this.refuse(name, `must stay below 2^53 bits: shape [${shape}] of ${formatDtype}.`);
      if ((elements * bits) % 8 !== 0)
        this.refuse(name, `must fill whole bytes: shape [${shape}] of ${formatDtype} is ${elements * bits} bits.`);
      const bytes = (elements * bits) / 8;
      if (bytes !== end - begin)
        this.refuse(
          name,
          `shape [${shape}] of ${formatDtype} must have ${bytes} bytes: its data_offsets span ${end - begin}.`,
        );
    }
    if (end > this.dataBytes) {
      this.refuse(
        name,
        `must end inside the file: it ends at byte ${this.dataOffset + end}, the file has ${this.dataOffset + this.dataBytes}. The file is cut off.`,
      );
    }
    this.#spans += end - begin;
    if (this.#spans > this.dataBytes) {
      this.refuse(
        name,
        `tensors overlap: up to this one they need ${this.#spans} bytes, the file holds ${this.dataBytes}.`,
      );
    }
  }

  /** Offsets start at 0 and follow each other to the end of the file: no hole and no overlap can hide foreign data. */
  inOrder(): [string, Info][] {
    const sorted = this.tensors.sort(([, a], [, b]) => a.begin - b.begin || a.end - b.end);
    let expected = 0;
    let previous = 'the header';
    for (const [name, { begin, end }] of sorted) {
      if (begin < expected)
        this.refuse(name, `must not overlap ${previous}: it starts at offset ${begin}, expected ${expected}.`);
      if (begin > expected)
        this.refuse(name, `must follow ${previous} without a gap: it starts at offset ${begin}, expected ${expected}.`);
      expected = end;
      previous = shown(name);
    }
    if (expected !== this.dataBytes) {
      throw new SafetensorsError(
        this.path,
        `${this.path}: must end with the last tensor: expected ${this.dataOffset + expected} bytes, found ${this.dataOffset + this.dataBytes}. Bytes that belong to no tensor are refused.`,
        { offset: this.dataOffset + expected },
      );
    }
    return sorted;
  }
}

/**
 * Checks the beginning of a safetensors file against every rule of the format, in the order of reliability section 6, and says
 * what is in it. Pure; allocates no tensor. Stricter than the Rust library in these points only: duplicate keys, names over
 * 1,024 bytes, more than 1e6 tensors or 64 dims, numbers from 2^53 on, unknown fields nested deeper than one level, and dtype
 * or tensor records in serde's array and map forms are refused. An unknown dtype is listed as `unsupported`.
 *
 * @param bytes at least the first 8 bytes and the header; more is ignored
 * @param fileSize of the whole file in bytes
 * @param path for messages
 * @throws SafetensorsError that names the file and the tensor or byte offset
 */
export function parseHeader(bytes: Uint8Array, fileSize: number, path = 'safetensors'): Header {
  const length = headerLength(bytes, fileSize, path);
  const invalid = invalidUtf8Offset(bytes.subarray(prefixBytes, prefixBytes + length));
  if (invalid !== undefined) {
    const offset = prefixBytes + invalid;
    throw new SafetensorsError(path, `${path}: byte ${offset}: header must be UTF-8. This is not a safetensors file.`, {
      offset,
    });
  }
  const reader = new HeaderReader(bytes, length, fileSize, path);
  try {
    reader.scan();
  } catch (error) {
    if (!(error instanceof JsonProblem)) throw error;
    throw new SafetensorsError(
      path,
      `${path}: byte ${error.offset}: header must be safetensors JSON: ${error.message}.`,
      {
        offset: error.offset,
      },
    );
  }
  const entries = new Map<string, TensorEntry>();
  for (const [name, { formatDtype, shape, begin, end }] of reader.inOrder()) {
    const dtype = fromFormatDtype(formatDtype) ?? 'unsupported';
    entries.set(name, {
      name,
      dtype,
      formatDtype,
      shape,
      byteLength: end - begin,
      byteOffset: reader.dataOffset + begin,
      path,
    });
  }
  return { entries, metadata: reader.metadata, dataOffset: reader.dataOffset };
}
