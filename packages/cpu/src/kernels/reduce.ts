/**
 * sum, max and argmax of [outer, n, inner] over n. Along rows (inner = 1) in 16 lanes and in blocks of `blockElements`
 * whose results combine in order. Along columns one lane a column, eight rows a turn, in blocks of rows and of columns;
 * the results of row blocks are reduced again, so the order of a sum follows from the shape. Integers wrap at 32 bits.
 */
import { argument, type FunctionBuilder, type Local, type MemoryShape, ModuleBuilder } from '../assembler.ts';
import { type F32, f32, f32x4, type I32, i32, i32x4, store, type V128, v128 } from '../instructions.ts';
import { accumulators, largest, rowLoop, total, walk } from './row-loop.ts';

/** A constant of this version: it orders the sums of long rows. */
export const blockElements = 32 * 1024;
/** Sums of a block of columns stay in the first-level cache. */
export const columnsPerBlock = 1024;
/** Rows whose loads a turn over columns issues together. */
const rowsPerTurn = 8;
const vectorsPerTurn = 4;

export const reduceWord = { x: 0, out: 1, n: 2, inner: 3, blocks: 4, rows: 5, rowsPerChunk: 6 } as const;

/** Rows of a block of columns: about as many elements as `blockElements`, whatever the width. */
export const rowsPerColumnBlock = (inner: number): number =>
  Math.ceil(blockElements / Math.min(inner, columnsPerBlock) / rowsPerTurn) * rowsPerTurn;

/** Tasks `sumRows`, `squareRows`, `maxRows` (blocks of rows), `sumColumns`, `maxColumns`, `sumColumnsInteger`, `argmaxRows`. */
export function reduceModule(memory: MemoryShape): ModuleBuilder {
  const m = new ModuleBuilder(memory);
  rows(m, 'sumRows', f32x4.add, 0, total);
  rows(m, 'squareRows', (sum, x) => f32x4.add(sum, f32x4.mul(x, x)), 0, total);
  rows(m, 'maxRows', f32x4.max, Number.NEGATIVE_INFINITY, largest);
  columns(m, 'sumColumns', f32x4.add, 0);
  columns(m, 'maxColumns', f32x4.max, Number.NEGATIVE_INFINITY);
  columns(m, 'sumColumnsInteger', i32x4.add, 0);
  argmaxRows(m);
  return m;
}

type Combine = (a: V128, b: V128) => V128;
type Finish = (f: FunctionBuilder, parts: readonly Local<'v128'>[], scratch: I32) => F32;

/** Chunk = a run of (row, block) cells; out[row, block] is the block's result. */
function rows(m: ModuleBuilder, name: string, combine: Combine, neutral: number, finish: Finish): void {
  m.task(name, (f, args, chunk, scratch) => {
    const word = (key: keyof typeof reduceWord) => f.int(argument(args, reduceWord[key]));
    const [n, blocks, perChunk] = [word('n'), word('blocks'), word('rowsPerChunk')];
    const cell = f.int(i32.mul(chunk, perChunk));
    const end = f.int(i32.min(i32.mul(word('rows'), blocks), i32.add(cell, perChunk)));
    const start = f.hoist(f32x4.const(neutral));
    f.while(cell, end, 1, () => {
      const first = f.int(i32.mul(i32.remU(cell, blocks), blockElements));
      const at = i32.add(i32.mul(i32.divU(cell, blocks), n), first);
      const x = walk(f, i32.add(argument(args, reduceWord.x), i32.shl(at, 2)));
      const parts = accumulators(f, start);
      rowLoop(f, f.int(i32.min(blockElements, i32.sub(n, first))), [x], ({ half, load, only }) => {
        f.set(parts[half]!, combine(parts[half]!, only(load(x), start)));
        return [];
      });
      f.emit(store.f32(i32.add(argument(args, reduceWord.out), i32.shl(cell, 2)), finish(f, parts, scratch)));
    });
  });
}

/**
 * Chunk = (outer, block of rows, block of columns); out[outer, block of rows, column]. Sums gather in scratch, where whole
 * turns may be written; rows are read up to a turn past their end.
 */
