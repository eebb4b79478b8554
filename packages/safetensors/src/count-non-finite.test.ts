import fc from 'fast-check';
import { expect, it } from 'vitest';
import { countNonFinite } from './count-non-finite.ts';

/** The rule itself, element by element. */
function counted(bytes: Uint8Array, dtype: 'f32' | 'f16' | 'bf16'): number {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const width = dtype === 'f32' ? 4 : 2;
  let count = 0;
  for (let at = 0; at + width <= bytes.length; at += width) {
    const bits = width === 4 ? view.getUint32(at, true) : view.getUint16(at, true);
    const exponent = { f32: 0x7f800000, f16: 0x7c00, bf16: 0x7f80 }[dtype];
    if ((bits & exponent) === exponent) count++;
  }
  return count;
}

it('counts as the rule says, at any length and alignment', () => {
  const byte = fc.constantFrom(0, 1, 0x7f, 0x80, 0xff, 0x7c, 0xfc, 0x7b);
  fc.assert(
    fc.property(
      fc.constantFrom('f32' as const, 'f16' as const, 'bf16' as const),
      fc.array(byte, { maxLength: 80 }),
      fc.nat(3),
      (dtype, values, shift) => {
        const elements = Math.floor(values.length / 4) * 4 - (dtype === 'f32' ? 0 : 2 * (values.length % 2));
        const memory = new Uint8Array(shift + Math.max(0, elements));
        memory.set(values.slice(0, Math.max(0, elements)), shift);
        const bytes = memory.subarray(shift);
        expect(countNonFinite(bytes, dtype)).toBe(counted(bytes, dtype));
      },
    ),
    { numRuns: 2000 },
  );
});
it('finds one value in many, and none in other dtypes', () => {
  const values = new Float32Array(20_000);
  values[12_345] = Number.NaN;
  values[19_999] = -Infinity;
  expect(countNonFinite(new Uint8Array(values.buffer), 'f32')).toBe(2);
  expect(countNonFinite(new Uint8Array(values.buffer), 'i32')).toBe(0);
});

it.each(['bf16', 'f16'] as const)('knows every value of %s at every place of a pair', (dtype) => {
  const wrong: number[] = [];
  for (let bits = 0; bits < 65_536; bits++)
    for (const place of [0, 1, 2]) {
      const values = new Uint16Array(3).fill(0x3c01);
      values[place] = bits;
      const bytes = new Uint8Array(values.buffer);
      if (countNonFinite(bytes, dtype) !== counted(bytes, dtype)) wrong.push(bits);
    }
  expect(wrong).toEqual([]);
});
