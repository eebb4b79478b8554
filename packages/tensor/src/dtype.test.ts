import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { decode, encode, fromBf16Bits, fromF16Bits, promote, toBf16Bits, toF16Bits } from './dtype.ts';

describe('bf16 and f16 bits', () => {
  it('survive a round trip for every pattern that is not NaN', () => {
    for (let bits = 0; bits < 65536; bits++) {
      if ((bits & 0x7fff) <= 0x7f80) expect(toBf16Bits(fromBf16Bits(bits))).toBe(bits);
      if ((bits & 0x7fff) <= 0x7c00) expect(toF16Bits(fromF16Bits(bits))).toBe(bits);
    }
  });
  it('round to nearest, ties to even', () => {
    fc.assert(
      fc.property(
        fc.float({ noNaN: true, noDefaultInfinity: true, max: Math.fround(1e38), min: Math.fround(-1e38) }),
        (x) => {
          const got = fromBf16Bits(toBf16Bits(x));
          const bits = toBf16Bits(x);
          for (const near of [bits - 1, bits + 1])
            if ((near & 0x7fff) < 0x7f80)
              expect(Math.abs(got - x)).toBeLessThanOrEqual(Math.abs(fromBf16Bits(near & 0xffff) - x));
        },
      ),
    );
    expect(toBf16Bits(Number.NaN) & 0x7fff).toBeGreaterThan(0x7f80);
  });
  it('decode what they encode', () => {
    fc.assert(
      fc.property(fc.array(fc.integer({ min: -128, max: 127 })), (list) => {
        for (const dtype of ['f32', 'f16', 'bf16', 'i32', 'i8', 'f64'] as const)
          expect([...decode(encode(list, dtype), dtype)]).toEqual(list);
      }),
    );
  });
});

describe('promote', () => {
  it('is symmetric and idempotent', () => {
    const all = ['f64', 'f32', 'f16', 'bf16', 'i32', 'u32', 'u8', 'i8'] as const;
    for (const a of all)
      for (const b of all) {
        expect(promote(a, b)).toBe(promote(b, a));
        expect(promote(a, promote(a, b))).toBe(promote(a, b));
      }
    expect(promote('f16', 'bf16')).toBe('f32');
    expect(promote('i32', 'bf16')).toBe('bf16');
  });
});
