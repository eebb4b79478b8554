import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { NumpyGenerator, shuffleDataset, splitDataset } from './index.ts';

describe('NumpyGenerator is numpy.random.default_rng', () => {
  it('draws the words of PCG64', () => {
    // numpy 2.4.6: np.random.PCG64(42).random_raw(3)
    const generator = new NumpyGenerator(42);
    expect([generator.uint64(), generator.uint64(), generator.uint64()]).toEqual([
      14276969152011380360n,
      8095878257575067585n,
      15838336090824644132n,
    ]);
  });
  // numpy 2.4.6: np.random.default_rng(seed).permutation(n).tolist()
  it.each([
    [0, [2, 4, 3, 6, 5, 0, 1]],
    [42, [5, 6, 0, 7, 3, 2, 4, 9, 1, 8]],
    [4294967295, [0, 6, 4, 5, 3, 2, 1, 7]],
    [4294967296, [1, 3, 6, 7, 8, 0, 4, 2, 5]],
    [9007199254740991, [7, 10, 6, 9, 8, 2, 0, 3, 4, 1, 5]],
  ])('permutes as with seed %d', (seed, order) => {
    expect([...new NumpyGenerator(seed).permutation(order.length)]).toEqual(order);
  });
  it('gives each index once', () => {
    fc.assert(
      fc.property(fc.maxSafeNat(), fc.nat({ max: 200 }), (seed, n) => {
        expect([...new NumpyGenerator(seed).permutation(n)].sort((a, b) => a - b)).toEqual(
          Array.from({ length: n }, (_, i) => i),
        );
      }),
    );
  });
  it.each([-1, 0.5, Number.NaN, 2 ** 53])('refuses the seed %d', (seed) => {
    expect(() => new NumpyGenerator(seed)).toThrow('seed must be an integer of at least 0');
  });
});

describe('datasets', () => {
  const rows = 'abcdefghij'.split('');
  // datasets 5.2.0: Dataset.from_dict({"x": list("abcdefghij")})
  it('shuffle(seed=42)', () => {
    expect(shuffleDataset(rows, 42).join('')).toBe('fgahdcejbi');
  });
  it('train_test_split(0.25, seed=1234)', () => {
    const { train, test } = splitDataset(rows, { testSize: 0.25, seed: 1234 });
    expect([train.join(''), test.join('')]).toEqual(['acgehbd', 'ijf']);
  });
});
