/** NumPy's legacy generator, `numpy.random.RandomState`: MT19937 (Matsumoto and Nishimura 1998), which rouge_score resamples with. */
import { drawUpTo } from '../data/numpy-generator.ts';

const [size, middle] = [624, 397];

export class NumpyRandomState {
  readonly #words = new Uint32Array(size);
  #at = size;

  /** As `numpy.random.seed(seed)`. @throws {RangeError} if the seed is not an integer in 0 .. 2^32 - 1 */
  constructor(seed: number) {
    if (!Number.isInteger(seed) || seed < 0 || seed >= 2 ** 32)
      throw new RangeError(`NumpyRandomState: seed must be an integer in 0 .. 2^32 - 1: got ${seed}.`);
    this.#words[0] = seed;
    for (let i = 1; i < size; i++) {
      const before = this.#words[i - 1]!;
      this.#words[i] = Math.imul(1812433253, before ^ (before >>> 30)) + i;
    }
  }

  #turn(): void {
    const w = this.#words;
    for (let i = 0; i < size; i++) {
      const joined = (w[i]! & 0x80000000) | (w[(i + 1) % size]! & 0x7fffffff);
      w[i] = w[(i + middle) % size]! ^ (joined >>> 1) ^ (joined & 1 ? 0x9908b0df : 0);
    }
    this.#at = 0;
  }

  /** The next 32 bits. */
  uint32(): number {
    if (this.#at === size) this.#turn();
    let y = this.#words[this.#at++]!;
    y ^= y >>> 11;
    y ^= (y << 7) & 0x9d2c5680;
    y ^= (y << 15) & 0xefc60000;
    return (y ^ (y >>> 18)) >>> 0;
  }

  /** `RandomState.choice(n, size=count)`: whole numbers in 0 .. n - 1, with repetition. */
  choice(n: number, count: number): Int32Array {
    return Int32Array.from({ length: count }, () => drawUpTo(n - 1, () => this.uint32()));
  }
}
