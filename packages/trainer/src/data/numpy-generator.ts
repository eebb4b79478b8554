/**
 * NumPy's `default_rng`: SeedSequence and PCG64 (XSL-RR 128/64), so that a split or a shuffle takes the rows that Python takes.
 * Sources: O'Neill, "PCG: a family of simple fast space-efficient statistically good algorithms" (2014); NumPy 2.4,
 * `bit_generator.pyx`, `pcg64.h`, `distributions.c`.
 */
const low64 = (1n << 64n) - 1n;
const low128 = (1n << 128n) - 1n;
const multiplier = 0x2360ed051fc65da44385df649fccf645n;

/** Spreads an integer over four words and draws as many as are wanted (NumPy's SeedSequence without spawning). */
function seedWords(seed: number, count: number): Uint32Array {
  const entropy = seed < 2 ** 32 ? [seed] : [seed >>> 0, Math.floor(seed / 2 ** 32)];
  let constant = 0x43b0d7e5;
  const hash = (value: number): number => {
    const mixed = value ^ constant;
    constant = Math.imul(constant, 0x931e8875);
    const product = Math.imul(mixed, constant);
    return product ^ (product >>> 16);
  };
  const mix = (x: number, y: number): number => {
    const both = Math.imul(0xca01f9dd, x) - Math.imul(0x4973f715, y);
    return both ^ (both >>> 16);
  };
  const pool = Uint32Array.from({ length: 4 }, (_, i) => hash(entropy[i] ?? 0));
  for (let from = 0; from < 4; from++)
    for (let to = 0; to < 4; to++) if (from !== to) pool[to] = mix(pool[to]!, hash(pool[from]!));
  let output = 0x8b51f9dd;
  return Uint32Array.from({ length: count }, (_, i) => {
    const mixed = pool[i % 4]! ^ output;
    output = Math.imul(output, 0x58f38ded);
    const product = Math.imul(mixed, output);
    return product ^ (product >>> 16);
  });
}

/**
 * A whole number in 0 .. most, each equally likely: NumPy draws as many bits as `most` has until they fit. `most` is below 2^32.
 */
export function drawUpTo(most: number, uint32: () => number): number {
  if (most === 0) return 0;
  const mask = 0xffffffff >>> Math.clz32(most);
  for (;;) {
    const value = (uint32() & mask) >>> 0;
    if (value <= most) return value;
  }
}

/** The generator that `numpy.random.default_rng(seed)` makes. */
export class NumpyGenerator {
  #state: bigint;
  readonly #increment: bigint;
  /** The upper half of a 64-bit draw whose lower half was given out; -1: none. */
  #half = -1;

  /** @throws {RangeError} if the seed is not an integer of at least 0 */
  constructor(seed: number) {
    if (!Number.isSafeInteger(seed) || seed < 0)
      throw new RangeError(`NumpyGenerator: seed must be an integer of at least 0: got ${seed}.`);
    const words = seedWords(seed, 8);
    const word = (i: number): bigint => (BigInt(words[2 * i + 1]!) << 32n) | BigInt(words[2 * i]!);
    this.#increment = ((((word(2) << 64n) | word(3)) << 1n) | 1n) & low128;
    this.#state = (this.#increment + ((word(0) << 64n) | word(1))) & low128;
    this.#step();
  }

  #step(): void {
    this.#state = (this.#state * multiplier + this.#increment) & low128;
  }

  /** The next 64 bits. */
  uint64(): bigint {
    this.#step();
    const folded = (this.#state >> 64n) ^ (this.#state & low64);
    const turn = this.#state >> 122n;
    return ((folded >> turn) | (folded << (64n - turn))) & low64;
  }

  /** The next 32 bits: the lower half of a 64-bit draw, then its upper half. */
  uint32(): number {
    if (this.#half >= 0) {
      const upper = this.#half;
      this.#half = -1;
      return upper;
    }
    const drawn = this.uint64();
    this.#half = Number(drawn >> 32n);
    return Number(drawn & 0xffffffffn);
  }

  /** `Generator.permutation(n)`: 0 .. n-1 in random order. */
  permutation(n: number): Int32Array {
    const order = Int32Array.from({ length: n }, (_, i) => i);
    for (let i = n - 1; i > 0; i--) {
      const j = drawUpTo(i, () => this.uint32());
      [order[i], order[j]] = [order[j]!, order[i]!];
    }
    return order;
  }
}
