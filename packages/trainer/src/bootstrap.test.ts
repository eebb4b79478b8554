import { normalsOf, randomKey } from '@lorikeet/tensor';
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { bootstrapDifference } from './bootstrap.ts';
import { exactMatch } from './exact-match.ts';

const noise = (n: number, seed: number, scale = 1): number[] =>
  Array.from(normalsOf(n, randomKey(seed)), (v) => v * scale);

describe('bootstrapDifference', () => {
  it('is seeded: equal seeds give equal intervals, others nearly equal ones', () => {
    const [a, b] = [noise(60, 1), noise(60, 2)];
    const first = bootstrapDifference(a, b, { seed: 4 });
    expect(bootstrapDifference(a, b, { seed: 4 })).toEqual(first);
    const other = bootstrapDifference(a, b, { seed: 5 });
    expect(other).not.toEqual(first);
    expect(Math.abs(other.low - first.low)).toBeLessThan(0.1);
  });
  it('agrees with the normal interval of a mean', () => {
    const a = noise(400, 3);
    const b = a.map((v, i) => v + noise(400, 4)[i]! * 0.5 + 0.1);
    const d = b.map((v, i) => v - a[i]!);
    const mean = d.reduce((s, v) => s + v, 0) / 400;
    const half = 1.96 * Math.sqrt(d.reduce((s, v) => s + (v - mean) ** 2, 0) / 400 / 400);
    const got = bootstrapDifference(a, b, { resamples: 4000 });
    expect(got.difference).toBeCloseTo(mean, 12);
    expect(Math.abs(got.low - (mean - half))).toBeLessThan(half * 0.15);
    expect(Math.abs(got.high - (mean + half))).toBeLessThan(half * 0.15);
    expect(got.conclusive).toBe(true);
  });
  it('holds the truth in 95 of 100 experiments, about', () => {
    let held = 0;
    for (let trial = 0; trial < 200; trial++) {
      const got = bootstrapDifference(noise(40, 1000 + trial), noise(40, 5000 + trial), {
        seed: trial,
        resamples: 400,
      });
      if (got.low <= 0 && got.high >= 0) held++;
    }
    expect(held).toBeGreaterThan(176);
    expect(held).toBeLessThan(199);
  });
  it('weights rows: the mean is the sum of sums over the sum of weights', () => {
    const a = [{ sum: 10, weight: 5 }, { sum: 1, weight: 1 }]; // biome-ignore format: rows
    const b = [{ sum: 5, weight: 5 }, { sum: 4, weight: 1 }]; // biome-ignore format: rows
    expect(bootstrapDifference(a, b)).toMatchObject({ meanA: 11 / 6, meanB: 9 / 6, difference: 9 / 6 - 11 / 6 });
  });
  it('equal lists, or one row, or rows of weight 0, never claim a difference they cannot know', () => {
    const list = noise(20, 9);
    expect(bootstrapDifference(list, list)).toMatchObject({ difference: 0, low: 0, high: 0, conclusive: false });
    const rows = [{ sum: 3, weight: 2 }, { sum: 0, weight: 0 }]; // biome-ignore format: rows
    expect(Number.isFinite(bootstrapDifference(rows, rows).low)).toBe(true);
  });
  it('is antisymmetric and contains its estimate', () => {
    const value = fc.double({ min: -100, max: 100, noNaN: true });
    fc.assert(
      fc.property(fc.array(fc.tuple(value, value), { minLength: 3, maxLength: 30 }), fc.nat(), (pairs, seed) => {
        const [a, b] = [pairs.map((p) => p[0]), pairs.map((p) => p[1])];
        const [ab, ba] = [
          bootstrapDifference(a, b, { seed, resamples: 200 }),
          bootstrapDifference(b, a, { seed, resamples: 200 }),
        ];
        expect(ab.difference + ba.difference).toBeCloseTo(0, 9);
        expect(ab.low + ba.high).toBeCloseTo(0, 9);
        expect(ab.low).toBeLessThanOrEqual(ab.high);
      }),
    );
  });
  it('refuses other rows, no rows, NaN, and bad settings', () => {
    expect(() => bootstrapDifference([1], [1, 2])).toThrow('got 1 and 2');
    expect(() => bootstrapDifference([], [])).toThrow('at least one');
    expect(() => bootstrapDifference([1, 2], [1, Number.NaN])).toThrow('row 1 of b');
    expect(() => bootstrapDifference([{ sum: 0, weight: 0 }], [1])).toThrow('weight above 0');
    expect(() => bootstrapDifference([1], [1], { resamples: 0 })).toThrow('resamples');
    expect(() => bootstrapDifference([1], [1], { confidence: 1 })).toThrow('confidence');
  });
});

describe('exactMatch', () => {
  it('counts equal answers; outer white space and composition do not matter, everything else does', () => {
    const got = exactMatch(
      [' 안녕 ', 'e\u0301', 'Yes', '{"a":1}', 'سلام'],
      ['안녕', '\u00e9', 'yes', '{"a": 1}', 'سلام'],
    );
    expect(got).toEqual({ exactMatch: 3 / 5, matches: [1, 1, 0, 0, 1] });
    expect(exactMatch(['Yes'], ['yes'], (t) => t.toLowerCase()).exactMatch).toBe(1);
  });
  it('refuses lists that do not pair', () => {
    expect(() => exactMatch(['a'], [])).toThrow('got 1 and 0');
    expect(() => exactMatch([], [])).toThrow('at least one');
  });
});
