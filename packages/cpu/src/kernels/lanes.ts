/** Four elements of a storage dtype as four f32 lanes and back; one element as a scalar f32 and back. */
import type { FunctionBuilder } from '../assembler.ts';
import { type Address, type F32, f32, f32x4, type Int, i32, i32x4, store, type V128, v128 } from '../instructions.ts';

/** dtypes that kernels read as f32. */
export type FloatType = 'f32' | 'f16' | 'bf16';
export const floatTypes: readonly FloatType[] = ['f32', 'f16', 'bf16'];
export const isFloatType = (dtype: string): dtype is FloatType => (floatTypes as readonly string[]).includes(dtype);
export const bytesPerElement = { f32: 4, f16: 2, bf16: 2, i32: 4, u32: 4, u8: 1, i8: 1 } as const;
export type StorageType = keyof typeof bytesPerElement;

/** log2 of the element size, for address arithmetic. */
export const elementShift = (dtype: StorageType) => Math.log2(bytesPerElement[dtype]);

/** Where a kernel is generated: what the machine can do. */
export interface Features {
  /** `f32x4.relaxed_madd` exists. */
  readonly relaxed: boolean;
  /** V8 pairs adjacent 128-bit vectors. */
  readonly revectorize: boolean;
}

/** `a * b + c`, fused where the machine can. */
export const maddFor = (features: Pick<Features, 'relaxed'>) =>
  features.relaxed ? f32x4.relaxedMadd : (a: V128, b: V128, c: V128) => f32x4.add(f32x4.mul(a, b), c);

const halfScale = 2 ** 112;

/** f16 bits in the low half of each lane to f32: exact, subnormals, infinities and NaN included. */
export function widenHalf(f: FunctionBuilder, bits: V128): V128 {
  const half = f.vector(bits);
  const magnitude = f.vector(i32x4.shl(v128.and(half, f.hoist(i32x4.const(0x7fff))), 13));
  const sign = i32x4.shl(v128.and(half, f.hoist(i32x4.const(0x8000))), 16);
  const special = v128.and(i32x4.geU(magnitude, f.hoist(i32x4.const(0x0f800000))), f.hoist(i32x4.const(0x7f800000)));
  return v128.or(v128.or(f32x4.mul(magnitude, f.hoist(f32x4.const(halfScale))), special), sign);
}

/** f32 lanes to f16 bits in the low half of each lane, rounded to nearest even. */
export function narrowHalf(f: FunctionBuilder, value: V128): V128 {
  const bits = f.vector(value);
  const sign = f.vector(v128.and(bits, f.hoist(i32x4.const(0x80000000))));
  f.set(bits, v128.xor(bits, sign));
  // Below 2^-14 the sum with 0.5 rounds to f16's fixed subnormal step; 0.5's own bits are then taken off.
  const small = i32x4.sub(f32x4.add(bits, f.hoist(f32x4.const(0.5))), f.hoist(i32x4.const(0x3f000000)));
  const odd = v128.and(i32x4.shrU(bits, 13), f.hoist(i32x4.const(1)));
  const large = i32x4.shrU(i32x4.add(i32x4.add(bits, f.hoist(i32x4.const(0xc8000fff | 0))), odd), 13);
  const finite = v128.bitSelect(i32x4.ltU(bits, f.hoist(i32x4.const(0x38800000))), small, large);
  const nan = v128.and(i32x4.gtU(bits, f.hoist(i32x4.const(0x7f800000))), f.hoist(i32x4.const(0x0200)));
  const special = v128.or(f.hoist(i32x4.const(0x7c00)), nan);
  const magnitude = v128.bitSelect(i32x4.geU(bits, f.hoist(i32x4.const(0x477ff000))), special, finite);
  return v128.or(magnitude, i32x4.shrU(sign, 16));
}

/** f32 lanes to bf16 bits in the low half of each lane, rounded to nearest even; NaN stays NaN. */
export function narrowBrain(f: FunctionBuilder, value: V128): V128 {
  const bits = f.vector(value);
  const odd = v128.and(i32x4.shrU(bits, 16), f.hoist(i32x4.const(1)));
  const rounded = i32x4.shrU(i32x4.add(i32x4.add(bits, f.hoist(i32x4.const(0x7fff))), odd), 16);
  const quiet = v128.or(i32x4.shrU(bits, 16), f.hoist(i32x4.const(0x40)));
  return v128.bitSelect(f32x4.ne(bits, bits), quiet, rounded);
}

