import { availableParallelism } from 'node:os';
import { cpu } from '@lorikeet/cpu';
import { referenceBackend } from '@lorikeet/tensor';
import { expect, test } from 'vitest';
import { measureEngine, missingForSpeed } from './measure-engine.ts';

test('the limits of the CPU engine are rates, and their memory is given back', async () => {
  await using backend = await cpu({ threads: 1 });
  const before = backend.describe().liveBytes;
  const { multiplyAddGflops, copyGbPerSecond, readGbPerSecond } = measureEngine(backend)!;
  // A machine of this century, and not one of the next.
  for (const rate of [multiplyAddGflops, copyGbPerSecond, readGbPerSecond]) {
    expect(rate).toBeGreaterThan(0.1);
    expect(rate).toBeLessThan(10_000);
  }
  expect((backend.describe().liveBytes as number) - (before as number)).toBeLessThan(2 ** 16);
});

test('other backends have no such limits', () => {
  expect(measureEngine(referenceBackend())).toBeUndefined();
});

test('what is missing is named, and nothing else', () => {
  const best = {
    threads: availableParallelism(),
    sharedMemory: true,
    relaxedSimd: true,
    revectorize: true,
    storeLimitBytes: 2 ** 34,
    switchedOff: [],
  };
  expect(missingForSpeed(best)).toEqual([]);
  const lines = missingForSpeed({ ...best, threads: 0, relaxedSimd: false, storeLimitBytes: 0, switchedOff: ['rope'] });
  expect(lines.map((line) => line.split(' ')[0])).toEqual(['relaxed', '64-bit', 'threads:', 'rope:']);
  expect(missingForSpeed({ ...best, revectorize: false, sharedMemory: false })).toHaveLength(2);
});
