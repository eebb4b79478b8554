import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { normalsOf, permutationOf, RandomKey, randomKey, threefry2x32 } from './random.ts';

describe('threefry2x32', () => {
  it.each([
    [
      [0, 0],
      [0, 0],
      [0x6b200159, 0x99ba4efe],
    ],
    [
      [0xffffffff, 0xffffffff],
      [0xffffffff, 0xffffffff],
      [0x1cb996fc, 0xbb002be7],
    ],
    [
      [0x13198a2e, 0x03707344],
      [0x243f6a88, 0x85a308d3],
      [0xc4923a9c, 0x483df7a0],
    ],
  ])('gives the known answers of Random123 (kat_vectors, threefry2x32 20): %o %o', ([k0, k1], [c0, c1], words) => {
    expect(threefry2x32(k0!, k1!, c0!, c1!)).toEqual(words);
  });
});

describe('draws', () => {
  it('permutations hold each index once', () => {
    fc.assert(
      fc.property(fc.nat(200), fc.nat(), (n, seed) => {
        expect([...permutationOf(n, randomKey(seed))].sort((a, b) => a - b)).toEqual(
          Array.from({ length: n }, (_, i) => i),
        );
      }),
    );
  });
  it('permutations of three are equally likely', () => {
    const seen = new Map<string, number>();
    for (let s = 0; s < 6000; s++) {
      const key = permutationOf(3, randomKey(s)).join();
      seen.set(key, (seen.get(key) ?? 0) + 1);
    }
    expect(seen.size).toBe(6);
    for (const count of seen.values()) expect(Math.abs(count - 1000)).toBeLessThan(150);
  });
  it('normals have mean 0, variance 1 and no value repeated by another key', () => {
    const z = normalsOf(20_001, randomKey(3));
    const mean = z.reduce((s, v) => s + v, 0) / z.length;
    const variance = z.reduce((s, v) => s + (v - mean) ** 2, 0) / z.length;
    expect(Math.abs(mean)).toBeLessThan(0.03);
    expect(Math.abs(variance - 1)).toBeLessThan(0.05);
  });
  it('paths fold to different keys', () => {
    fc.assert(
      fc.property(fc.string(), fc.string(), (a, b) => {
        fc.pre(a !== b);
        const root = new RandomKey(1, 2);
        expect(root.fold(a)).not.toEqual(root.fold(b));
      }),
    );
  });
  it('refuses a negative seed', () => expect(() => randomKey(-1)).toThrow('at least 0'));
});
