/**
 * A small seeded generator of random integers (sfc32 by Chris Doty-Humphrey, from PractRand), in 32-bit integer
 * arithmetic only, so that every machine makes the same corpus.
 */
export class SeededRandom {
  #a: number;
  #b: number;
  #c: number;
  #counter = 1;

  /** `stream` keeps parts of one program apart: more draws in one part change nothing in another. */
  constructor(seed: number, stream = '') {
    this.#a = 0x9e3779b9;
    this.#b = seed | 0;
    this.#c = hashOf(stream);
    for (let i = 0; i < 16; i++) this.uint32();
  }

  /** The next 32 bits. */
  uint32(): number {
    const sum = (this.#a + this.#b + this.#counter) | 0;
    this.#counter = (this.#counter + 1) | 0;
    this.#a = this.#b ^ (this.#b >>> 9);
    this.#b = (this.#c + (this.#c << 3)) | 0;
    this.#c = (((this.#c << 21) | (this.#c >>> 11)) + sum) | 0;
    return sum >>> 0;
  }

  /** An integer from 0 to `limit - 1`, each equally likely (rejection, no modulo bias). */
  below(limit: number): number {
    const ceiling = 2 ** 32 - (2 ** 32 % limit);
    let draw = this.uint32();
    while (draw >= ceiling) draw = this.uint32();
    return draw % limit;
  }

  /** An integer from `low` to `high`, both included. */
  between(low: number, high: number): number {
    return low + this.below(high - low + 1);
  }

  /** True in `percent` of 100 draws. */
  chance(percent: number): boolean {
    return this.below(100) < percent;
  }

  pick<T>(items: readonly T[]): T {
    if (items.length === 0) throw new RangeError('SeededRandom.pick: there must be something to pick from: got [].');
    return items[this.below(items.length)]!;
  }

  /** `count` different items in random order. */
  sample<T>(items: readonly T[], count: number): T[] {
    return this.shuffle(items).slice(0, count);
  }

  /** A shuffled copy (Fisher-Yates). */
  shuffle<T>(items: readonly T[]): T[] {
    const out = [...items];
    for (let i = out.length - 1; i > 0; i--) {
      const j = this.below(i + 1);
      [out[i], out[j]] = [out[j]!, out[i]!];
    }
    return out;
  }
}

/** FNV-1a over UTF-16 code units. */
function hashOf(text: string): number {
  let hash = 0x811c9dc5;
  for (let i = 0; i < text.length; i++) hash = Math.imul(hash ^ text.charCodeAt(i), 0x01000193);
  return hash | 0;
}
