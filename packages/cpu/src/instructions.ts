/**
 * WebAssembly instructions as typed expressions: an expression is the bytes that leave one value on the stack.
 * Opcodes: WebAssembly core 3.0 (SIMD, threads, relaxed SIMD).
 */

export type ValueType = 'i32' | 'i64' | 'f32' | 'f64' | 'v128';

/** Bytes that leave one value of type T on the stack. */
export interface Code<T extends ValueType> {
  readonly type: T;
  readonly bytes: readonly number[];
}

export type I32 = Code<'i32'>;
export type I64 = Code<'i64'>;
export type F32 = Code<'f32'>;
export type F64 = Code<'f64'>;
export type V128 = Code<'v128'>;
/** A 32-bit integer operand; a JavaScript number stands for a constant. */
export type Int = I32 | number;
/** Where a load reads: 32 bits address work memory (memory 0), 64 bits the store (memory 1). */
export type Address = Int | I64;

export const unsignedLeb = (value: number | bigint): number[] => {
  const out: number[] = [];
  let rest = BigInt(value);
  do {
    let byte = Number(rest & 127n);
    rest >>= 7n;
    if (rest) byte |= 128;
    out.push(byte);
  } while (rest);
  return out;
};

export const signedLeb = (value: number | bigint): number[] => {
  const out: number[] = [];
  let rest = BigInt(value);
  for (;;) {
    const byte = Number(rest & 127n);
    rest >>= 7n;
    if ((rest === 0n && !(byte & 64)) || (rest === -1n && byte & 64)) {
      out.push(byte);
      return out;
    }
    out.push(byte | 128);
  }
};

const concat = (parts: readonly (readonly number[])[]): number[] => {
  const out: number[] = [];
  for (const part of parts) for (const byte of part) out.push(byte);
  return out;
};

const make = <T extends ValueType>(type: T, ...parts: (readonly number[])[]): Code<T> => ({
  type,
  bytes: concat(parts),
});
const simd = (opcode: number) => [0xfd, ...unsignedLeb(opcode)];
const memoryOperand = (alignLog2: number, offset: number) => [alignLog2, ...unsignedLeb(offset)];
const isFar = (address: Address): address is I64 => typeof address !== 'number' && address.type === 'i64';
/** Address, opcode and memory operand of a load; bit 6 of the alignment says that a memory index follows. */
const loadBytes = (address: Address, opcode: readonly number[], alignLog2: number, offset: number): number[] =>
  isFar(address)
    ? [...address.bytes, ...opcode, alignLog2 | 0x40, 1, ...unsignedLeb(offset)]
    : [...int(address).bytes, ...opcode, ...memoryOperand(alignLog2, offset)];
const floatBytes = (value: number) => [...new Uint8Array(new Float32Array([value]).buffer)];
const doubleBytes = (value: number) => [...new Uint8Array(new Float64Array([value]).buffer)];

/** A constant or an expression, as an expression. */
export const int = (value: Int): I32 =>
  typeof value === 'number' ? make('i32', [0x41, ...signedLeb(value | 0)]) : value;

const intBinary = (opcode: number) => (a: Int, b: Int) => make('i32', int(a).bytes, int(b).bytes, [opcode]);
const load32 =
  <T extends ValueType>(type: T, opcode: number, alignLog2: number) =>
  (address: Address, offset = 0) =>
    make(type, loadBytes(address, [opcode], alignLog2, offset));
const atomic = (opcode: number) => [0xfe, opcode];

