/**
 * Products with at most four rows of A and W^T in 4 bits, as in generation: half a byte is read a weight. For each block the
 * 16 values of code * absmax, rounded to the weight's dtype, become a table of byte planes; a vector of nibbles chooses from
 * it. A is arranged beforehand in the order in which values come out.
 */
import {
  argument,
  type FunctionBuilder,
  type FunctionRef,
  type Local,
  type MemoryShape,
  type ModuleBuilder,
  moved,
} from '../assembler.ts';
import { f32, f32x4, i8x16, i16x8, i32, i32x4, i64, interleave, store, v128 } from '../instructions.ts';
import { bytesPerElement, type Features, type FloatType, floatTypes, loadFloat, maddFor, sumLanes } from './lanes.ts';
import { chooser, nibblesOf, roundLanes } from './pack-4bit.ts';
import { weightFlag, weightWord } from './weight-4bit.ts';

type IntLocal = Local<'i32'>;

/** Most rows of A that these kernels take. */
export const maxRows = 4;
/** Elements of a row that one vector of nibbles covers. */
export const group = 32;

/** `a` is arranged, `aStride` in bytes. */
export const rowsWord = {
  c: 0,
  cStride: 1,
  m: 2,
  n: 3,
  rowsPerChunk: 4,
  bias: 5,
  a: 6,
  aStride: 7,
  weight: 8,
} as const;
export const rowsTask = (dtype: FloatType): string => `rows4bit_${dtype}`;

/** One chunk arranges all rows. */
export const arrangeWord = { from: 0, fromStride: 1, to: 2, rows: 3, k: 4 } as const;
export const arrangeTask = (dtype: FloatType, weight: FloatType): string =>
  `arrange_${dtype}_${weight === 'bf16' ? 'bf16' : 'wide'}`;

/** Adds the tasks `arrange_*` and `rows4bit_*`. */
export function addRows(m: ModuleBuilder, memory: MemoryShape, features: Features, absmax: FunctionRef): void {
  const withStore = Boolean(memory.storePages);
  for (const dtype of floatTypes) for (const weight of ['bf16', 'f32'] as const) arrange(m, dtype, weight);
  for (const dtype of floatTypes) {
    const row = (aRows: number, far: boolean) => rowFunction(m, { features, dtype, aRows, far });
    const near = [row(1, false), row(2, false)] as const;
    rows(m, { dtype, absmax, near, far: withStore ? [row(1, true), row(2, true)] : undefined });
  }
}

/** Elements of a group in the order in which they come out of the table, four a vector. */
function orderOf(weight: FloatType): number[] {
  // Bytes hold elements 2i (high nibble) and 2i + 1; 16-bit values come out as their even, then their odd lanes.
  const eights = [0, 1].flatMap((low) => [0, 8].map((first) => ({ low, first })));
  return eights.flatMap(({ low, first }) => {
    const lanes = weight === 'bf16' ? [0, 2, 4, 6, 1, 3, 5, 7] : [0, 1, 2, 3, 4, 5, 6, 7];
    return lanes.map((lane) => 2 * (first + lane) + low);
  });
}

function arrange(m: ModuleBuilder, dtype: FloatType, weight: FloatType): void {
  m.task(arrangeTask(dtype, weight), (f, args) => {
    const word = (name: keyof typeof arrangeWord) => f.int(argument(args, arrangeWord[name]));
    const [row, to, k] = [word('from'), word('to'), word('k')];
    const from = f.int();
    f.for(0, word('rows'), 1, () => {
      f.set(from, row);
      f.for(0, k, group, () => {
        for (const [i, element] of orderOf(weight).entries())
          f.emit(store.f32(to, loadFloat(f, dtype, from, element * bytesPerElement[dtype]), 4 * i));
        f.increase(from, group * bytesPerElement[dtype]);
        f.increase(to, group * 4);
      });
      f.increase(row, argument(args, arrangeWord.fromStride));
    });
  });
}

interface RowKind {
  readonly features: Features;
  readonly dtype: FloatType;
  readonly aRows: number;
  readonly far: boolean;
}

