/** Reading and writing elements of every dtype in buffers of 32-bit words: f16, bf16, u8 and i8 lie packed in them. */
import { bytesPerElement, type DType } from '@lorikeet/tensor';

/** What a kernel computes with: numbers, or `raw` bits for ops that only move elements. */
export type ValueType = 'f32' | 'i32' | 'u32' | 'raw';

/** WGSL's name of the type. */
export const wgslType = (type: ValueType): string => (type === 'raw' ? 'u32' : type);

/** Elements in a 32-bit word. */
export const perWord = (dtype: DType): number => 4 / bytesPerElement[dtype];

/** Conversions, rounded to nearest even by hand: WGSL's packing functions leave rounding and overflow open. */
export const dtypesWgsl = `
fn to_f16(x: f32) -> u32 {
  let bits = bitcast<u32>(x);
  let sign = (bits >> 16u) & 0x8000u;
  let m = bits & 0x7fffffffu;
  if (m > 0x7f800000u) { return sign | 0x7e00u; }
  if (m >= 0x477ff000u) { return sign | 0x7c00u; }
  if (m >= 0x38800000u) {
    let r = m - 0x38000000u;
    return sign | ((r + 0xfffu + ((r >> 13u) & 1u)) >> 13u);
  }
  if (m <= 0x33000000u) { return sign; }
  let mantissa = (m & 0x7fffffu) | 0x800000u;
  let shift = 126u - (m >> 23u);
  return sign | ((mantissa + (1u << (shift - 1u)) - 1u + ((mantissa >> shift) & 1u)) >> shift);
}
fn from_f16(h: u32) -> f32 {
  let sign = (h & 0x8000u) << 16u;
  let m = h & 0x7fffu;
  if (m >= 0x7c00u) { return bitcast<f32>(sign | 0x7f800000u | ((m & 0x3ffu) << 13u)); }
  if (m >= 0x400u) { return bitcast<f32>(sign | ((m << 13u) + 0x38000000u)); }
  return bitcast<f32>(sign | bitcast<u32>(f32(m) * 5.9604644775390625e-8));
}
fn to_bf16(x: f32) -> u32 {
  let bits = bitcast<u32>(x);
  if ((bits & 0x7fffffffu) > 0x7f800000u) { return (bits >> 16u) | 0x40u; }
  return (bits + 0x7fffu + ((bits >> 16u) & 1u)) >> 16u;
}
fn to_i32(x: f32) -> i32 { return select(i32(x), 0, is_nan(x)); }
fn to_u32(x: f32) -> u32 { return select(bitcast<u32>(to_i32(x)), u32(x), x > 0.0 && !is_nan(x)); }
`;

/** WGSL for the bits of element `i` of a buffer. */
function bitsAt(dtype: DType, buffer: string, i: string): string {
  if (perWord(dtype) === 1) return `${buffer}[${i}]`;
  return perWord(dtype) === 2
    ? `((${buffer}[${i} >> 1u] >> ((${i} & 1u) * 16u)) & 0xffffu)`
    : `((${buffer}[${i} >> 2u] >> ((${i} & 3u) * 8u)) & 0xffu)`;
}

/** WGSL for element `i` of a buffer as a value. */
export function loadElement(dtype: DType, type: ValueType, buffer: string, i: string): string {
  const bits = bitsAt(dtype, buffer, i);
  if (type === 'raw') return bits;
  switch (dtype) {
    case 'f32':
      return `bitcast<f32>(${bits})`;
    case 'f16':
      return `from_f16(${bits})`;
    case 'bf16':
      return `bitcast<f32>(${bits} << 16u)`;
    case 'i8':
      return `${type}(bitcast<i32>(${bits} << 24u) >> 24u)`;
    case 'i32':
      return `${type}(bitcast<i32>(${bits}))`;
    default:
      return `${type}(${bits})`;
  }
}

/** WGSL for the bits that store `value` as an element. */
export function storedBits(dtype: DType, type: ValueType, value: string): string {
  if (type === 'raw') return value;
  const float = `f32(${value})`;
  switch (dtype) {
    case 'f32':
      return `bitcast<u32>(${float})`;
    case 'f16':
      return `to_f16(${float})`;
    case 'bf16':
      return `to_bf16(${float})`;
    case 'u32':
      return type === 'f32' ? `to_u32(${value})` : `u32(${value})`;
    default: {
      const word = type === 'f32' ? `bitcast<u32>(to_i32(${value}))` : `u32(${value})`;
      return dtype === 'i32' ? word : `(${word} & 0xffu)`;
    }
  }
}
