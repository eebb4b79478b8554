import { OutOfMemoryError } from '@lorikeet/tensor';
import type { Faults } from './faults.ts';

/** Values of the WebGPU specification; Node has no globals of these names. */
export const bufferUsage = { mapRead: 1, copySource: 4, copyTarget: 8, uniform: 64, storage: 128 } as const;

/** A GPU buffer that passes from tensor to tensor. */
export interface PooledBuffer {
  readonly gpu: GPUBuffer;
  readonly capacity: number;
  /** For the bind group cache. */
  readonly id: number;
  /** The last batch whose commands name it. */
  lastBatch: number;
  /** The device had no memory for it after all: it must not be passed on. */
  broken: boolean;
}

/** A tensor's memory: the backend's BufferHandle. */
export class DeviceBuffer {
  readonly pooled: PooledBuffer;
  readonly byteLength: number;
  freed = false;
  constructor(pooled: PooledBuffer, byteLength: number) {
    this.pooled = pooled;
    this.byteLength = byteLength;
  }
  /** Bytes that are bound: whole words. */
  get boundLength(): number {
    return Math.max(4, Math.ceil(this.byteLength / 4) * 4);
  }
}

const smallestClass = 256;
/** Freed bytes that are always worth keeping. */
const keptBytes = 64 * 2 ** 20;

/** Sizes come in eighths of a power of two, so that at most an eighth is wasted and freed buffers find a taker. */
export function sizeClass(byteLength: number): number {
  if (byteLength <= smallestClass) return smallestClass;
  const step = Math.max(smallestClass, 2 ** Math.floor(Math.log2(byteLength)) / 8);
  return Math.ceil(byteLength / step) * step;
}

export interface PoolUse {
  readonly liveBuffers: number;
  readonly liveBytes: number;
  readonly pooledBytes: number;
}

/**
 * Buffers by size class. A freed buffer may still be named by commands that wait; because commands run in order, whoever
 * takes it next writes after those have read.
 */
export class BufferPool {
  readonly #device: GPUDevice;
  readonly #faults: Faults;
  readonly #free = new Map<number, PooledBuffer[]>();
  /** Surplus buffers; a destroyed buffer may not be named by a submit, so they go after the next one. */
  #doomed: PooledBuffer[] = [];
  #nextId = 0;
  #liveBuffers = 0;
  #liveBytes = 0;
  #pooledBytes = 0;

  constructor(device: GPUDevice, faults: Faults) {
    this.#device = device;
    this.#faults = faults;
  }

  get use(): PoolUse {
    return { liveBuffers: this.#liveBuffers, liveBytes: this.#liveBytes, pooledBytes: this.#pooledBytes };
  }

  take(byteLength: number): DeviceBuffer {
    const { maxStorageBufferBindingSize, maxBufferSize } = this.#device.limits;
    const limit = Math.floor(Math.min(maxStorageBufferBindingSize, maxBufferSize) / 4) * 4;
    const limitName = maxBufferSize < maxStorageBufferBindingSize ? 'maxBufferSize' : 'maxStorageBufferBindingSize';
    if (byteLength > limit)
      throw new OutOfMemoryError(
        `allocate: a tensor on this WebGPU device may have ${limit} bytes (${limitName}): got ${byteLength}, with ${this.#liveBytes} bytes live. Split the tensor, or use a device or backend with a larger limit.`,
      );
    const capacity = Math.min(sizeClass(byteLength), limit);
    const reused = this.#reuse(capacity);
    const pooled = reused ?? this.#create(capacity, byteLength);
    this.#liveBuffers++;
    this.#liveBytes += capacity;
    return new DeviceBuffer(pooled, byteLength);
  }

  give(buffer: DeviceBuffer): void {
    if (buffer.freed) throw new Error('free: the buffer was freed before.');
    buffer.freed = true;
    const { pooled } = buffer;
    this.#liveBuffers--;
    this.#liveBytes -= pooled.capacity;
    const surplus = this.#pooledBytes + pooled.capacity > Math.max(keptBytes, this.#liveBytes);
    if (surplus || pooled.broken) {
      this.#doomed.push(pooled);
      return;
    }
    this.#pooledBytes += pooled.capacity;
    const list = this.#free.get(pooled.capacity);
    if (list) list.push(pooled);
    else this.#free.set(pooled.capacity, [pooled]);
  }

  /** Destroys surplus buffers; call right after a submit. */
  trim(): void {
    for (const { gpu } of this.#doomed) gpu.destroy();
    this.#doomed = [];
  }

  #reuse(capacity: number): PooledBuffer | undefined {
    const list = this.#free.get(capacity) ?? [];
    for (let found = list.pop(); found; found = list.pop()) {
      this.#pooledBytes -= capacity;
      if (!found.broken) return found;
      this.#doomed.push(found);
    }
    return undefined;
  }

  #create(capacity: number, byteLength: number): PooledBuffer {
    const usage = bufferUsage.storage | bufferUsage.copySource | bufferUsage.copyTarget;
    const pooled: PooledBuffer = this.#faults.watch(
      () => ({
        gpu: this.#device.createBuffer({ size: capacity, usage }),
        capacity,
        id: this.#nextId++,
        lastBatch: 0,
        broken: false,
      }),
      `allocate: the device has no memory for ${byteLength} bytes more, with ${this.#liveBytes} bytes live. Free tensors, use shorter batches or a smaller model.`,
      async () => {
        pooled.broken = true;
        return '';
      },
    );
    return pooled;
  }
}