/** Planes of 16 bytes from 16 numbers in four vectors: the two upper bytes of bf16 values, all four of others, lowest first. */
function planesOf(f: FunctionBuilder, dtype: FloatType, values: readonly Local<'v128'>[]): Local<'v128'>[] {
  const pairs = (halves: readonly Local<'v128'>[]) =>
    [0, 2].map((i) => f.vector(i16x8.narrowUnsigned(halves[i]!, halves[i + 1]!)));
  const planes = ([a, b]: readonly Local<'v128'>[]) => {
    const byte = f.hoist(i32x4.const(0x00ff00ff));
    return [
      f.vector(i8x16.narrowUnsigned(v128.and(a!, byte), v128.and(b!, byte))),
      f.vector(i8x16.narrowUnsigned(i16x8.shrU(a!, 8), i16x8.shrU(b!, 8))),
    ];
  };
  const upper = () => planes(pairs(values.map((v) => f.vector(i32x4.shrU(v, 16)))));
  if (dtype === 'bf16') return upper();
  const low = f.hoist(i32x4.const(0xffff));
  return [...planes(pairs(values.map((v) => f.vector(v128.and(v, low))))), ...upper()];
}

/** The values of a group's nibbles, in the order of `orderOf`, eight at a time. */
function valuesOf(
  f: FunctionBuilder,
  { features, dtype }: RowKind,
  planes: readonly Local<'v128'>[],
  nibbles: Local<'v128'>,
): Local<'v128'>[] {
  const bytes = planes.map((plane) => f.vector(chooser(features)(plane, nibbles)));
  return (['low', 'high'] as const).flatMap((half) => {
    const halves = f.vector(interleave(bytes.at(-2)!, bytes.at(-1)!, 1, half));
    if (dtype === 'bf16') {
      const mask = f.hoist(i32x4.const(0xffff0000));
      return [f.vector(i32x4.shl(halves, 16)), f.vector(v128.and(halves, mask))];
    }
    const low = f.vector(interleave(bytes[0]!, bytes[1]!, 1, half));
    return [f.vector(interleave(low, halves, 2, 'low')), f.vector(interleave(low, halves, 2, 'high'))];
  });
}

/** Partial sums an element of C; they combine in one order, whatever the rows of A at a time. */
const partialSums = 4;

/**
 * (weight, packed row, scales, slots, groups a slot, a, a stride, out): one row of W with `aRows` rows of A; a slot is a run
 * of groups with one scale. The sums follow each other at `out`.
 */
function rowFunction(m: ModuleBuilder, kind: RowKind): FunctionRef {
  const { features, dtype, aRows, far } = kind;
  const madd = maddFor(features);
  const pointer = far ? 'i64' : 'i32';
  return m.function(undefined, ['i32', pointer, 'i32', 'i32', 'i32', 'i32', 'i32', 'i32'], [], (f) => {
    const [weight, packed, scales, slots, groups, firstA, aStride, out] = f.params as [
      IntLocal, Local<'i32'>, IntLocal, IntLocal, IntLocal, IntLocal, IntLocal, IntLocal,
    ]; // biome-ignore format: a signature
    const code = [0, 1, 2, 3].map((i) => f.vector(v128.load(weight, (weightWord.code + 4 * i) * 4)));
    const a = [firstA];
    while (a.length < aRows) a.push(f.int(i32.add(a.at(-1)!, aStride)));
    const sums = a.map(() => Array.from({ length: partialSums }, () => f.vector()));
    const scale = f.vector();
    f.for(0, slots, 1, () => {
      f.set(scale, v128.load32Splat(scales));
      const table = code.map((c) => f.vector(roundLanes(f, dtype, f32x4.mul(c, scale))));
      const planes = planesOf(f, dtype, table);
      f.for(0, groups, 1, () => {
        const values = nibblesOf(f, f.vector(v128.load(packed))).flatMap((n) => valuesOf(f, kind, planes, n));
        for (const [r, row] of a.entries())
          for (const [i, value] of values.entries()) {
            const sum = sums[r]![i % partialSums]!;
            f.set(sum, madd(value, v128.load(row, 16 * i), sum));
          }
        f.set(packed, moved(packed, group / 2));
        for (const row of a) f.increase(row, group * 4);
      });
      f.increase(scales, 4);
    });
    for (const [r, parts] of sums.entries()) {
      const [p, q, s, t] = parts as [Local<'v128'>, Local<'v128'>, Local<'v128'>, Local<'v128'>];
      const all = f.vector(f32x4.add(f32x4.add(p, q), f32x4.add(s, t)));
      f.emit(store.f32(out, sumLanes(all), 4 * r));
    }
  });
}

