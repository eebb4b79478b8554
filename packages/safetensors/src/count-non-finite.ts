import type { FileDType } from './dtypes.ts';

/** In a word of one f32 or two halves: the exponent bits, and what carries them into the sign bit when all of them are set. */
const words = {
  f32: { exponent: 0x7f800000, carry: 0x00800000, sign: 0x80000000 },
  f16: { exponent: 0x7c007c00, carry: 0x04000400, sign: 0x80008000 },
  bf16: { exponent: 0x7f807f80, carry: 0x00800080, sign: 0x80008000 },
} as const;

/** Words that are looked at together: nearly always none of them is worth a second look. */
const blockWords = 4096;

/** Elements of raw little-endian f32, f16 or bf16 bytes that are NaN or infinite; 0 for other dtypes. */
export function countNonFinite(bytes: Uint8Array, dtype: FileDType): number {
  if (dtype !== 'f32' && dtype !== 'f16' && dtype !== 'bf16') return 0;
  const { exponent, carry, sign } = words[dtype];
  const whole = bytes.byteLength & ~3;
  const aligned = bytes.byteOffset % 4 === 0 ? bytes : bytes.slice();
  const view = new Uint32Array(aligned.buffer, aligned.byteOffset, whole / 4);
  const marks = (word: number): number => ((word & exponent) + carry) & sign;
  let count = 0;
  for (let start = 0; start < view.length; start += blockWords) {
    const end = Math.min(view.length, start + blockWords);
    let any = 0;
    for (let i = start; i < end; i++) any |= ((view[i]! & exponent) + carry) & sign;
    if (any === 0) continue;
    for (let i = start; i < end; i++) {
      const found = marks(view[i]!);
      count += (found < 0 ? 1 : 0) + (found & 0x8000 ? 1 : 0);
    }
  }
  // Half a word is left of an odd number of halves.
  const last = bytes.byteLength - whole === 2 ? bytes[whole]! | (bytes[whole + 1]! << 8) : 0;
  return count + (marks(last) & 0x8000 ? 1 : 0);
}