function columns(m: ModuleBuilder, name: string, combine: Combine, neutral: number): void {
  m.task(name, (f, args, chunk, scratch) => {
    const word = (key: keyof typeof reduceWord) => f.int(argument(args, reduceWord[key]));
    const [n, inner, columnBlocks, rowBlocks, perBlock] = [
      word('n'),
      word('inner'),
      word('blocks'),
      word('rows'),
      word('rowsPerChunk'),
    ];
    const cell = f.int(i32.divU(chunk, columnBlocks));
    const column = f.int(i32.mul(i32.remU(chunk, columnBlocks), columnsPerBlock));
    const width = f.int(i32.min(columnsPerBlock, i32.sub(inner, column)));
    const row = f.int(i32.mul(i32.remU(cell, rowBlocks), perBlock));
    const end = f.int(i32.min(n, i32.add(row, perBlock)));
    const first = i32.add(i32.mul(i32.divU(cell, rowBlocks), n), row);
    const bytes = (elements: I32 | number) => i32.shl(elements, 2);
    const at = f.int(i32.add(argument(args, reduceWord.x), bytes(i32.add(i32.mul(first, inner), column))));
    const rowBytes = f.int(bytes(inner));
    const sums = f.int(scratch);
    const sumsEnd = f.int(i32.add(scratch, bytes(width)));
    f.while(sums, sumsEnd, 16, () => f.emit(store.v128(sums, f.hoist(f32x4.const(neutral)))));
    const addRows = (rows: number) => {
      f.setInt(sums, scratch);
      const from = Array.from({ length: rows }, (_, i) => f.int(i === 0 ? at : i32.add(at, i32.mul(rowBytes, i))));
      f.while(sums, sumsEnd, vectorsPerTurn * 16, () => {
        columnTurn(f, sums, from, combine);
        for (const pointer of from) f.increase(pointer, vectorsPerTurn * 16);
      });
      f.increase(at, i32.mul(rowBytes, rows));
    };
    f.while(row, f.int(i32.sub(end, rowsPerTurn - 1)), rowsPerTurn, () => addRows(rowsPerTurn));
    f.while(row, end, 1, () => addRows(1));
    const to = i32.add(argument(args, reduceWord.out), bytes(i32.add(i32.mul(cell, inner), column)));
    f.copy(to, scratch, bytes(width));
  });
}

/** Sixteen columns of a few rows, combined in order of the rows. */
function columnTurn(f: FunctionBuilder, sums: I32, rows: readonly I32[], combine: Combine): void {
  const parts = Array.from({ length: vectorsPerTurn }, (_, part) => part);
  const loaded = [sums, ...rows].map((at) => parts.map((part) => f.vector(v128.load(at, part * 16))));
  const results = parts.map((part) => f.vector(loaded.map((row): V128 => row[part]!).reduce(combine)));
  for (const part of parts) f.emit(store.v128(sums, results[part]!, part * 16));
}

/** First largest element of each row; a NaN wins, as the reference has it: the maximum, then the first place that holds it. */
function argmaxRows(m: ModuleBuilder): void {
  m.task('argmaxRows', (f, args, chunk, scratch) => {
    const word = (key: keyof typeof reduceWord) => f.int(argument(args, reduceWord[key]));
    const [n, perChunk] = [word('n'), word('rowsPerChunk')];
    const row = f.int(i32.mul(chunk, perChunk));
    const end = f.int(i32.min(word('rows'), i32.add(row, perChunk)));
    const lowest = f.hoist(f32x4.const(Number.NEGATIVE_INFINITY));
    f.while(row, end, 1, () => {
      const x = walk(f, i32.add(argument(args, reduceWord.x), i32.shl(i32.mul(row, n), 2)));
      const at = f.int(x.pointer);
      const tops = accumulators(f, lowest);
      rowLoop(f, n, [x], ({ half, load, only }) => {
        f.set(tops[half]!, f32x4.max(tops[half]!, only(load(x), lowest)));
        return [];
      });
      const place = firstPlace(f, at, n, largest(f, tops, scratch));
      f.emit(store.i32(i32.add(argument(args, reduceWord.out), i32.shl(row, 2)), place));
    });
  });
}

/** Index of the first element that equals `top`, or is NaN: where there is one, `top` is NaN too. */
function firstPlace(f: FunctionBuilder, at: Local<'i32'>, n: I32, top: F32): Local<'i32'> {
  const i = f.int(0);
  const tops = f.vector(f32x4.splat(top));
  const parts = [0, 1, 2, 3];
  f.block((found) => {
    f.while(i, i32.and(n, -16), 16, () => {
      const hits = parts.map((part) => {
        const value = f.vector(v128.load(at, part * 16));
        return v128.or(f32x4.eq(value, tops), f32x4.ne(value, value));
      });
      f.branchIf(found, v128.anyTrue(hits.reduce(v128.or)));
      f.increase(at, 64);
    });
  });
  f.block((found) => {
    f.while(i, n, 1, () => {
      const value = f.local('f32', f32.load(at));
      f.branchIf(found, i32.or(f32.eq(value, top), f32.ne(value, value)));
      f.increase(at, 4);
    });
  });
  return i;
}
