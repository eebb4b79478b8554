/** The free blocks of a memory, by size: taking and giving back touch a few words, whatever number of blocks there is. */

/** A piece of a memory; neighbours by address make one chain, free blocks of a bin another. */
export interface Block {
  address: number;
  bytes: number;
  free: boolean;
  previous: Block | undefined;
  next: Block | undefined;
  /** Neighbours in the bin, while free. */
  smaller: Block | undefined;
  larger: Block | undefined;
}

/** Sizes are multiples of this. */
export const alignment = 64;

/** Four bins an octave: blocks of one bin differ by less than 25 %. */
function binOf(bytes: number): number {
  const units = bytes / alignment;
  const octave = 31 - Math.clz32(units);
  const quarter = octave < 2 ? units << (2 - octave) : units >>> (octave - 2);
  return octave * 4 + (quarter & 3);
}

/** Bins of sizes below 2^38 bytes. */
const binCount = 128;

export class FreeBlocks {
  /** Each bin as a list from its smallest block on. */
  readonly #first = new Array<Block | undefined>(binCount).fill(undefined);
  /** Bit b of word w: bin 32 w + b holds something. */
  readonly #occupied = new Int32Array(binCount / 32);

  add(block: Block): void {
    const bin = binOf(block.bytes);
    let before: Block | undefined;
    let after = this.#first[bin];
    while (after && after.bytes < block.bytes) {
      before = after;
      after = after.larger;
    }
    block.free = true;
    block.smaller = before;
    block.larger = after;
    if (after) after.smaller = block;
    if (before) before.larger = block;
    else this.#first[bin] = block;
    this.#occupied[bin >> 5]! |= 1 << (bin & 31);
  }

  remove(block: Block): void {
    const { smaller, larger } = block;
    if (larger) larger.smaller = smaller;
    if (smaller) smaller.larger = larger;
    else {
      const bin = binOf(block.bytes);
      this.#first[bin] = larger;
      if (!larger) this.#occupied[bin >> 5]! &= ~(1 << (bin & 31));
    }
    block.free = false;
    block.smaller = undefined;
    block.larger = undefined;
  }

  /** The smallest free block of at least so many bytes. */
  find(bytes: number): Block | undefined {
    const bin = binOf(bytes);
    for (let block = this.#first[bin]; block; block = block.larger) if (block.bytes >= bytes) return block;
    const next = this.#occupiedFrom(bin + 1);
    return next < 0 ? undefined : this.#first[next];
  }

  #occupiedFrom(bin: number): number {
    for (let word = bin >> 5; word < this.#occupied.length; word++) {
      const bits = word === bin >> 5 ? this.#occupied[word]! & (-1 << (bin & 31)) : this.#occupied[word]!;
      if (bits !== 0) return word * 32 + 31 - Math.clz32(bits & -bits);
    }
    return -1;
  }
}
