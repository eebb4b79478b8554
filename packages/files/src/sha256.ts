import { bytesToHex } from './bytes.ts';
import type { FileSystem } from './file-system.ts';

/** A SHA-256 that takes its input in pieces. */
export interface Sha256 {
  /** Takes the next piece. */
  update(bytes: Uint8Array): Sha256;
  /** 32 bytes. Ends the hash: neither method may be called after it. */
  digest(): Uint8Array;
}

type Crypto = typeof import('node:crypto');

/** Incremental SHA-256: Node's where there is one, else the portable one below (WebCrypto only hashes in one shot). */
export function sha256(): Sha256 {
  const crypto = globalThis.process?.getBuiltinModule?.('node:crypto') as Crypto | undefined;
  if (!crypto) return portableSha256();
  const hash = crypto.createHash('sha256');
  const self: Sha256 = {
    update(bytes) {
      hash.update(bytes);
      return self;
    },
    digest: () => new Uint8Array(hash.digest()),
  };
  return self;
}

/** SHA-256 of some bytes as 64 lower-case hex digits. */
export function sha256Hex(bytes: Uint8Array): string {
  return bytesToHex(sha256().update(bytes).digest());
}

const readChunkBytes = 4 << 20;

/** SHA-256 of a file as 64 lower-case hex digits, read in pieces of 4 MiB. */
export async function hashFile(files: FileSystem, path: string): Promise<string> {
  const size = await files.size(path);
  const hash = sha256();
  for (let offset = 0; offset < size; offset += readChunkBytes) {
    hash.update(await files.readRange(path, offset, Math.min(readChunkBytes, size - offset)));
  }
  return bytesToHex(hash.digest());
}

// FIPS 180-4, section 4.2.2: the fractional parts of the cube roots of the first 64 primes; 5.3.3: of their square roots.
const primes = [...Array(312).keys()].filter(
  (n) => n > 1 && !Array.from({ length: n - 2 }, (_, i) => i + 2).some((d) => n % d === 0),
);
// 32 fractional bits of an n-th root, exact: floor(root(p * 2^(32n))) in BigInt, by Newton's method.
function fractionBits(prime: number, degree: 2 | 3): number {
  const n = BigInt(degree);
  const target = BigInt(prime) << (32n * n);
  let x = 1n << 40n;
  for (;;) {
    const next = ((n - 1n) * x + target / x ** (n - 1n)) / n;
    if (next >= x) return Number(x & 0xffffffffn) | 0;
    x = next;
  }
}
const roundConstants = Int32Array.from(primes.slice(0, 64), (p) => fractionBits(p, 3));
const initialState = Int32Array.from(primes.slice(0, 8), (p) => fractionBits(p, 2));

const rotate = (x: number, by: number): number => (x >>> by) | (x << (32 - by));

/** FIPS 180-4, section 6.2.2: one block of 64 bytes at `offset`, folded into `state`. */
function compress(state: Int32Array, schedule: Int32Array, bytes: Uint8Array, offset: number): void {
  const w = schedule;
  for (let t = 0, i = offset; t < 16; t++, i += 4) {
    w[t] = (bytes[i]! << 24) | (bytes[i + 1]! << 16) | (bytes[i + 2]! << 8) | bytes[i + 3]!;
  }
  for (let t = 16; t < 64; t++) {
    const [x, y] = [w[t - 15]!, w[t - 2]!];
    const s0 = rotate(x, 7) ^ rotate(x, 18) ^ (x >>> 3);
    const s1 = rotate(y, 17) ^ rotate(y, 19) ^ (y >>> 10);
    w[t] = w[t - 16]! + s0 + w[t - 7]! + s1;
  }
  let a = state[0]!;
  let b = state[1]!;
  let c = state[2]!;
  let d = state[3]!;
  let e = state[4]!;
  let f = state[5]!;
  let g = state[6]!;
  let h = state[7]!;
  for (let t = 0; t < 64; t++) {
    const t1 =
      (h + (rotate(e, 6) ^ rotate(e, 11) ^ rotate(e, 25)) + ((e & f) ^ (~e & g)) + roundConstants[t]! + w[t]!) | 0;
    const t2 = ((rotate(a, 2) ^ rotate(a, 13) ^ rotate(a, 22)) + ((a & b) ^ (a & c) ^ (b & c))) | 0;
    h = g;
    g = f;
    f = e;
    e = (d + t1) | 0;
    d = c;
    c = b;
    b = a;
    a = (t1 + t2) | 0;
  }
  for (const [i, value] of [a, b, c, d, e, f, g, h].entries()) state[i] = state[i]! + value;
}

/** The same hash in plain TypeScript, for browsers. */
export function portableSha256(): Sha256 {
  const state = initialState.slice();
  const schedule = new Int32Array(64);
  const pending = new Uint8Array(64);
  let total = 0;
  const self: Sha256 = {
    update(bytes) {
      let taken = 0;
      const held = total % 64;
      total += bytes.length;
      if (held > 0) {
        taken = Math.min(64 - held, bytes.length);
        pending.set(bytes.subarray(0, taken), held);
        if (held + taken < 64) return self;
        compress(state, schedule, pending, 0);
      }
      for (; taken + 64 <= bytes.length; taken += 64) compress(state, schedule, bytes, taken);
      pending.set(bytes.subarray(taken));
      return self;
    },
    digest() {
      const held = total % 64;
      const bits = new DataView(new ArrayBuffer(8));
      bits.setBigUint64(0, BigInt(total) * 8n);
      const padding = new Uint8Array((held < 56 ? 56 : 120) - held);
      padding[0] = 0x80;
      self.update(padding).update(new Uint8Array(bits.buffer));
      const out = new DataView(new ArrayBuffer(32));
      for (let i = 0; i < 8; i++) out.setInt32(4 * i, state[i]!);
      return new Uint8Array(out.buffer);
    },
  };
  return self;
}