interface RowsKind {
  readonly dtype: FloatType;
  readonly absmax: FunctionRef;
  /** For one and for two rows of A. */
  readonly near: readonly [FunctionRef, FunctionRef];
  readonly far: readonly [FunctionRef, FunctionRef] | undefined;
}

/** Where a row's scales lie in scratch, behind the sums. */
const scalesAt = 64;

/** Chunk = rows of W. */
function rows(m: ModuleBuilder, { dtype, absmax, near, far }: RowsKind): void {
  m.task(rowsTask(dtype), (f, args, chunk, scratch) => {
    const word = (name: keyof typeof rowsWord) => f.int(argument(args, rowsWord[name]));
    const [rowCount, perChunk, a, aStride] = [word('m'), word('rowsPerChunk'), word('a'), word('aStride')];
    const weight = f.int(i32.add(args, rowsWord.weight * 4));
    const own = (name: keyof typeof weightWord) => f.int(i32.load(weight, weightWord[name] * 4));
    const [rowLength, shift] = [own('rowLength'), own('shift')];
    const isFar = f.int(i32.and(own('flags'), weightFlag.packedInStore));
    const row = f.int(i32.mul(chunk, perChunk));
    const end = f.int(i32.min(word('n'), i32.add(row, perChunk)));
    // A scale holds for a whole block where rows end between blocks, else for a group.
    const cutsBlocks = i32.and(rowLength, i32.sub(i32.shl(1, shift), 1));
    const slotShift = f.int(i32.select(cutsBlocks, Math.log2(group), shift));
    const slots = f.int(i32.shrU(rowLength, slotShift));
    const groups = f.int(i32.shl(1, i32.sub(slotShift, Math.log2(group))));
    const scales = f.int(i32.add(scratch, scalesAt));
    const base = f.local('i64', i64.load(weight, weightWord.packed * 4));
    const [element, bytes, rowsOfA] = [f.int(), f.int(), f.int()];
    f.while(row, end, 1, () => {
      f.set(element, i32.mul(row, rowLength));
      f.call(absmax, weight, element, slots, i32.shl(1, slotShift), scales, 4);
      f.set(bytes, i32.shrU(element, 1));
      const run = (i: IntLocal, which: 0 | 1) => {
        const rest = [scales, slots, groups, i32.add(a, i32.mul(i, aStride)), aStride, scratch] as const;
        const nearCall = () => f.call(near[which], weight, i32.add(i32.wrap(base), bytes), ...rest);
        if (far) f.if(isFar, () => f.call(far[which], weight, moved(base, bytes), ...rest), nearCall);
        else nearCall();
        f.setInt(rowsOfA, which + 1);
        f.for(0, rowsOfA, 1, (r) => finish(f, args, i32.add(i, r), row, f32.load(i32.add(scratch, i32.shl(r, 2)))));
      };
      const i = f.int(0);
      f.while(i, i32.and(rowCount, -2), 2, () => run(i, 1));
      f.while(i, rowCount, 1, () => run(i, 0));
    });
  });
}

type Sum = ReturnType<typeof f32.load>;

/** C[row, column] = sum + bias. */
export function finish(
  f: FunctionBuilder,
  args: IntLocal,
  row: ReturnType<typeof i32.add>,
  column: IntLocal,
  sum: Sum,
): void {
  const bias = f.hoist(argument(args, rowsWord.bias));
  const value = f.local('f32', sum);
  f.if(bias, () => f.set(value, f32.add(value, f32.load(i32.add(bias, i32.shl(column, 2))))));
  const rowStart = i32.add(argument(args, rowsWord.c), i32.mul(row, argument(args, rowsWord.cStride)));
  f.emit(store.f32(i32.add(rowStart, i32.shl(column, 2)), value));
}
