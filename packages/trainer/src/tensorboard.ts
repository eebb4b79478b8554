import { type FileSystem, joinPath } from '@lorikeet/files';

/** CRC-32C (Castagnoli, reflected polynomial 0x82f63b78), as RFC 3720 B.4 has it. */
const table = Uint32Array.from({ length: 256 }, (_, byte) => {
  let crc = byte;
  for (let bit = 0; bit < 8; bit++) crc = crc & 1 ? (crc >>> 1) ^ 0x82f63b78 : crc >>> 1;
  return crc;
});

export function crc32c(bytes: Uint8Array): number {
  let crc = 0xffffffff;
  for (const byte of bytes) crc = table[(crc ^ byte) & 0xff]! ^ (crc >>> 8);
  return (crc ^ 0xffffffff) >>> 0;
}

/** TensorFlow's mask: a checksum of data that holds checksums would else be weak. */
export function maskedCrc32c(bytes: Uint8Array): number {
  const crc = crc32c(bytes);
  return (((crc >>> 15) | (crc << 17)) + 0xa282ead8) >>> 0;
}

/** One TFRecord: length u64, its checksum, data, its checksum, all little-endian. */
export function tfRecord(data: Uint8Array): Uint8Array {
  const record = new Uint8Array(data.length + 16);
  const view = new DataView(record.buffer);
  view.setBigUint64(0, BigInt(data.length), true);
  view.setUint32(8, maskedCrc32c(record.subarray(0, 8)), true);
  record.set(data, 12);
  view.setUint32(12 + data.length, maskedCrc32c(data), true);
  return record;
}

const joined = (parts: readonly Uint8Array[]): Uint8Array => {
  const out = new Uint8Array(parts.reduce((sum, p) => sum + p.length, 0));
  let at = 0;
  for (const part of parts) {
    out.set(part, at);
    at += part.length;
  }
  return out;
};

/** A base-128 varint of a non-negative integer. */
function varint(value: number): Uint8Array {
  const bytes: number[] = [];
  let rest = value;
  for (; rest >= 128; rest = Math.floor(rest / 128)) bytes.push((rest % 128) | 128);
  bytes.push(rest);
  return Uint8Array.from(bytes);
}

// Protocol-buffer fields by wire type: 0 varint, 1 eight bytes, 2 length-delimited, 5 four bytes.
const tag = (field: number, wire: number): Uint8Array => varint(field * 8 + wire);
const integer = (field: number, value: number): Uint8Array => joined([tag(field, 0), varint(value)]);
const nested = (field: number, bytes: Uint8Array): Uint8Array => joined([tag(field, 2), varint(bytes.length), bytes]);
const text = (field: number, value: string): Uint8Array => nested(field, new TextEncoder().encode(value));
function double(field: number, value: number): Uint8Array {
  const bytes = new Uint8Array(8);
  new DataView(bytes.buffer).setFloat64(0, value, true);
  return joined([tag(field, 1), bytes]);
}
function float(field: number, value: number): Uint8Array {
  const bytes = new Uint8Array(4);
  new DataView(bytes.buffer).setFloat32(0, value, true);
  return joined([tag(field, 5), bytes]);
}

// Field numbers of tensorboard/compat/proto/event.proto and summary.proto (2.21).
const event = (wallTimeSeconds: number, step: number, what: Uint8Array): Uint8Array =>
  joined([double(1, wallTimeSeconds), integer(2, step), what]);
const fileVersion = text(3, 'brain.Event:2');
const sessionStart = nested(7, integer(1, 1));
const summary = (scalars: Readonly<Record<string, number>>): Uint8Array =>
  nested(
    5,
    joined(Object.entries(scalars).map(([name, value]) => nested(1, joined([text(1, name), float(2, value)])))),
  );

/** A file of scalars that TensorBoard reads. Every session of a run writes its own, beside log.jsonl. */
export class EventFile {
  readonly #files: FileSystem;
  readonly path: string;

  private constructor(files: FileSystem, path: string) {
    this.#files = files;
    this.path = path;
  }

  /**
   * Starts a file in `dir`. Its session start makes TensorBoard forget what earlier files of the folder hold from `firstStep` on, so a
   * resumed run shows one line.
   */
  static async open(files: FileSystem, dir: string, firstStep: number): Promise<EventFile> {
    const seconds = Date.now() / 1000;
    const name = (n: number): string =>
      joinPath(dir, `events.out.tfevents.${String(Math.floor(seconds)).padStart(10, '0')}.lorikeet.${n}`);
    let n = 0;
    while (await files.exists(name(n))) n++;
    const file = new EventFile(files, name(n));
    const head = [event(seconds, 0, fileVersion), event(seconds, firstStep, sessionStart)];
    await files.append(file.path, joined(head.map(tfRecord)));
    return file;
  }

  /** Adds one point to each named line. */
  async scalars(step: number, values: Readonly<Record<string, number>>): Promise<void> {
    await this.#files.append(this.path, tfRecord(event(Date.now() / 1000, step, summary(values))));
  }
}
