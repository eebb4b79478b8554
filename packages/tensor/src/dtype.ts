import { DTypeError } from './errors.ts';

/** Element types of a tensor. `f64` lives on the reference backend only; `bf16` and `f16` are storage, computed in f32. */
export type DType = 'f32' | 'f16' | 'bf16' | 'i32' | 'u32' | 'u8' | 'i8' | 'f64';

export const bytesPerElement = { f64: 8, f32: 4, f16: 2, bf16: 2, i32: 4, u32: 4, u8: 1, i8: 1 } as const;

/** What `tensor.data()` resolves to: f16 and bf16 arrive widened to f32. */
export type TensorData = Float32Array | Float64Array | Int32Array | Uint32Array | Uint8Array | Int8Array;

export const isFloat = (dtype: DType): boolean =>
  dtype === 'f32' || dtype === 'f16' || dtype === 'bf16' || dtype === 'f64';

const floatRank = { f64: 3, f32: 2, f16: 1, bf16: 1 } as const;
const integerRank = { u8: 0, i8: 0, u32: 1, i32: 2 } as const;

/** The dtype two operands meet in, as PyTorch promotes: wider float wins, f16 with bf16 gives f32, float beats integer. */
export function promote(a: DType, b: DType): DType {
  if (a === b) return a;
  if (isFloat(a) !== isFloat(b)) return isFloat(a) ? a : b;
  if (isFloat(a)) {
    const [x, y] = [floatRank[a as 'f32'], floatRank[b as 'f32']];
    return x === y ? 'f32' : x > y ? a : b;
  }
  const [x, y] = [integerRank[a as 'u8'], integerRank[b as 'u8']];
  return x === y ? 'i32' : x > y ? a : b;
}

const scratch = new DataView(new ArrayBuffer(4));

/** The f32 bit pattern of a number, rounded to nearest even at the bf16 boundary; NaN stays NaN. */
export function toBf16Bits(value: number): number {
  scratch.setFloat32(0, value);
  const bits = scratch.getUint32(0);
  if ((bits & 0x7fffffff) > 0x7f800000) return ((bits >>> 16) | 0x40) & 0xffff;
  return ((bits + 0x7fff + ((bits >>> 16) & 1)) >>> 16) & 0xffff;
}

export function fromBf16Bits(bits: number): number {
  scratch.setUint32(0, (bits & 0xffff) << 16);
  return scratch.getFloat32(0);
}

export function toF16Bits(value: number): number {
  scratch.setFloat16(0, value);
  return scratch.getUint16(0);
}

export function fromF16Bits(bits: number): number {
  scratch.setUint16(0, bits);
  return scratch.getFloat16(0);
}

/** A view of `bytes` as elements of `dtype`; copies only when the bytes are not aligned. f16 and bf16 give their bits. */
export function viewAs(bytes: Uint8Array, dtype: DType) {
  const width = bytesPerElement[dtype];
  const aligned = bytes.byteOffset % width === 0 ? bytes : bytes.slice();
  const [buffer, offset, length] = [aligned.buffer, aligned.byteOffset, aligned.byteLength / width];
  switch (dtype) {
    case 'f64':
      return new Float64Array(buffer, offset, length);
    case 'f32':
      return new Float32Array(buffer, offset, length);
    case 'f16':
    case 'bf16':
      return new Uint16Array(buffer, offset, length);
    case 'i32':
      return new Int32Array(buffer, offset, length);
    case 'u32':
      return new Uint32Array(buffer, offset, length);
    case 'u8':
      return new Uint8Array(buffer, offset, length);
    case 'i8':
      return new Int8Array(buffer, offset, length);
    default:
      dtype satisfies never;
      throw new DTypeError(`dtype: must be one of f32, f16, bf16, i32, u32, u8, i8, f64: got ${String(dtype)}`);
  }
}

/** Raw storage bytes -> numbers, f16 and bf16 widened to f32. */
export function decode(bytes: Uint8Array, dtype: DType): TensorData {
  const raw = viewAs(bytes, dtype);
  if (dtype === 'bf16') {
    const words = new Uint32Array(raw.length);
    for (let i = 0; i < raw.length; i++) words[i] = raw[i]! << 16;
    return new Float32Array(words.buffer);
  }
  if (dtype === 'f16')
    return Float32Array.from(new Float16Array(raw.buffer as ArrayBuffer, raw.byteOffset, raw.length));
  return (raw.buffer === bytes.buffer ? raw.slice() : raw) as TensorData;
}

/** Numbers -> raw storage bytes, rounded to nearest even for floats and truncated for integers; `count` elements, zeros behind the given ones. */
export function encode(values: ArrayLike<number>, dtype: DType, count = values.length): Uint8Array {
  const bytes = new Uint8Array(count * bytesPerElement[dtype]);
  encodeInto(values, viewAs(bytes, dtype), dtype);
  return bytes;
}

/** As `encode`, into an existing view made by `viewAs`. */
export function encodeInto(values: ArrayLike<number>, out: { [index: number]: number }, dtype: DType): void {
  if (dtype === 'bf16') for (let i = 0; i < values.length; i++) out[i] = toBf16Bits(values[i]!);
  else if (dtype === 'f16') for (let i = 0; i < values.length; i++) out[i] = toF16Bits(values[i]!);
  else for (let i = 0; i < values.length; i++) out[i] = values[i]!;
}