/** Four consecutive elements at an address as f32 lanes. */
export function loadFloats(f: FunctionBuilder, dtype: FloatType, address: Address, offset = 0): V128 {
  if (dtype === 'f32') return v128.load(address, offset);
  const raw = v128.load16x4u(address, offset);
  return dtype === 'bf16' ? i32x4.shl(raw, 16) : widenHalf(f, raw);
}

/** One element at an address as f32. */
export function loadFloat(f: FunctionBuilder, dtype: FloatType, address: Address, offset = 0): F32 {
  if (dtype === 'f32') return f32.load(address, offset);
  const raw = i32.load16u(address, offset);
  if (dtype === 'bf16') return f32.reinterpret(i32.shl(raw, 16));
  return f32x4.extract(widenHalf(f, i32x4.splat(raw)), 0);
}

/** Statement: four f32 lanes stored as four elements. */
export function storeFloats(f: FunctionBuilder, dtype: FloatType, address: Int, value: V128, offset = 0): void {
  if (dtype === 'f32') {
    f.emit(store.v128(address, value, offset));
    return;
  }
  const bits = f.vector(dtype === 'bf16' ? narrowBrain(f, value) : narrowHalf(f, value));
  f.emit(store.low64(address, packHalves(bits), offset));
}

/** The low 16 bits of four lanes, side by side in the low 64 bits. */
export const packHalves = (bits: V128): V128 =>
  v128.shuffle(bits, bits, [0, 1, 4, 5, 8, 9, 12, 13, 0, 1, 4, 5, 8, 9, 12, 13]);

/** Sum of four lanes in the fixed order (0 + 1) + (2 + 3). */
export const sumLanes = (value: V128): F32 =>
  f32.add(
    f32.add(f32x4.extract(value, 0), f32x4.extract(value, 1)),
    f32.add(f32x4.extract(value, 2), f32x4.extract(value, 3)),
  );

interface LaneOptions {
  /** In bytes. */
  readonly offset: number;
  /** Keep integers as 32-bit lanes instead of converting to f32. */
  readonly integer: boolean;
}

/** Four elements of any dtype as f32 (or i32) lanes; `repeat` reads one element into all four. */
export function loadLanes(
  f: FunctionBuilder,
  dtype: StorageType,
  address: Int,
  o: LaneOptions & { repeat: boolean },
): V128 {
  if (dtype === 'f32' || dtype === 'f16' || dtype === 'bf16') {
    if (!o.repeat) return loadFloats(f, dtype, address, o.offset);
    return f32x4.splat(loadFloat(f, dtype, address, o.offset));
  }
  const raw = o.repeat ? i32x4.splat(loadInteger(dtype, address, o.offset)) : loadIntegers(dtype, address, o.offset);
  if (o.integer) return raw;
  return dtype === 'u32' ? f32x4.fromUnsigned(raw) : f32x4.fromSigned(raw);
}

const loadInteger = (dtype: StorageType, address: Int, offset: number) =>
  dtype === 'u8'
    ? i32.load8u(address, offset)
    : dtype === 'i8'
      ? i32.load8s(address, offset)
      : i32.load(address, offset);

function loadIntegers(dtype: StorageType, address: Int, offset: number): V128 {
  if (dtype === 'u8') return i32x4.extendLow16u(v128.load8x8u(address, offset));
  if (dtype === 'i8') return i32x4.extendLow16s(v128.load8x8s(address, offset));
  return v128.load(address, offset);
}

/** Four f32 (or i32) lanes stored as four elements of any dtype; floats become integers by truncation. */
export function storeLanes(f: FunctionBuilder, dtype: StorageType, address: Int, value: V128, o: LaneOptions): void {
  if (dtype === 'f32' || dtype === 'f16' || dtype === 'bf16') {
    storeFloats(f, dtype, address, o.integer ? f32x4.fromSigned(value) : value, o.offset);
    return;
  }
  const raw = f.vector(o.integer ? value : dtype === 'u32' ? i32x4.truncSatU(value) : i32x4.truncSatS(value));
  if (bytesPerElement[dtype] === 4) f.emit(store.v128(address, raw, o.offset));
  else
    f.emit(
      store.low32(address, v128.shuffle(raw, raw, [0, 4, 8, 12, 0, 4, 8, 12, 0, 4, 8, 12, 0, 4, 8, 12]), o.offset),
    );
}
