import { type Backend, type Tensor, tensor } from '@lorikeet/tensor';
import type { Phi3Config } from './config.ts';

/** Cosines and sines of one list of frequencies, row by position, computed once and kept. */
class Rows {
  readonly #frequencies: Float32Array;
  readonly #scale: number;
  #rows = 0;
  cos = new Float32Array(0);
  sin = new Float32Array(0);

  constructor(frequencies: Float32Array, scale: number) {
    this.#frequencies = frequencies;
    this.#scale = scale;
  }
  get pairs(): number {
    return this.#frequencies.length;
  }
  /** Makes rows up to `count`, doubling. Angles are products in f32, as transformers computes them. */
  ensure(count: number): void {
    if (count <= this.#rows) return;
    const rows = Math.max(count, 2 * this.#rows, 64);
    const [cos, sin] = [new Float32Array(rows * this.pairs), new Float32Array(rows * this.pairs)];
    cos.set(this.cos);
    sin.set(this.sin);
    for (let position = this.#rows; position < rows; position++)
      for (let i = 0; i < this.pairs; i++) {
        const angle = Math.fround(position * this.#frequencies[i]!);
        cos[position * this.pairs + i] = Math.fround(Math.cos(angle)) * this.#scale;
        sin[position * this.pairs + i] = Math.fround(Math.sin(angle)) * this.#scale;
      }
    [this.cos, this.sin, this.#rows] = [cos, sin, rows];
  }
}

/** 1 / (factor_i * theta^(2i / rotaryDim)), in f32 at every step as torch does it. */
function frequencies(config: Phi3Config, factors: readonly number[] | null): Float32Array {
  const { rotaryDim, ropeTheta } = config;
  return Float32Array.from({ length: rotaryDim / 2 }, (_, i) => {
    const power = Math.fround(ropeTheta ** Math.fround((2 * i) / rotaryDim));
    return 1 / Math.fround(Math.fround(factors?.[i] ?? 1) * power);
  });
}

/** Rotation tables of a model: one list of frequencies, or LongRoPE's short and long ones. Host memory only. */
export class RopeTable {
  readonly #short: Rows;
  readonly #long: Rows | null;
  readonly #original: number;

  constructor(config: Phi3Config) {
    const { longRope } = config;
    const scale = longRope?.attentionFactor ?? 1;
    this.#original = config.originalMaxPositionEmbeddings;
    this.#short = new Rows(frequencies(config, longRope?.shortFactor ?? null), scale);
    this.#long = longRope && new Rows(frequencies(config, longRope.longFactor), scale);
  }

  /** Whether a sequence of this many tokens is rotated by the long factors: all of its tokens are. */
  isLong(sequenceLength: number): boolean {
    return this.#long !== null && sequenceLength > this.#original;
  }

  /**
   * [t], 1 where a token is rotated by the long factors: each sequence of a batch chooses by its own largest position, so that
   * it is rotated as if it were alone.
   */
  longTokens(positions: Int32Array, lengths: readonly number[]): Uint8Array {
    const long = new Uint8Array(positions.length);
    let start = 0;
    for (const length of lengths) {
      const reach = positions.subarray(start, start + length).reduce((most, p) => Math.max(most, p), -1) + 1;
      if (this.isLong(reach)) long.fill(1, start, start + length);
      start += length;
    }
    return long;
  }

  /** cos and sin [t, rotaryDim / 2] of tokens at `positions`, by the factors that `long` [t] says. */
  at(positions: Int32Array, long: Uint8Array, backend: Backend): { cos: Tensor; sin: Tensor } {
    const { pairs } = this.#short;
    const [cos, sin] = [new Float32Array(positions.length * pairs), new Float32Array(positions.length * pairs)];
    positions.forEach((p, i) => {
      const rows = long[i] ? this.#long! : this.#short;
      rows.ensure(p + 1);
      cos.set(rows.cos.subarray(p * pairs, (p + 1) * pairs), i * pairs);
      sin.set(rows.sin.subarray(p * pairs, (p + 1) * pairs), i * pairs);
    });
    const shape = [positions.length, pairs];
    return { cos: tensor(cos, { backend, shape }), sin: tensor(sin, { backend, shape }) };
  }
}
