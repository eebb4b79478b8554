/**
 * Products with at most four rows of A and W stored as [n, k], as in generation: every row of W is read once, without
 * packing, against two rows of A at a time. Eight partial sums an element, combined in a fixed order.
 */
import {
  argument,
  type FunctionBuilder,
  type FunctionRef,
  type Local,
  type ModuleBuilder,
  moved,
} from '../assembler.ts';
import { type F32, f32, f32x4, type I32, i32, i64, store, v128 } from '../instructions.ts';
import { scratchBytes, type Task, type Team } from '../team.ts';
import {
  bytesPerElement,
  elementShift,
  type Features,
  type FloatType,
  floatTypes,
  loadFloat,
  loadFloats,
  maddFor,
  sumLanes,
} from './lanes.ts';
import type { Pair, Product } from './matmul-plan.ts';

const maxRows = 4;
/** Bytes of W a chunk reads: long enough to be worth a claim, short enough to share. */
const bytesPerChunk = 256 * 1024;
const word = {
  c: 0,
  cStride: 1,
  m: 2,
  n: 3,
  rowsPerChunk: 4,
  bias: 5,
  keep: 6,
  a: 7,
  aStride: 8,
  b: 9,
  bStride: 11,
  k: 12,
} as const;
const taskName = (dtype: FloatType, far: boolean) => `rows_${dtype}${far ? '_store' : ''}`;

/**
 * Adds the tasks `rows_f32`, `rows_f16` and `rows_bf16`, named by W's dtype, and their twins for a W in the store: they
 * copy rows to scratch first, because V8 does not pair loads with 64-bit addresses.
 */
export function addSmallRows(m: ModuleBuilder, features: Features, withStore: boolean): void {
  for (const dtype of floatTypes) {
    const tile = (aRows: number, wRows: number) => dots(m, features, { dtype, aRows, wRows });
    const tiles = { square: tile(2, 2), column: tile(1, 4), single: tile(1, 1) };
    rowsTask(m, { dtype, far: false, ...tiles });
    if (withStore) rowsTask(m, { dtype, far: true, ...tiles });
  }
}

interface DotsKind {
  readonly dtype: FloatType;
  readonly aRows: number;
  readonly wRows: number;
}

/** Vectors a turn of the loop reads from each row. */
const halves = [0, 1];
const step = halves.length * 4;

/**
 * (w, w stride, a, a stride, k, out): the products of a few rows of W with a few rows of A, one f32 after the other at
 * out, A's rows innermost. Every product has eight partial sums that combine in one order, whatever the tile.
 */
function dots(m: ModuleBuilder, features: Features, { dtype, aRows, wRows }: DotsKind): FunctionRef {
  const madd = maddFor(features);
  return m.function(undefined, new Array(6).fill('i32'), [], (f) => {
    const [firstW, wStride, firstA, aStride, k, out] = f.params as SixInts;
    const w = rowPointers(f, firstW, wStride, wRows);
    const a = rowPointers(f, firstA, aStride, aRows);
    const cells = w.flatMap((wRow) => a.map((aRow) => ({ wRow, aRow, acc: halves.map(() => f.vector()) })));
    const advance = (elements: number) => {
      for (const row of a) f.increase(row, elements * 4);
      for (const row of w) f.increase(row, elements * bytesPerElement[dtype]);
    };
    const done = f.int(0);
    f.while(done, i32.and(k, -step), step, () => {
      const offset = (half: number) => half * 4;
      const ofW = new Map(
        w.map((row) => [
          row,
          halves.map((h) => f.vector(loadFloats(f, dtype, row, offset(h) * bytesPerElement[dtype]))),
        ]),
      );
      const ofA = new Map(a.map((row) => [row, halves.map((h) => f.vector(v128.load(row, offset(h) * 4)))]));
      for (const { wRow, aRow, acc } of cells)
        for (const half of halves) f.set(acc[half]!, madd(ofA.get(aRow)![half]!, ofW.get(wRow)![half]!, acc[half]!));
      advance(step);
    });
    const sums = finishSums(
      f,
      cells.map(({ acc }) => acc),
      out,
    );
    f.while(done, k, 1, () => {
      for (const [i, { wRow, aRow }] of cells.entries())
        f.set(sums[i]!, f32.add(sums[i]!, f32.mul(f32.load(aRow), loadFloat(f, dtype, wRow))));
      advance(1);
    });
    for (const [i, sum] of sums.entries()) f.emit(store.f32(out, sum, 4 * i));
  });
}

type SixInts = [Local<'i32'>, Local<'i32'>, Local<'i32'>, Local<'i32'>, Local<'i32'>, Local<'i32'>];

function rowPointers(f: FunctionBuilder, first: Local<'i32'>, stride: Local<'i32'>, count: number): Local<'i32'>[] {
  const rows = [first];
  while (rows.length < count) rows.push(f.int(i32.add(rows.at(-1)!, stride)));
  return rows;
}

/** Accumulators to sums; all are stored side by side first, which is what lets V8 pair the loop above. */
function finishSums(f: FunctionBuilder, cells: readonly Local<'v128'>[][], buffer: Local<'i32'>): Local<'f32'>[] {
  const at = (cell: number, half: number) => (cell * halves.length + half) * 16;
  for (const [i, acc] of cells.entries())
    for (const half of halves) f.emit(store.v128(buffer, acc[half]!, at(i, half)));
  return cells.map((_, i) => {
    const both = f.vector(f32x4.add(v128.load(buffer, at(i, 0)), v128.load(buffer, at(i, 1))));
    return f.local('f32', sumLanes(both));
  });
}

