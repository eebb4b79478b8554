import { permutationOf, randomKey } from '@lorikeet/tensor';

/** What is drawn from, and in which order. */
export interface SamplerOptions {
  /** Items to draw from: examples, or packs of examples. */
  readonly itemCount: number;
  /** Items of a micro-batch. */
  readonly batchSize: number;
  /** 'random' draws a new permutation each epoch. @defaultValue 'random' */
  readonly order?: 'random' | 'sequential';
  /** @defaultValue 0 */
  readonly seed?: number;
}

/** Where a sampler stands: JSON that goes into a checkpoint. The other fields only guard against resuming on other data. */
export interface SamplerState {
  readonly epoch: number;
  /** Items of this epoch already given out. */
  readonly position: number;
  readonly itemCount: number;
  readonly batchSize: number;
  readonly order: 'random' | 'sequential';
  readonly seed: number;
}

/** The items of a micro-batch, in order. */
export interface Draw {
  readonly epoch: number;
  readonly indices: number[];
}

/**
 * Draws micro-batches without end: each epoch gives each item once, the last batch of an epoch may be smaller. The permutation of epoch
 * e is a function of (seed, e), so four numbers restore it and the sequence goes on as if never interrupted.
 */
export class Sampler {
  readonly #options: Required<SamplerOptions>;
  #epoch = 0;
  #position = 0;
  #order: { epoch: number; indices: Int32Array } | undefined;

  /** @throws {RangeError} if there is nothing to draw or a count is not an integer of at least 1 */
  constructor({ itemCount, batchSize, order = 'random', seed = 0 }: SamplerOptions) {
    for (const [name, value] of Object.entries({ itemCount, batchSize }))
      if (!Number.isInteger(value) || value < 1)
        throw new RangeError(`Sampler: ${name} must be an integer of at least 1: got ${value}.`);
    this.#options = { itemCount, batchSize, order, seed };
  }

  /** Draws of one epoch; the last may be smaller. */
  get batchesPerEpoch(): number {
    return Math.ceil(this.#options.itemCount / this.#options.batchSize);
  }

  /** Epochs given out so far, with the fraction of the current one. */
  get epochs(): number {
    return this.#epoch + this.#position / this.#options.itemCount;
  }

  /** The next micro-batch. */
  next(): Draw {
    const { itemCount, batchSize } = this.#options;
    const epoch = this.#epoch;
    const end = Math.min(itemCount, this.#position + batchSize);
    const indices = Array.from(this.#indices(epoch).subarray(this.#position, end));
    this.#position = end;
    if (end === itemCount) [this.#epoch, this.#position] = [epoch + 1, 0];
    return { epoch, indices };
  }

  /** Where it stands, for `restore`. */
  state(): SamplerState {
    return { epoch: this.#epoch, position: this.#position, ...this.#options };
  }

  /** Goes on from a saved state. @throws {RangeError} naming what differs from the run that saved it */
  restore(state: SamplerState): void {
    const differs = (['itemCount', 'batchSize', 'order', 'seed'] as const).filter(
      (name) => state[name] !== this.#options[name],
    );
    if (differs.length > 0)
      throw new RangeError(
        `Sampler: a resumed run must draw as the saved one did: ${differs.map((name) => `${name} was ${state[name]} and is ${this.#options[name]}`).join(', ')}. Use the saved settings and data, or start anew.`,
      );
    const { epoch, position } = state;
    if (
      !Number.isSafeInteger(epoch) ||
      epoch < 0 ||
      !Number.isSafeInteger(position) ||
      position < 0 ||
      position >= state.itemCount
    )
      throw new RangeError(
        `Sampler: epoch and position must be integers within the data: got ${epoch} and ${position} of ${state.itemCount}.`,
      );
    [this.#epoch, this.#position] = [epoch, position];
  }

  #indices(epoch: number): Int32Array {
    if (this.#order?.epoch !== epoch) {
      const { itemCount, order, seed } = this.#options;
      const indices =
        order === 'random'
          ? permutationOf(itemCount, randomKey(seed, 'epoch', epoch))
          : Int32Array.from({ length: itemCount }, (_, i) => i);
      this.#order = { epoch, indices };
    }
    return this.#order.indices;
  }
}
