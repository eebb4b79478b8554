import type { FileDType } from './dtypes.ts';

/** Bits of the exponent: all set in NaN and infinities. */
const exponents = { f32: 0x7f800000, f16: 0x7c00, bf16: 0x7f80 } as const;

/** Elements of raw little-endian f32, f16 or bf16 bytes that are NaN or infinite; 0 for other dtypes. */
export function countNonFinite(bytes: Uint8Array, dtype: FileDType): number {
  if (dtype !== 'f32' && dtype !== 'f16' && dtype !== 'bf16') return 0;
  const width = dtype === 'f32' ? 4 : 2;
  const aligned = bytes.byteOffset % width === 0 ? bytes : bytes.slice();
  const { buffer, byteOffset, byteLength } = aligned;
  const words =
    width === 4
      ? new Uint32Array(buffer, byteOffset, byteLength / 4)
      : new Uint16Array(buffer, byteOffset, byteLength / 2);
  const exponent = exponents[dtype];
  let count = 0;
  for (let i = 0; i < words.length; i++) if ((words[i]! & exponent) === exponent) count++;
  return count;
}
