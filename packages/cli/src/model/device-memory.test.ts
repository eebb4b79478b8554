import { cpu } from '@lorikeet/cpu';
import { memoryFiles } from '@lorikeet/files';
import { writeSafetensors } from '@lorikeet/safetensors';
import { OutOfMemoryError } from '@lorikeet/tensor';
import { afterEach, beforeEach, expect, test, vi } from 'vitest';
import { deviceMemory, requireRoomForWeights } from './device-memory.ts';
import { loadedWeightBytes } from './quantization.ts';

const MiB = 2 ** 20;
let backend: Awaited<ReturnType<typeof cpu>>;
beforeEach(async () => {
  // Without a store, work memory is all there is.
  vi.stubEnv('LORIKEET_CPU', 'nomem64');
  backend = await cpu({ threads: 1, memoryLimitBytes: 8 * MiB });
});
afterEach(async () => {
  vi.unstubAllEnvs();
  await backend.close();
});

/** A model folder with so many bytes of weights. */
async function folderOf(bytes: number) {
  const files = memoryFiles();
  await files.makeDirectory('big');
  const entry = { name: 'w', dtype: 'bf16', shape: [bytes / 2], bytes: () => new Uint8Array(bytes) };
  await writeSafetensors(files, 'big/model.safetensors', [entry]);
  return files;
}

test('work memory is what is computed in; a store comes on top', async () => {
  expect(deviceMemory(backend)).toEqual({ limitBytes: 8 * MiB, workBytes: 8 * MiB });
  vi.unstubAllEnvs();
  const withStore = await cpu({ threads: 1, memoryLimitBytes: 8 * MiB });
  const { limitBytes, workBytes } = deviceMemory(withStore);
  expect(workBytes).toBe(8 * MiB);
  expect(limitBytes).toBe(8 * MiB + (withStore.describe().storeLimitBytes as number));
  await withStore.close();
});

test('weights that the device cannot hold are refused before they are read', async () => {
  const dense = { config: undefined, stored: false };
  requireRoomForWeights(await loadedWeightBytes(await folderOf(8 * MiB), 'big', dense), backend);
  const bytes = await loadedWeightBytes(await folderOf(9 * MiB), 'big', dense);
  const refused = () => requireRoomForWeights(bytes, backend, 'Quantize them');
  expect(refused).toThrow(OutOfMemoryError);
  expect(refused).toThrow(
    /must fit into the 8\.0 MiB of memory that the cpu backend can hold: they take 9\.0 MiB\. Quantize them, or use a smaller model/,
  );
});