/** 32-bit integers. Comparisons give 0 or 1. */
export const i32 = {
  add: intBinary(0x6a),
  sub: intBinary(0x6b),
  mul: intBinary(0x6c),
  divU: intBinary(0x6e),
  remU: intBinary(0x70),
  and: intBinary(0x71),
  or: intBinary(0x72),
  xor: intBinary(0x73),
  shl: intBinary(0x74),
  shrS: intBinary(0x75),
  shrU: intBinary(0x76),
  eqz: (a: Int) => make('i32', int(a).bytes, [0x45]),
  eq: intBinary(0x46),
  ne: intBinary(0x47),
  ltS: intBinary(0x48),
  ltU: intBinary(0x49),
  gtS: intBinary(0x4a),
  gtU: intBinary(0x4b),
  leS: intBinary(0x4c),
  leU: intBinary(0x4d),
  geS: intBinary(0x4e),
  geU: intBinary(0x4f),
  load: load32('i32', 0x28, 2),
  load8s: load32('i32', 0x2c, 0),
  load8u: load32('i32', 0x2d, 0),
  load16s: load32('i32', 0x2e, 1),
  load16u: load32('i32', 0x2f, 1),
  /** `condition ? a : b`, both evaluated. */
  select: (condition: Int, a: Int, b: Int) => make('i32', int(a).bytes, int(b).bytes, int(condition).bytes, [0x1b]),
  /** The smaller of two small expressions, compared as signed. */
  min: (a: Int, b: Int) => make('i32', int(a).bytes, int(b).bytes, int(a).bytes, int(b).bytes, [0x48], [0x1b]),
  reinterpret: (a: F32) => make('i32', a.bytes, [0xbc]),
  truncSat: (a: F32) => make('i32', a.bytes, [0xfc, 0]),
  wrap: (a: I64) => make('i32', a.bytes, [0xa7]),
  atomicLoad: (address: Int, offset = 0) => make('i32', int(address).bytes, atomic(0x10), memoryOperand(2, offset)),
  /** Adds and gives the value before. */
  atomicAdd: (address: Int, value: Int, offset = 0) =>
    make('i32', int(address).bytes, int(value).bytes, atomic(0x1e), memoryOperand(2, offset)),
  /** Sleeps while the word equals `expected`: 0 woken, 1 not equal, 2 timed out. */
  atomicWait: (address: Int, expected: Int, timeoutNs: I64, offset = 0) =>
    make('i32', int(address).bytes, int(expected).bytes, timeoutNs.bytes, atomic(0x01), memoryOperand(2, offset)),
  /** Wakes at most `count` sleepers and gives how many. */
  atomicNotify: (address: Int, count: Int, offset = 0) =>
    make('i32', int(address).bytes, int(count).bytes, atomic(0x00), memoryOperand(2, offset)),
};

const longBinary = (opcode: number) => (a: I64, b: I64) => make('i64', a.bytes, b.bytes, [opcode]);

export const i64 = {
  const: (value: bigint) => make('i64', [0x42, ...signedLeb(BigInt.asIntN(64, value))]),
  extend: (a: Int) => make('i64', int(a).bytes, [0xad]),
  add: longBinary(0x7c),
  sub: longBinary(0x7d),
  or: longBinary(0x84),
  shl: longBinary(0x86),
  shrU: longBinary(0x88),
  load: load32('i64', 0x29, 3),
  eq: (a: I64, b: I64) => make('i32', a.bytes, b.bytes, [0x51]),
  atomicLoad: (address: Int, offset = 0) => make('i64', int(address).bytes, atomic(0x11), memoryOperand(3, offset)),
  /** Stores `replacement` where the word equals `expected`; gives the value before. */
  atomicCompareExchange: (address: Int, expected: I64, replacement: I64, offset = 0) =>
    make('i64', int(address).bytes, expected.bytes, replacement.bytes, atomic(0x49), memoryOperand(3, offset)),
};

const floatBinary = (opcode: number) => (a: F32, b: F32) => make('f32', a.bytes, b.bytes, [opcode]);
const floatCompare = (opcode: number) => (a: F32, b: F32) => make('i32', a.bytes, b.bytes, [opcode]);

export const f32 = {
  const: (value: number) => make('f32', [0x43, ...floatBytes(value)]),
  load: load32('f32', 0x2a, 2),
  abs: (a: F32) => make('f32', a.bytes, [0x8b]),
  neg: (a: F32) => make('f32', a.bytes, [0x8c]),
  sqrt: (a: F32) => make('f32', a.bytes, [0x91]),
  add: floatBinary(0x92),
  sub: floatBinary(0x93),
  mul: floatBinary(0x94),
  div: floatBinary(0x95),
  min: floatBinary(0x96),
  max: floatBinary(0x97),
  eq: floatCompare(0x5b),
  ne: floatCompare(0x5c),
  lt: floatCompare(0x5d),
  gt: floatCompare(0x5e),
  le: floatCompare(0x5f),
  ge: floatCompare(0x60),
  select: (condition: Int, a: F32, b: F32) => make('f32', a.bytes, b.bytes, int(condition).bytes, [0x1b]),
  reinterpret: (a: Int) => make('f32', int(a).bytes, [0xbe]),
  fromSigned: (a: Int) => make('f32', int(a).bytes, [0xb2]),
  fromUnsigned: (a: Int) => make('f32', int(a).bytes, [0xb3]),
  demote: (a: F64) => make('f32', a.bytes, [0xb6]),
};

const doubleBinary = (opcode: number) => (a: F64, b: F64) => make('f64', a.bytes, b.bytes, [opcode]);

export const f64 = {
  const: (value: number) => make('f64', [0x44, ...doubleBytes(value)]),
  load: load32('f64', 0x2b, 3),
  add: doubleBinary(0xa0),
  sub: doubleBinary(0xa1),
  mul: doubleBinary(0xa2),
  div: doubleBinary(0xa3),
  sqrt: (a: F64) => make('f64', a.bytes, [0x9f]),
  promote: (a: F32) => make('f64', a.bytes, [0xbb]),
};

