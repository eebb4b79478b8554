import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { compare } from './compare.ts';
import { exact, type Limit } from './tolerances.ts';

const each: Limit = { kind: 'each', rtol: 1e-6, atol: 1e-5 };
const whole: Limit = { kind: 'whole', relative: 1e-4, cosine: 0.999999, floor: 0 };
const numbers = fc.array(fc.double({ min: -100, max: 100, noNaN: true }), { minLength: 1, maxLength: 20 });

describe('compare', () => {
  test('a tensor equals itself under every limit, infinities and NaN included', () => {
    const values = [0, -0, 1.5, Number.POSITIVE_INFINITY, Number.NaN];
    for (const limit of [exact, each])
      expect(compare(values, values, limit)).toMatchObject({ passed: true, ofLimit: 0 });
  });

  test('one element moved past its limit fails and is named', () => {
    fc.assert(
      fc.property(numbers, fc.nat(), (expected, pick) => {
        const index = pick % expected.length;
        const allowed = 1e-5 + 1e-6 * Math.abs(expected[index]!);
        const moved = (by: number) => compare(expected.with(index, expected[index]! + by), expected, each);
        expect(moved(allowed * 0.9).passed).toBe(true);
        expect(moved(allowed * 1.1)).toMatchObject({ passed: false, at: { index } });
      }),
    );
  });

  test.each([
    [Number.NaN, 1],
    [1, Number.NaN],
    [Number.POSITIVE_INFINITY, 1],
    [Number.NEGATIVE_INFINITY, Number.POSITIVE_INFINITY],
  ])('%s is not %s under any limit', (actual, expected) => {
    for (const limit of [exact, each, whole]) expect(compare([0, actual], [0, expected], limit).passed).toBe(false);
  });

  test('a dropped last term of a product fails its bound', () => {
    // 64 products of 1: dropping one leaves 63, far outside (0.5 * 8 + 2) * 2^-24 * 64.
    const magnitude = { sums: [64], terms: 64 };
    expect(compare([63], [64], { kind: 'product', scale: 1 }, magnitude).passed).toBe(false);
    expect(compare([64 * (1 + 2 ** -23)], [64], { kind: 'product', scale: 1 }, magnitude).passed).toBe(true);
  });

  test('a whole tensor may not turn or shrink', () => {
    const expected = Array.from({ length: 100 }, (_, i) => Math.sin(i));
    const near = expected.map((v) => v * (1 + 5e-5));
    expect(compare(near, expected, whole).passed).toBe(true);
    expect(
      compare(
        expected.map((v) => v * 0.999),
        expected,
        whole,
      ).passed,
    ).toBe(false);
    expect(
      compare(
        expected.map((v, i) => (i === 3 ? -v : v)),
        expected,
        whole,
      ).passed,
    ).toBe(false);
    expect(
      compare(
        expected.map(() => 0),
        expected,
        whole,
      ).passed,
    ).toBe(false);
  });

  test('below the floor a tensor that cancelled to nothing may be anything, above it not', () => {
    const floored: Limit = { kind: 'whole', relative: 1e-4, cosine: 0.999999, floor: 1e-6 };
    expect(compare([-5e-7, 5e-7], [5e-7, -4e-7], floored).passed).toBe(true);
    expect(compare([-5e-6, 5e-6], [5e-6, -4e-6], floored).passed).toBe(false);
  });

  test('a trajectory that drifts to one side fails though each step is near', () => {
    const expected = Array.from({ length: 20 }, (_, i) => 3 - i / 10);
    const limit: Limit = { kind: 'trajectory', atol: 1e-3, meanResidual: 1e-4 };
    expect(
      compare(
        expected.map((v, i) => v + (i % 2 ? 5e-4 : -5e-4)),
        expected,
        limit,
      ).passed,
    ).toBe(true);
    expect(
      compare(
        expected.map((v) => v + 5e-4),
        expected,
        limit,
      ).passed,
    ).toBe(false);
  });

  test('another size is an error', () => {
    expect(() => compare([1], [1, 2], exact)).toThrow('compare: sizes must be equal: got 1, the recording has 2.');
  });
});
