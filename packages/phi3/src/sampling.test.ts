import { randomKey } from '@lorikeet/tensor';
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import {
  argmaxOf,
  checkSampling,
  drawFrom,
  logProbability,
  penalizeRepetition,
  type SamplingOptions,
  warp,
} from './sampling.ts';

// transformers 5.23.0 (f64): the warpers of its logits_process.py on this row; null stands for -inf.
const row = [2, -1, 0.5, 2, 0.1, -3, 1.2, 0];
const recorded: [string, SamplingOptions, (number | null)[]][] = [
  [
    'TemperatureLogitsWarper(0.7)',
    { temperature: 0.7 },
    [2.857142857, -1.428571429, 0.714285714, 2.857142857, 0.142857143, -4.285714286, 1.714285714, 0],
  ],
  ['TopKLogitsWarper(1), a tie', { topK: 1 }, [2, null, null, 2, null, null, null, null]],
  ['TopKLogitsWarper(3)', { topK: 3 }, [2, null, null, 2, null, null, 1.2, null]],
  ['TopPLogitsWarper(0.6)', { topP: 0.6 }, [2, null, null, 2, null, null, null, null]],
  ['TopPLogitsWarper(0.9)', { topP: 0.9 }, [2, null, 0.5, 2, 0.1, null, 1.2, null]],
  ['MinPLogitsWarper(0.2)', { minP: 0.2 }, [2, null, 0.5, 2, null, null, 1.2, null]],
];
const values = (logits: Float64Array): (number | null)[] =>
  [...logits].map((x) => (x === Number.NEGATIVE_INFINITY ? null : Math.round(x * 1e9) / 1e9));

describe('logits processors', () => {
  it.each(recorded)('%s', (_name, options, want) => {
    const logits = Float64Array.from(row);
    warp(logits, options);
    expect(values(logits)).toEqual(want);
  });
  it('RepetitionPenaltyLogitsProcessor(1.3) after ids 0, 1, 1, 6', () => {
    const logits = Float64Array.from(row);
    penalizeRepetition(logits, [0, 1, 1, 6], 1.3);
    expect(values(logits)).toEqual([1.538461538, -1.3, 0.5, 2, 0.1, -3, 0.923076923, 0]);
  });
  it('in the order penalty 1.3, temperature 1.5, top-k 5, top-p 0.9, min-p 0.1', () => {
    const logits = Float64Array.from(row);
    penalizeRepetition(logits, [0, 1, 1, 6], 1.3);
    warp(logits, { temperature: 1.5, topK: 5, topP: 0.9, minP: 0.1 });
    expect(values(logits)).toEqual([1.025641026, null, 0.333333333, 1.333333333, null, null, 0.615384615, null]);
  });
  it('never exclude the most likely token', () => {
    const options = fc.record({
      temperature: fc.double({ min: 0.05, max: 5, noNaN: true }),
      topK: fc.integer({ min: 1, max: 9 }),
      topP: fc.double({ min: 0.001, max: 1, noNaN: true }),
      minP: fc.double({ min: 0, max: 1, noNaN: true }),
    });
    fc.assert(
      fc.property(
        fc.array(fc.double({ min: -30, max: 30, noNaN: true }), { minLength: 1, maxLength: 8 }),
        options,
        (raw, o) => {
          const logits = Float64Array.from(raw);
          const best = argmaxOf(logits);
          warp(logits, o);
          expect(Number.isFinite(logits[best])).toBe(true);
          expect(argmaxOf(logits)).toBe(best);
        },
      ),
    );
  });
  it('refuse values outside their range', () => {
    expect(() => checkSampling({ temperature: 0 })).toThrow(
      'temperature must be above 0 (for greedy decoding leave doSample out): got 0',
    );
    expect(() => checkSampling({ topK: 0 })).toThrow('topK must be an integer of at least 1: got 0');
    expect(() => checkSampling({ topP: 1.1 })).toThrow('topP must be in (0, 1]: got 1.1');
    expect(() => checkSampling({ minP: -1 })).toThrow('minP must be in [0, 1]: got -1');
    expect(() => checkSampling({ repetitionPenalty: 0 })).toThrow('repetitionPenalty must be above 0: got 0');
  });
});

describe('drawing', () => {
  it('follows the probabilities (chi-squared below the 1e-6 quantile of 3 degrees of freedom)', () => {
    const p = [0.5, 0.3, 0.15, 0.05];
    const counts = p.map(() => 0);
    const logits = Float64Array.from(p, Math.log);
    for (let i = 0; i < 20_000; i++) counts[drawFrom(logits, randomKey(4), i)]!++;
    const chi = counts.reduce((sum, n, i) => sum + (n - 20_000 * p[i]!) ** 2 / (20_000 * p[i]!), 0);
    expect(chi).toBeLessThan(30.66);
  });
  it('never gives what was excluded, and the same for the same key and step', () => {
    const logits = Float64Array.of(Number.NEGATIVE_INFINITY, 0, Number.NEGATIVE_INFINITY, 0.1);
    fc.assert(
      fc.property(fc.nat(), fc.nat(), (seed, step) => {
        const id = drawFrom(logits, randomKey(seed), step);
        expect([1, 3]).toContain(id);
        expect(drawFrom(logits, randomKey(seed), step)).toBe(id);
      }),
    );
  });
  it('logProbability is log softmax, also for large logits', () => {
    expect(logProbability([1000, 1000], 1)).toBeCloseTo(Math.log(0.5), 12);
    expect(logProbability(row, 0)).toBeCloseTo(2 - Math.log(row.reduce((s, x) => s + Math.exp(x), 0)), 12);
  });
});