const vectorUnary = (opcode: number) => (a: V128) => make('v128', a.bytes, simd(opcode));
const vectorBinary = (opcode: number) => (a: V128, b: V128) => make('v128', a.bytes, b.bytes, simd(opcode));
const vectorShift = (opcode: number) => (a: V128, bits: Int) => make('v128', a.bytes, int(bits).bytes, simd(opcode));
const vectorLoad =
  (opcode: number, alignLog2: number) =>
  (address: Address, offset = 0) =>
    make('v128', loadBytes(address, simd(opcode), alignLog2, offset));

export const v128 = {
  load: vectorLoad(0x00, 2),
  load8x8s: vectorLoad(0x01, 0),
  load8x8u: vectorLoad(0x02, 0),
  load16x4s: vectorLoad(0x03, 1),
  load16x4u: vectorLoad(0x04, 1),
  load32Splat: vectorLoad(0x09, 2),
  load32Zero: vectorLoad(0x5c, 0),
  /** The vector with one 32-bit lane read from memory. */
  load32Lane: (address: Int, value: V128, lane: number) =>
    make('v128', int(address).bytes, value.bytes, simd(0x56), memoryOperand(0, 0), [lane]),
  load64Zero: vectorLoad(0x5d, 0),
  const: (bytes: readonly number[]) => make('v128', simd(0x0c), bytes),
  shuffle: (a: V128, b: V128, lanes: readonly number[]) => make('v128', a.bytes, b.bytes, simd(0x0d), lanes),
  not: vectorUnary(0x4d),
  and: vectorBinary(0x4e),
  /** `a & ~b`. */
  andNot: vectorBinary(0x4f),
  or: vectorBinary(0x50),
  xor: vectorBinary(0x51),
  /** Bits of `a` where the mask is 1, of `b` where it is 0. */
  bitSelect: (mask: V128, a: V128, b: V128) => make('v128', a.bytes, b.bytes, mask.bytes, simd(0x52)),
  anyTrue: (a: V128) => make('i32', a.bytes, simd(0x53)),
};

/** Byte lanes of a shuffle that picks 32-bit lanes: 0..3 from the first operand, 4..7 from the second. */
export const lanes32 = (...lanes: [number, number, number, number]) =>
  lanes.flatMap((lane) => [0, 1, 2, 3].map((byte) => lane * 4 + byte));

export const i8x16 = {
  narrowSigned: vectorBinary(0x65),
  narrowUnsigned: vectorBinary(0x66),
  /** Byte lane i = table[indices[i]], 0 where an index is 16 or more. */
  swizzle: vectorBinary(0x0e),
  /** As `swizzle` where every index is below 16; one instruction on every machine. */
  relaxedSwizzle: vectorBinary(0x100),
};
export const i16x8 = {
  narrowSigned: vectorBinary(0x85),
  narrowUnsigned: vectorBinary(0x86),
  /** Products of signed bytes, of the low or high eight. */
  multiplyLow: vectorBinary(0x9c),
  multiplyHigh: vectorBinary(0x9d),
  shl: vectorShift(0x8b),
  shrU: vectorShift(0x8d),
};

/** The low or high halves of two vectors, one lane of `bytes` bytes from each in turn: a0 b0 a1 b1 ... */
export const interleave = (a: V128, b: V128, bytes: 1 | 2, half: 'low' | 'high') =>
  v128.shuffle(
    a,
    b,
    Array.from({ length: 16 }, (_, i) => {
      const lane = Math.floor(i / bytes);
      const from = (lane >> 1) * bytes + (i % bytes) + (half === 'high' ? 8 : 0);
      return lane % 2 === 0 ? from : from + 16;
    }),
  );

