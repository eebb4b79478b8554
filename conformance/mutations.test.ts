import { expect, test } from 'vitest';
import { mutations } from './mutation-list.ts';
import { runMutations, sampleMutations, seedOfToday, staleMutations } from './mutations.ts';

test('every mutation still finds the text that it breaks', async () => {
  expect(await staleMutations()).toEqual([]);
  expect(mutations.length).toBeGreaterThanOrEqual(25);
  expect(new Set(mutations.map((m) => m.name)).size).toBe(mutations.length);
});

test('a sample of mutations is noticed by the cases that it names', async () => {
  const seed = seedOfToday();
  const lines: string[] = [];
  const unnoticed = await runMutations(await sampleMutations(3, seed), (line) => lines.push(line));
  expect(unnoticed, `seed ${seed}\n${lines.join('\n')}`).toBe(0);
}, 600_000);
