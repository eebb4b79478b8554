/**
 * Where tensors lie: in work memory, or, large and only read, in the store. A tensor written whole is taken for a weight
 * and put into the store; a call that cannot read it there borrows a copy, or moves it back where there is room.
 */
import { type Operand, OutOfMemoryError, sizeOf } from '@lorikeet/tensor';
import { CpuBuffer, widthOf } from './buffer.ts';
import type { LinearMemory } from './memory.ts';

/** Bytes of its buffer that an operand reads: first and end. */
function spanOf(operand: Operand): [start: number, end: number] {
  const { shape, offset, rowStride } = operand;
  const width = widthOf(operand);
  const row = sizeOf(shape.slice(1));
  const elements = sizeOf(shape) === 0 ? 0 : ((shape[0] ?? 1) - 1) * rowStride + row;
  return [offset * width, (offset + elements) * width];
}

export class Placement {
  readonly #work: LinearMemory;
  readonly #store: LinearMemory | undefined;
  readonly #storeFromBytes: number;

  constructor(work: LinearMemory, store: LinearMemory | undefined, storeFromBytes: number) {
    this.#work = work;
    this.#store = store;
    this.#storeFromBytes = storeFromBytes;
  }

  allocate(byteLength: number): CpuBuffer {
    return new CpuBuffer(this.#work.allocate(byteLength), byteLength);
  }

  free(buffer: CpuBuffer): void {
    if (buffer.freed) throw new Error('cpu: a buffer must be freed once: it was freed before.');
    buffer.freed = true;
    this.#memoryOf(buffer).release(buffer.address);
  }

  /** The buffer's bytes, until the next allocation. */
  bytesOf(buffer: CpuBuffer): Uint8Array<ArrayBufferLike> {
    return this.#memoryOf(buffer).bytes.subarray(buffer.address, buffer.address + buffer.byteLength);
  }

  write(buffer: CpuBuffer, byteOffset: number, bytes: Uint8Array): void {
    const whole = byteOffset === 0 && bytes.length === buffer.byteLength;
    if (whole && !buffer.inStore && bytes.length >= this.#storeFromBytes) this.#moveToStore(buffer, false);
    this.bytesOf(buffer).set(bytes, byteOffset);
  }

  /** Moves a buffer to the store until something writes it, if it is worth it. */
  pageOut(buffer: CpuBuffer): void {
    if (!buffer.inStore && buffer.byteLength >= this.#storeFromBytes) this.#moveToStore(buffer, true);
  }

  /** Leaves a buffer where it is when the store is full. */
  #moveToStore(buffer: CpuBuffer, withContent: boolean): void {
    if (!this.#store) return;
    let address: number;
    try {
      address = this.#store.allocate(buffer.byteLength);
    } catch (error) {
      if (error instanceof OutOfMemoryError) return;
      throw error;
    }
    if (withContent) this.#store.bytes.set(this.bytesOf(buffer), address);
    this.#work.release(buffer.address);
    buffer.address = address;
    buffer.inStore = true;
  }

  /** Moves a buffer to work memory for good. */
  #moveToWork(buffer: CpuBuffer): void {
    const address = this.#work.allocate(buffer.byteLength);
    this.#work.bytes.set(this.bytesOf(buffer), address);
    this.#store!.release(buffer.address);
    buffer.address = address;
    buffer.inStore = false;
  }

  /**
   * Brings operands to work memory for one call: what is written moves; what is read whole moves while work memory is less
   * than half full; else the elements it reads are borrowed as a copy. `release` gives the copies back.
   */
  forWork(operands: readonly Operand[], written: ReadonlySet<object>): { operands: Operand[]; release: () => void } {
    const borrowed: CpuBuffer[] = [];
    const release = () => {
      for (const copy of borrowed) this.free(copy);
    };
    try {
      const placed = operands.map((operand) => {
        const buffer = operand.buffer as CpuBuffer;
        if (!buffer.inStore) return operand;
        const [start, end] = spanOf(operand);
        const isWhole = end - start === buffer.byteLength;
        const isRoomy = this.#work.liveBytes + buffer.byteLength < this.#work.limitBytes / 2;
        if (written.has(buffer) || (isWhole && isRoomy)) {
          this.#moveToWork(buffer);
          return operand;
        }
        const copy = this.allocate(end - start);
        borrowed.push(copy);
        this.bytesOf(copy).set(this.bytesOf(buffer).subarray(start, end));
        return { ...operand, buffer: copy, offset: 0 };
      });
      return { operands: placed, release };
    } catch (error) {
      release();
      throw error;
    }
  }

  #memoryOf({ inStore }: CpuBuffer): LinearMemory {
    return inStore ? this.#store! : this.#work;
  }
}