export const i32x4 = {
  const: (value: number) => v128.const([0, 1, 2, 3].flatMap(() => [...new Uint8Array(new Int32Array([value]).buffer)])),
  lanesConst: (...values: [number, number, number, number]) =>
    v128.const([...new Uint8Array(new Int32Array(values).buffer)]),
  splat: (a: Int) => make('v128', int(a).bytes, simd(0x11)),
  extract: (a: V128, lane: number) => make('i32', a.bytes, simd(0x1b), [lane]),
  eq: vectorBinary(0x37),
  ne: vectorBinary(0x38),
  ltS: vectorBinary(0x39),
  ltU: vectorBinary(0x3a),
  gtS: vectorBinary(0x3b),
  gtU: vectorBinary(0x3c),
  leS: vectorBinary(0x3d),
  leU: vectorBinary(0x3e),
  geS: vectorBinary(0x3f),
  geU: vectorBinary(0x40),
  abs: vectorUnary(0xa0),
  neg: vectorUnary(0xa1),
  extendLow16s: vectorUnary(0xa7),
  extendLow16u: vectorUnary(0xa9),
  shl: vectorShift(0xab),
  shrS: vectorShift(0xac),
  shrU: vectorShift(0xad),
  add: vectorBinary(0xae),
  sub: vectorBinary(0xb1),
  mul: vectorBinary(0xb5),
  /** Products of eight signed 16-bit lanes, neighbours added. */
  dot: vectorBinary(0xba),
  minS: vectorBinary(0xb6),
  minU: vectorBinary(0xb7),
  maxS: vectorBinary(0xb8),
  maxU: vectorBinary(0xb9),
  truncSatS: vectorUnary(0xf8),
  truncSatU: vectorUnary(0xf9),
  /** Sums of neighbouring signed 16-bit lanes. */
  addPairs: vectorUnary(0x7e),
  /** c + the products of four signed bytes of a with four bytes of b in 0 .. 127, summed in each lane. */
  relaxedDot: (a: V128, b: V128, c: V128) => make('v128', a.bytes, b.bytes, c.bytes, simd(0x113)),
  /** Two f64 lanes to the two low integer lanes, the high ones zero. */
  truncSatSDouble: vectorUnary(0xfc),
};

export const i16x8Extend = { lowS: vectorUnary(0x87), lowU: vectorUnary(0x89) };

export const f32x4 = {
  const: (value: number) => v128.const([0, 1, 2, 3].flatMap(() => floatBytes(value))),
  splat: (a: F32) => make('v128', a.bytes, simd(0x13)),
  extract: (a: V128, lane: number) => make('f32', a.bytes, simd(0x1f), [lane]),
  eq: vectorBinary(0x41),
  ne: vectorBinary(0x42),
  lt: vectorBinary(0x43),
  gt: vectorBinary(0x44),
  le: vectorBinary(0x45),
  ge: vectorBinary(0x46),
  demoteZero: vectorUnary(0x5e),
  ceil: vectorUnary(0x67),
  floor: vectorUnary(0x68),
  trunc: vectorUnary(0x69),
  nearest: vectorUnary(0x6a),
  abs: vectorUnary(0xe0),
  neg: vectorUnary(0xe1),
  sqrt: vectorUnary(0xe3),
  add: vectorBinary(0xe4),
  sub: vectorBinary(0xe5),
  mul: vectorBinary(0xe6),
  div: vectorBinary(0xe7),
  min: vectorBinary(0xe8),
  max: vectorBinary(0xe9),
  /** `b < a ? b : a`. */
  pmin: vectorBinary(0xea),
  /** `a < b ? b : a`. */
  pmax: vectorBinary(0xeb),
  fromSigned: vectorUnary(0xfa),
  fromUnsigned: vectorUnary(0xfb),
  /** `a * b + c` rounded once where the machine has FMA. */
  relaxedMadd: (a: V128, b: V128, c: V128) => make('v128', a.bytes, b.bytes, c.bytes, simd(0x105)),
};

export const f64x2 = {
  const: (value: number) => v128.const([0, 1].flatMap(() => doubleBytes(value))),
  splat: (a: F64) => make('v128', a.bytes, simd(0x14)),
  extract: (a: V128, lane: number) => make('f64', a.bytes, simd(0x21), [lane]),
  promoteLow: vectorUnary(0x5f),
  nearest: vectorUnary(0x94),
  add: vectorBinary(0xf0),
  sub: vectorBinary(0xf1),
  mul: vectorBinary(0xf2),
  div: vectorBinary(0xf3),
  min: vectorBinary(0xf4),
  max: vectorBinary(0xf5),
};

/** Statements: bytes that leave nothing on the stack. */
const storeAs =
  (opcode: readonly number[], alignLog2: number) =>
  (address: Int, value: Code<ValueType>, offset = 0): number[] =>
    concat([int(address).bytes, value.bytes, opcode, memoryOperand(alignLog2, offset)]);

export const store = {
  i32: storeAs([0x36], 2),
  i8: storeAs([0x3a], 0),
  i16: storeAs([0x3b], 1),
  f32: storeAs([0x38], 2),
  f64: storeAs([0x39], 3),
  v128: storeAs(simd(0x0b), 2),
  atomicI32: storeAs(atomic(0x17), 2),
  atomicI64: storeAs(atomic(0x18), 3),
  /** The low 64 or 32 bits of a vector. */
  low64: (address: Int, value: V128, offset = 0) =>
    concat([int(address).bytes, value.bytes, simd(0x5b), memoryOperand(0, offset), [0]]),
  low32: (address: Int, value: V128, offset = 0) =>
    concat([int(address).bytes, value.bytes, simd(0x5a), memoryOperand(0, offset), [0]]),
};