interface RowsKind {
  readonly dtype: FloatType;
  readonly far: boolean;
  readonly square: FunctionRef;
  readonly column: FunctionRef;
  readonly single: FunctionRef;
}

/** Rows of W handled together. */
const groupRows = 4;
/** Where copied rows of W lie in scratch, behind the tiles' sums. */
const copyAt = 4096;
/** Longest rows of W that fit there. */
const maxFarRowBytes = Math.floor((scratchBytes - copyAt) / groupRows / 16) * 16;

/** Chunk = rows of W: four at a time against A's rows two at a time, what is left one by one. */
function rowsTask(m: ModuleBuilder, { dtype, far, square, column, single }: RowsKind): void {
  m.task(taskName(dtype, far), (f, args, chunk, scratch) => {
    const get = (name: keyof typeof word) => f.int(argument(args, word[name]));
    const [rowCount, aStride, bStride, k, a] = [get('m'), get('aStride'), get('bStride'), get('k'), get('a')];
    const row = f.int(i32.mul(chunk, get('rowsPerChunk')));
    const end = f.int(i32.min(get('n'), i32.add(row, get('rowsPerChunk'))));
    const rowBytes = f.int(i32.shl(k, elementShift(dtype)));
    const copy = f.int(i32.add(scratch, copyAt));
    const [w, stride] = [f.int(), far ? rowBytes : bStride];
    const bring = (rows: number) => {
      if (!far) {
        f.set(w, i32.add(argument(args, word.b), i32.mul(row, bStride)));
        return;
      }
      f.set(w, copy);
      const from = f.local('i64', moved(i64.load(args, word.b * 4), i32.mul(row, bStride)));
      for (let i = 0; i < rows; i++) {
        f.copyFromStore(i32.add(copy, i32.mul(rowBytes, i)), from, rowBytes);
        f.set(from, moved(from, bStride));
      }
    };
    const run = (tile: FunctionRef, i: Local<'i32'>, skip: number, aRows: number, wRows: number) => {
      const rowOfA = i32.add(a, i32.mul(i, aStride));
      f.call(tile, i32.add(w, i32.mul(stride, skip)), stride, rowOfA, aStride, k, scratch);
      for (let dj = 0; dj < wRows; dj++)
        for (let di = 0; di < aRows; di++)
          finish(f, {
            args,
            row: i32.add(i, di),
            column: i32.add(row, skip + dj),
            sum: f32.load(scratch, (dj * aRows + di) * 4),
          });
    };
    f.while(row, i32.sub(end, groupRows - 1), groupRows, () => {
      bring(groupRows);
      const i = f.int(0);
      f.while(i, i32.and(rowCount, -2), 2, () => {
        run(square, i, 0, 2, 2);
        run(square, i, 2, 2, 2);
      });
      f.while(i, rowCount, 1, () => run(column, i, 0, 1, groupRows));
    });
    f.while(row, end, 1, () => {
      bring(1);
      f.for(0, rowCount, 1, (i) => run(single, i, 0, 1, 1));
    });
  });
}

interface Element {
  readonly args: Local<'i32'>;
  readonly row: I32;
  readonly column: I32;
  readonly sum: F32;
}

/** C[row, column] = sum + (what C holds, the bias, or nothing). */
function finish(f: FunctionBuilder, { args, row, column, sum }: Element): void {
  const [bias, keep] = [f.hoist(argument(args, word.bias)), f.hoist(argument(args, word.keep))];
  const rowStart = i32.add(argument(args, word.c), i32.mul(row, argument(args, word.cStride)));
  const at = f.int(i32.add(rowStart, i32.shl(column, 2)));
  const start = f.local('f32', f32.const(0));
  f.if(bias, () => f.set(start, f32.load(i32.add(bias, i32.shl(column, 2)))));
  f.if(keep, () => f.set(start, f32.load(at)));
  f.emit(store.f32(at, f32.add(start, sum)));
}

/** When the row kernels apply, and how they run. */
export const smallRows = {
  fits({ m, batch }: Product, pairs: readonly Pair[]): boolean {
    if (m > maxRows || batch !== 1 || pairs.length === 0) return false;
    return pairs.every(({ a, b, k }) => {
      if ('weight' in b || !b.transposed || a.transposed || a.dtype !== 'f32') return false;
      return !b.inStore || k << elementShift(b.dtype) <= maxFarRowBytes;
    });
  },

  run(team: Team, tasks: Record<string, Task>, product: Product, pairs: readonly Pair[]): void {
    const { m, n, c } = product;
    for (const [i, { a, b, k }] of pairs.entries()) {
      if ('weight' in b) throw new TypeError('cpu: the row kernels take dense weights: got one in 4 bits.');
      const rowBytes = k << elementShift(b.dtype);
      const rowsPerChunk = Math.max(1, Math.floor(bytesPerChunk / rowBytes / 4)) * 4;
      const words: number[] = [];
      words[word.c] = c.address;
      words[word.cStride] = c.rowStride * 4;
      words[word.m] = m;
      words[word.n] = n;
      words[word.rowsPerChunk] = rowsPerChunk;
      words[word.bias] = i === 0 ? (product.bias ?? 0) : 0;
      words[word.keep] = i > 0 || product.keep ? 1 : 0;
      words[word.a] = a.address;
      words[word.aStride] = a.rowStride * 4;
      words[word.b] = b.address % 2 ** 32;
      words[word.b + 1] = Math.floor(b.address / 2 ** 32);
      words[word.bStride] = b.rowStride * bytesPerElement[b.dtype];
      words[word.k] = k;
      team.run(tasks[taskName(b.dtype, Boolean(b.inStore))]!, words, Math.ceil(n / rowsPerChunk));
    }
  },
};
