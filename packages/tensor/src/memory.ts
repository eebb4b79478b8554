import type { Backend, BufferHandle } from './backend.ts';

/** Storages alive on one backend, in count and bytes. */
export interface MemoryUse {
  liveTensors: number;
  liveBytes: number;
  peakBytes: number;
}

const uses = new WeakMap<Backend, MemoryUse>();

/** Live and peak bytes of all tensors on a backend (several handles of one storage count once). Set `peakBytes` to measure anew. */
export function memory(backend: Backend): MemoryUse {
  let use = uses.get(backend);
  if (!use) uses.set(backend, (use = { liveTensors: 0, liveBytes: 0, peakBytes: 0 }));
  return use;
}

/** Lets a backend that has such a place keep a tensor's memory out of the way until it is used again; else does nothing. */
export function pageOut(t: { readonly backend: Backend; storage(op: string): Storage }): void {
  t.backend.pageOut?.(t.storage('pageOut').buffer);
}

/** A counted piece of backend memory: alive while a handle or a saved value names it. */
export class Storage {
  readonly backend: Backend;
  readonly buffer: BufferHandle;
  readonly byteLength: number;
  /** Raised by every op that writes in place, so that backward can refuse a stale saved value. */
  version = 0;
  /** The op that last wrote in place, for that refusal. */
  writer = '';
  #owners = 1;
  readonly #use: MemoryUse;

  constructor(backend: Backend, byteLength: number) {
    this.backend = backend;
    this.byteLength = byteLength;
    this.buffer = backend.allocate(byteLength);
    const use = memory(backend);
    this.#use = use;
    use.liveTensors++;
    use.liveBytes += byteLength;
    if (use.liveBytes > use.peakBytes) use.peakBytes = use.liveBytes;
  }
  /** Notes that an op wrote in place. */
  written(op: string): void {
    this.version++;
    this.writer = op;
  }
  retain(): this {
    this.#owners++;
    return this;
  }
  release(): void {
    if (--this.#owners > 0) return;
    this.#use.liveTensors--;
    this.#use.liveBytes -= this.byteLength;
    this.backend.free(this.buffer);
  }
}
