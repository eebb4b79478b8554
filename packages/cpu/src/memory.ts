/**
 * Linear memories that grow, with an allocator: work memory (32-bit addresses, at most 4 GiB) where kernels compute, and
 * the store (64-bit, at most 16 GiB) for large tensors that are only read, such as frozen weights.
 * Blocks are 64-byte aligned and rounded up to 64 bytes, so a kernel may read a full vector past a tensor's last element.
 */
import { OutOfMemoryError } from '@lorikeet/tensor';
import type { MemoryShape } from './assembler.ts';
import { alignment, type Block, FreeBlocks } from './free-blocks.ts';

const pageBytes = 65536;
/** A turn of four vectors may be read past the last element, even of the last block. */
const slackBytes = 64;
/** Grow by at least this much: growing is a system call in every thread. */
const growthBytes = 8 * 1024 * 1024;

const roundUp = (value: number, to: number) => Math.ceil(value / to) * to;
const blockAt = (address: number, bytes: number, previous: Block | undefined, next: Block | undefined): Block => ({
  address,
  bytes,
  free: false,
  previous,
  next,
  smaller: undefined,
  larger: undefined,
});
const maxWorkPages = 65536;
/** V8's limit for 64-bit memories: 16 GiB. */
export const maxStorePages = 262144;

/** Best fit, with coalescing of neighbours; addresses are stable. */
export class LinearMemory {
  readonly memory: WebAssembly.Memory;
  readonly shape: MemoryShape;
  readonly limitBytes: number;
  /** Called where no free block is large enough: it may give some back. */
  beforeGrowing: (() => void) | undefined;
  readonly #wide: boolean;
  #capacity: number;
  #last: Block;
  readonly #byAddress = new Map<number, Block>();
  readonly #free = new FreeBlocks();
  #live = 0;
  #peak = 0;
  #bytes: Uint8Array<ArrayBufferLike>;

  /** The first page is left to the team's control words and argument blocks. */
  constructor(options: { shared: boolean; limitBytes?: number | undefined; wide?: boolean; storePages?: number }) {
    const { shared, limitBytes = Number.POSITIVE_INFINITY, wide = false, storePages } = options;
    const limitPages = Math.floor(limitBytes / pageBytes);
    const maximum = Math.max(2, Math.min(limitPages, wide ? maxStorePages : maxWorkPages));
    this.#wide = wide;
    this.shape = { shared, maximumPages: maximum, storePages };
    this.limitBytes = maximum * pageBytes;
    const descriptor = wide
      ? { initial: 2n, maximum: BigInt(maximum), shared, address: 'i64' }
      : { initial: 2, maximum, shared };
    this.memory = new WebAssembly.Memory(descriptor as WebAssembly.MemoryDescriptor);
    this.#capacity = 2 * pageBytes;
    this.#bytes = new Uint8Array(this.memory.buffer);
    this.#last = blockAt(pageBytes, pageBytes, undefined, undefined);
    this.#free.add(this.#last);
  }

  /** Bytes in blocks that are allocated now, rounding included. */
  get liveBytes(): number {
    return this.#live;
  }

  get peakBytes(): number {
    return this.#peak;
  }

  get capacityBytes(): number {
    return this.#capacity;
  }

  /** All bytes of the memory. A growing allocation makes older views too short, so ask again after allocating. */
  get bytes(): Uint8Array<ArrayBufferLike> {
    if (this.#bytes.length !== this.#capacity) this.#bytes = new Uint8Array(this.memory.buffer);
    return this.#bytes;
  }

  /** A block of at least `bytes` bytes. Its content is arbitrary. Throws OutOfMemoryError. */
  allocate(bytes: number): number {
    if (!Number.isSafeInteger(bytes) || bytes < 0) throw new RangeError(`cpu memory: bytes must be a size: ${bytes}.`);
    const needed = roundUp(bytes + slackBytes, alignment);
    const block = this.#free.find(needed) ?? this.#relieved(needed) ?? this.#grow(needed);
    this.#free.remove(block);
    if (block.bytes > needed) this.#split(block, needed);
    this.#byAddress.set(block.address, block);
    this.#live += block.bytes;
    if (this.#live > this.#peak) this.#peak = this.#live;
    return block.address;
  }

  release(address: number): void {
    const block = this.#byAddress.get(address);
    if (!block) throw new Error(`cpu memory: release needs the address of a live block: ${address}.`);
    this.#byAddress.delete(address);
    this.#live -= block.bytes;
    const { previous, next } = block;
    if (next?.free) this.#absorb(block, next);
    if (previous?.free) {
      this.#free.remove(previous);
      this.#absorb(previous, block);
      this.#free.add(previous);
    } else this.#free.add(block);
  }

  resetPeak(): void {
    this.#peak = this.#live;
  }

  /** Joins `right` to its left neighbour, which is in no bin. */
  #absorb(left: Block, right: Block): void {
    if (right.free) this.#free.remove(right);
    left.bytes += right.bytes;
    left.next = right.next;
    if (right.next) right.next.previous = left;
    if (this.#last === right) this.#last = left;
  }

  #relieved(needed: number): Block | undefined {
    this.beforeGrowing?.();
    return this.#free.find(needed);
  }

  #split(block: Block, bytes: number): void {
    const rest = blockAt(block.address + bytes, block.bytes - bytes, block, block.next);
    if (block.next) block.next.previous = rest;
    block.next = rest;
    block.bytes = bytes;
    if (this.#last === block) this.#last = rest;
    this.#free.add(rest);
  }

  #grow(needed: number): Block {
    const missing = needed - (this.#last.free ? this.#last.bytes : 0);
    const room = this.limitBytes - this.#capacity;
    const growth = Math.min(roundUp(Math.max(missing, growthBytes, this.#capacity / 8), pageBytes), room);
    if (missing > room || !this.#grewBy(growth)) {
      throw new OutOfMemoryError(
        `cpu memory: a block must fit: ${needed} bytes asked, ${this.#live} live, limit ${this.limitBytes}. ` +
          `Dispose tensors, use shorter batches or checkpoint(); ${this.#wide ? 'the store ends at 16' : 'work memory ends at 4'} GiB.`,
      );
    }
    const before = this.#last;
    const added = blockAt(this.#capacity, growth, before, undefined);
    this.#capacity += growth;
    before.next = added;
    this.#last = added;
    if (!before.free) {
      this.#free.add(added);
      return added;
    }
    this.#free.remove(before);
    this.#absorb(before, added);
    this.#free.add(before);
    return before;
  }

  #grewBy(bytes: number): boolean {
    try {
      const pages = bytes / pageBytes;
      this.memory.grow((this.#wide ? BigInt(pages) : pages) as number);
      return true;
    } catch {
      return false;
    }
  }
}
