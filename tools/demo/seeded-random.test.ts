import fc from 'fast-check';
import { expect, test } from 'vitest';
import { SeededRandom } from './seeded-random.ts';

const take = (random: SeededRandom, count: number): number[] => Array.from({ length: count }, () => random.uint32());

test('equal seeds and streams draw the same; either one different draws other numbers', () => {
  fc.assert(
    fc.property(fc.integer(), fc.string(), (seed, stream) => {
      const draws = take(new SeededRandom(seed, stream), 8);
      expect(take(new SeededRandom(seed, stream), 8)).toEqual(draws);
      expect(take(new SeededRandom(seed ^ 1, stream), 8)).not.toEqual(draws);
      expect(take(new SeededRandom(seed, `${stream}+`), 8)).not.toEqual(draws);
    }),
  );
});

test('the first draws of seed 1 are the ones the corpus was made with', () => {
  expect(take(new SeededRandom(1, 'corpus'), 4)).toEqual([818496357, 2253777015, 3091727892, 3130258578]);
});

test('below stays in its range and reaches all of it evenly', () => {
  const random = new SeededRandom(7);
  const counts = new Array<number>(10).fill(0);
  for (let i = 0; i < 10_000; i++) counts[random.below(10)]!++;
  for (const count of counts) expect(Math.abs(count - 1000)).toBeLessThan(150); // five standard deviations
});

test('a shuffle keeps the members', () => {
  fc.assert(
    fc.property(fc.array(fc.integer()), fc.integer(), (items, seed) => {
      const byValue = (list: number[]): number[] => [...list].sort((a, b) => a - b);
      expect(byValue(new SeededRandom(seed).shuffle(items))).toEqual(byValue(items));
    }),
  );
});

test('there must be something to pick from', () => {
  expect(() => new SeededRandom(1).pick([])).toThrow(/must be something to pick from/);
});
