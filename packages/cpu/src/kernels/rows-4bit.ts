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
import {
  f32,
  f32x4,
  type I64,
  i8x16,
  i16x8,
  i32,
  i32x4,
  i64,
  interleave,
  store,
  type V128,
  v128,
} from '../instructions.ts';
import { bytesPerElement, type Features, type FloatType, floatTypes, loadFloat, maddFor, sumLanes } from './lanes.ts';
import { chooser, nibblesOf, roundLanes } from './pack-4bit.ts';
import { group, RowsFrame4bit, rowGroup } from './rows-frame-4bit.ts';
import { weightWord } from './weight-4bit.ts';

type IntLocal = Local<'i32'>;

export const rowsTask = (dtype: FloatType): string => `rows4bit_${dtype}`;

/** One chunk arranges all rows. */
export const arrangeWord = { from: 0, fromStride: 1, to: 2, rows: 3, k: 4 } as const;
export const arrangeTask = (dtype: FloatType, weight: FloatType): string =>
  `arrange_${dtype}_${weight === 'bf16' ? 'bf16' : 'wide'}`;

/** Adds the tasks `arrange_*` and `rows4bit_*`. */
export function addRows(m: ModuleBuilder, memory: MemoryShape, features: Features, absmax: FunctionRef): void {
  const withStore = Boolean(memory.storePages);
  const touches = [false, ...(withStore ? [true] : [])].map((far) => touchFunction(m, far));
  const touch = (far: boolean) => touches[far ? 1 : 0]!;
  for (const dtype of floatTypes) for (const weight of ['bf16', 'f32'] as const) arrange(m, dtype, weight);
  for (const dtype of floatTypes) {
    const row = (aRows: number, far: boolean) => rowFunction(m, { features, dtype, aRows, far });
    const reach = (far: boolean): Reach => ({ rows: [row(1, far), row(2, far)], touch: touch(far) });
    const table = tableFunction(m, dtype);
    rows(m, { dtype, absmax, table, near: reach(false), far: withStore ? reach(true) : undefined });
  }
}

