import { expect, test } from 'vitest';
import { cpu, probes } from './index.ts';

test.each([1, 2])('probes run on %i threads, say how much they did, and give their memory back', async (threads) => {
  await using backend = await cpu({ threads });
  const before = backend.team.memory.liveBytes;
  const made = probes(backend, { bytes: 2 ** 21 });
  for (const probe of [made.region, made.multiplyAdd, ...made.copies, ...made.reads]) {
    expect(probe.work).toBeGreaterThan(0);
    probe.run();
  }
  expect(made.copies.map(({ work }) => work)).toEqual([2 ** 22, 2 ** 22]);
  expect(made.reads.map(({ work }) => work)).toEqual([2 ** 21, 2 ** 21, 2 ** 21, 2 ** 21]);
  expect(backend.team.memory.liveBytes).toBeGreaterThan(before + 2 ** 22);
  made.close();
  expect(backend.team.memory.liveBytes - before).toBeLessThan(2 ** 16);
});

test('probes need whole chunks', async () => {
  await using backend = await cpu({ threads: 1 });
  expect(() => probes(backend, { bytes: 1000 })).toThrow('probes: bytes must be a multiple of 1048576: got 1000.');
});
