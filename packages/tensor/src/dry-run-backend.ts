import type { Backend } from './backend.ts';

/**
 * A backend that computes nothing: its tensors have shapes, dtypes and a number of bytes, and every element reads as 0. A
 * training step run on it is over in milliseconds at any size, and `memory(backend).peakBytes` then says how many bytes of
 * tensors that step holds at once. `like` is asked which ops have a kernel, because a composed op makes more tensors than
 * one that runs whole; `onAllocate` hears of every tensor.
 */
export function dryRunBackend(like: Backend, onAllocate: (byteLength: number) => void = () => undefined): Backend {
  return {
    name: like.name,
    dtypes: like.dtypes,
    readsColumnBlocks: like.readsColumnBlocks ?? false,
    allocate: (byteLength) => {
      onAllocate(byteLength);
      return {};
    },
    free: () => undefined,
    write: () => undefined,
    read: async (_buffer, _byteOffset, byteLength) => new Uint8Array(byteLength),
    supports: (call) => like.supports(call),
    run: () => undefined,
    sync: async () => undefined,
    close: async () => undefined,
    describe: () => ({ name: like.name, dryRun: true }),
  };
}