/** Elements of a group in the order in which they come out of the table, four a vector. */
function orderOf(weight: FloatType): number[] {
  // Bytes hold elements 2i (high nibble) and 2i + 1; the low and the high eight of them come out side by side, which pairs.
  const parts = weight === 'bf16' ? [[0, 2, 4, 6], [1, 3, 5, 7]] : [[0, 1, 2, 3], [4, 5, 6, 7]]; // biome-ignore format: lanes
  return [0, 1].flatMap((low) =>
    parts.flatMap((lanes) => [0, 8].flatMap((first) => lanes.map((lane) => 2 * (first + lane) + low))),
  );
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

/**
 * (weight, scales, slots, to): for each scale its 16 values of code * absmax, rounded: f32, or the 16 bits of a bf16 in 32. A
 * pass of its own, so that V8 pairs its vectors.
 */
function tableFunction(m: ModuleBuilder, dtype: FloatType): FunctionRef {
  return m.function(undefined, ['i32', 'i32', 'i32', 'i32'], [], (f) => {
    const [weight, scales, slots, to] = f.params as [IntLocal, IntLocal, IntLocal, IntLocal];
    const quarters = [0, 1, 2, 3];
    const code = quarters.map((i) => f.vector(v128.load(weight, (weightWord.code + 4 * i) * 4)));
    f.for(0, slots, 1, () => {
      const scale = f.vector(v128.load32Splat(scales));
      const values = quarters.map((i) => f.vector(roundLanes(f, dtype, f32x4.mul(code[i]!, scale))));
      const bits = dtype === 'bf16' ? values.map((v) => f.vector(i32x4.shrU(v, 16))) : values;
      for (const i of quarters) f.emit(store.v128(to, bits[i]!, 16 * i));
      f.increase(scales, 4);
      f.increase(to, tableBytes);
    });
  });
}

/** Planes of 16 bytes of a table: the two of bf16, all four of others, lowest first. */
function loadTable(f: FunctionBuilder, dtype: FloatType, table: IntLocal): Local<'v128'>[] {
  const values = [0, 1, 2, 3].map((i) => v128.load(table, 16 * i));
  const byte = f.hoist(i32x4.const(0x00ff00ff));
  const planes = (halves: readonly V128[]) => {
    const [a, b] = [0, 2].map((i) => f.vector(i16x8.narrowUnsigned(halves[i]!, halves[i + 1]!)));
    return [
      f.vector(i8x16.narrowUnsigned(v128.and(a!, byte), v128.and(b!, byte))),
      f.vector(i8x16.narrowUnsigned(i16x8.shrU(a!, 8), i16x8.shrU(b!, 8))),
    ];
  };
  if (dtype === 'bf16') return planes(values);
  const low = f.hoist(i32x4.const(0xffff));
  return [...planes(values.map((v) => v128.and(v, low))), ...planes(values.map((v) => i32x4.shrU(v, 16)))];
}

/** The values of a group's nibbles, in the order of `orderOf`, eight at a time. */
function valuesOf(
  f: FunctionBuilder,
  { features, dtype }: RowKind,
  planes: readonly Local<'v128'>[],
  nibbles: Local<'v128'>,
): Local<'v128'>[] {
  const bytes = planes.map((plane) => f.vector(chooser(features)(plane, nibbles)));
  const both = ['low', 'high'] as const;
  const halves = both.map((half) => f.vector(interleave(bytes.at(-2)!, bytes.at(-1)!, 1, half)));
  if (dtype === 'bf16') {
    const mask = f.hoist(i32x4.const(0xffff0000));
    return [...halves.map((h) => f.vector(i32x4.shl(h, 16))), ...halves.map((h) => f.vector(v128.and(h, mask)))];
  }
  const low = both.map((half) => f.vector(interleave(bytes[0]!, bytes[1]!, 1, half)));
  return both.flatMap((half) => low.map((l, i) => f.vector(interleave(l, halves[i]!, 2, half))));
}

/** Partial sums an element of C; they combine in one order, whatever the rows of A at a time. */
const partialSums = 4;
/** Where they are stored behind the sums: side by side, which lets V8 pair the loop. */
const partsAt = 16;

/**
 * (packed row, tables, slots, groups a slot, a, a stride, out): one row of W with `aRows` rows of A; a slot is a run
 * of groups with one scale. The sums follow each other at `out`.
 */
function rowFunction(m: ModuleBuilder, kind: RowKind): FunctionRef {
  const { features, dtype, aRows, far } = kind;
  const madd = maddFor(features);
  const pointer = far ? 'i64' : 'i32';
  return m.function(undefined, [pointer, 'i32', 'i32', 'i32', 'i32', 'i32', 'i32'], [], (f) => {
    const [packed, table, slots, groups, firstA, aStride, out] = f.params as [
      Local<'i32'>, IntLocal, IntLocal, IntLocal, IntLocal, IntLocal, IntLocal,
    ]; // biome-ignore format: a signature
    const a = [firstA];
    while (a.length < aRows) a.push(f.int(i32.add(a.at(-1)!, aStride)));
    const sums = a.map(() => Array.from({ length: partialSums }, () => f.vector()));
    f.for(0, slots, 1, () => {
      const planes = loadTable(f, dtype, table);
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
      f.increase(table, tableBytes);
    });
    for (const [r, parts] of sums.entries()) {
      for (const [i, part] of parts.entries()) f.emit(store.v128(out, part, partsAt + 16 * i));
      const at = (i: number) => v128.load(out, partsAt + 16 * i);
      const all = f.vector(f32x4.add(f32x4.add(at(0), at(1)), f32x4.add(at(2), at(3))));
      f.emit(store.f32(out, sumLanes(all), 4 * r));
    }
  });
}

const pageBytes = 4096;

/**
 * (from, bytes, out): reads the first two lines of each page of a range. A processor's prefetcher stops at the end of a page;
 * here the waits for the next pages' memory overlap and prefetching has begun before their rows are read. The sum of what was
 * read is stored at `out`, so that no compiler drops the reads.
 */
function touchFunction(m: ModuleBuilder, far: boolean): FunctionRef {
  return m.function(undefined, [far ? 'i64' : 'i32', 'i32', 'i32'], [], (f) => {
    const [from, bytes, out] = f.params as unknown as [Local<'i32'>, IntLocal, IntLocal];
    const past = f.int(i32.and(far ? i32.wrap(from as unknown as I64) : from, pageBytes - 1));
    if (far) f.set(from as unknown as Local<'i64'>, i64.sub(from as unknown as I64, i64.extend(past)));
    else f.set(from, i32.sub(from, past));
    const seen = f.vector();
    f.for(0, i32.add(bytes, past), pageBytes, () => {
      f.set(seen, v128.or(seen, v128.or(v128.load(from), v128.load(from, 64))));
      f.set(from, moved(from, pageBytes));
    });
    f.emit(store.v128(out, seen));
  });
}

interface RowsKind {
  readonly dtype: FloatType;
  readonly absmax: FunctionRef;
  readonly table: FunctionRef;
  readonly near: Reach;
  readonly far: Reach | undefined;
}

/** Functions for W in one of the memories. */
interface Reach {
  /** For one and for two rows of A. */
  readonly rows: readonly [FunctionRef, FunctionRef];
  readonly touch: FunctionRef;
}

/** Bytes of a slot's table. */
const tableBytes = 64;
/** Where a row's scales lie in scratch, behind the sums, and its tables. */
const scalesAt = 128;
const tablesAt = 64 * 1024;
/** Longest rows whose scales and tables fit there. */
export const maxRowLength = ((tablesAt - scalesAt) / 4) * group;

/** Chunk = rows of W. */
function rows(m: ModuleBuilder, { dtype, absmax, table, near, far }: RowsKind): void {
  m.task(rowsTask(dtype), (f, args, chunk, scratch) => {
    const frame = new RowsFrame4bit(f, args, chunk, Boolean(far));
    const { row, end, rowLength, slots } = frame;
    const reach = (isFar: boolean) => (isFar ? far! : near);
    const groups = f.int(i32.shl(1, i32.sub(frame.slotShift, Math.log2(group))));
    const [scales, tables] = [f.int(i32.add(scratch, scalesAt)), f.int(i32.add(scratch, tablesAt))];
    const [a, aStride] = [frame.word('a'), frame.word('aStride')];
    const [ahead, i] = [f.int(), f.int()];
    const run = (aRows: 1 | 2) => {
      const ofA = i32.add(a, i32.mul(i, aStride));
      frame.inMemory(row, (packed, isFar) =>
        f.call(reach(isFar).rows[aRows - 1]!, packed, tables, slots, groups, ofA, aStride, scratch),
      );
      for (let r = 0; r < aRows; r++) frame.finish(i32.add(i, r), row, f32.load(scratch, 4 * r));
    };
    f.while(row, end, 1, () => {
      f.if(i32.eqz(i32.and(row, rowGroup - 1)), () => {
        f.set(ahead, i32.shrU(i32.mul(i32.min(i32.sub(end, row), rowGroup), rowLength), 1));
        frame.inMemory(row, (packed, isFar) => f.call(reach(isFar).touch, packed, ahead, scratch));
      });
      frame.decode(absmax, row, scales);
      f.call(table, frame.weight, scales, slots, tables);
      f.setInt(i, 0);
      f.while(i, i32.and(frame.word('m'), -2), 2, () => run(2));
      f.while(i, frame.word('m'), 1, () => run(1));
    });
  });
}
