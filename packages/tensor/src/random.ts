/**
 * Counter-based randomness: Threefry-2x32 with 20 rounds (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3",
 * SC 2011; Random123 1.14). A value depends on (key, counter) alone, so a dropout mask is recomputed, never stored, and
 * is the same on every backend.
 */
const rotations = [13, 15, 26, 6, 17, 29, 16, 24] as const;
const parity = 0x1bd11bda;

/** Encrypts the counter (c0, c1) under the key (k0, k1): two 32-bit words. */
export function threefry2x32(k0: number, k1: number, c0: number, c1: number): [number, number] {
  const keys = [k0 | 0, k1 | 0, parity ^ k0 ^ k1];
  let x0 = (c0 + keys[0]!) | 0;
  let x1 = (c1 + keys[1]!) | 0;
  for (let round = 0; round < 20; round++) {
    const r = rotations[round % 8]!;
    x0 = (x0 + x1) | 0;
    x1 = ((x1 << r) | (x1 >>> (32 - r))) ^ x0;
    if (round % 4 === 3) {
      const s = (round + 1) / 4;
      x0 = (x0 + keys[s % 3]!) | 0;
      x1 = (x1 + keys[(s + 1) % 3]! + s) | 0;
    }
  }
  return [x0 >>> 0, x1 >>> 0];
}

/** A place in the tree of random streams. Equal seeds and paths give equal keys; different ones are independent. */
export class RandomKey {
  readonly k0: number;
  readonly k1: number;
  constructor(k0: number, k1: number) {
    this.k0 = k0 >>> 0;
    this.k1 = k1 >>> 0;
  }
  /** The key of a branch named by a number (hashed as 64 bits) or a string (hashed by UTF-16 code units). */
  fold(part: number | string): RandomKey {
    if (typeof part === 'number')
      return new RandomKey(...threefry2x32(this.k0, this.k1, part >>> 0, Math.floor(part / 2 ** 32)));
    let key = new RandomKey(...threefry2x32(this.k0, this.k1, part.length, 0x5eed));
    for (let i = 0; i < part.length; i += 2)
      key = new RandomKey(
        ...threefry2x32(key.k0, key.k1, part.charCodeAt(i), i + 1 < part.length ? part.charCodeAt(i + 1) : 0x10000),
      );
    return key;
  }
  /** The i-th uniform 24-bit fraction in [0, 1) of this key. */
  uniform(i: number): number {
    return (threefry2x32(this.k0, this.k1, i >>> 0, Math.floor(i / 2 ** 32))[0] >>> 8) / 2 ** 24;
  }
}

/** The root key of a seed, folded along a path. */
export function randomKey(seed: number, ...path: (number | string)[]): RandomKey {
  if (!Number.isSafeInteger(seed) || seed < 0)
    throw new RangeError(`randomKey: seed must be an integer of at least 0: got ${seed}.`);
  return path.reduce((key: RandomKey, part) => key.fold(part), new RandomKey(seed >>> 0, Math.floor(seed / 2 ** 32)));
}

/** 0 .. n-1 in a random order (Fisher-Yates; indices by 32-bit multiply with rejection, so every order is equally likely). */
export function permutationOf(n: number, key: RandomKey): Int32Array {
  const order = Int32Array.from({ length: n }, (_, i) => i);
  let counter = 0;
  const below = (limit: number): number => {
    const threshold = 2 ** 32 - (2 ** 32 % limit);
    for (;;) {
      const [word] = threefry2x32(key.k0, key.k1, counter++, 0x9e11);
      if (word < threshold) return word % limit;
    }
  };
  for (let i = n - 1; i > 0; i--) {
    const j = below(i + 1);
    [order[i], order[j]] = [order[j]!, order[i]!];
  }
  return order;
}

/** Standard normals by Box-Muller from pairs of 24-bit uniforms, computed on the CPU in f64 so that every backend gets equal bits. */
export function normalsOf(count: number, key: RandomKey): Float32Array {
  const out = new Float32Array(count);
  for (let i = 0; i < count; i += 2) {
    const [a, b] = threefry2x32(key.k0, key.k1, i / 2, 0xb0b0);
    const radius = Math.sqrt(-2 * Math.log(((a >>> 8) + 1) / 2 ** 24));
    const angle = (2 * Math.PI * (b >>> 8)) / 2 ** 24;
    out[i] = radius * Math.cos(angle);
    if (i + 1 < count) out[i + 1] = radius * Math.sin(angle);
  }
  return out;
}
