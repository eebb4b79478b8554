/**
 * The product of matmul8bit: signed bytes with signed bytes, summed in 32-bit integers, scaled back. Both sides are widened to
 * 16 bits; `i32x4.dot` multiplies eight pairs and adds neighbours.
 */
import { argument, type FunctionBuilder, type FunctionRef, type Local, type ModuleBuilder } from '../assembler.ts';
import { f32, type I32, i32, i32x4, i64, store, type V128, v128 } from '../instructions.ts';
import { scratchBytes } from '../team.ts';

/**
 * Words: the integers of a [m, stride] and their scales, W's [n, k] (a 64-bit address) and scales, out [m, n] in f32; then a
 * itself, the columns that go in full precision (i32) and how many they are.
 */
export const productWord = {
  a: 0, aStride: 1, aScale: 2, w: 4, wScale: 6, out: 7, m: 8, n: 9, k: 10, bias: 11, rowsPerChunk: 12, full: 13, columns: 14, columnCount: 15,
} as const; // biome-ignore format: a list
export const productTask = (far: boolean): string => `product_8bit${far ? '_store' : ''}`;

/** Rows of W handled together. */
export const groupRows = 4;
/** Elements a turn of the inner loop takes; rows of a are filled up with zeros to a multiple. */
export const turn = 16;
/** Longest rows of W that a group of fits into scratch, which a W in the store is copied to. */
export const maxFarColumns = Math.floor((scratchBytes - 64) / groupRows) - turn;

/** bitsandbytes' 1 / 127^2 and 1 / 127. */
const [unitSquared, unit] = [6.200124e-5, 7.874015718698502e-3];

export function addProduct(m: ModuleBuilder, withStore: boolean): void {
  const tiles = [1, groupRows].map((wRows) => [1, 2].map((aRows) => dots(m, aRows, wRows)));
  task(m, false, tiles);
  if (withStore) task(m, true, tiles);
}

/** (a, aStride, w, wStride, k, out): the i32 products of a few rows of a and of W, a's rows innermost. */
function dots(m: ModuleBuilder, aRows: number, wRows: number): FunctionRef {
  return m.function(undefined, new Array(6).fill('i32'), [], (f) => {
    const [a, aStride, w, wStride, k, out] = f.params as Local<'i32'>[] as [I, I, I, I, I, I];
    const pointers = (first: I, stride: I, count: number): I[] =>
      Array.from({ length: count }, (_, i) => f.int(i32.add(first, i32.mul(stride, i))));
    const [rowsOfA, rowsOfW] = [pointers(a, aStride, aRows), pointers(w, wStride, wRows)];
    const sums = rowsOfW.map(() => rowsOfA.map(() => f.vector()));
    f.for(0, k, turn, () => {
      const wide = (row: I) => [0, 8].map((at) => f.vector(v128.load8x8s(row, at)));
      const left = rowsOfA.map(wide);
      for (const [j, row] of rowsOfW.entries()) {
        const right = wide(row);
        for (const [i, ofA] of left.entries())
          for (const h of [0, 1]) f.set(sums[j]![i]!, i32x4.add(sums[j]![i]!, i32x4.dot(ofA[h]!, right[h]!)));
      }
      for (const row of [...rowsOfA, ...rowsOfW]) f.increase(row, turn);
    });
    for (const [j, ofW] of sums.entries())
      for (const [i, sum] of ofW.entries()) f.emit(store.i32(out, laneSum(sum), 4 * (j * aRows + i)));
  });
}

type I = Local<'i32'>;

const laneSum = (v: V128): I32 =>
  i32.add(i32.add(i32x4.extract(v, 0), i32x4.extract(v, 1)), i32.add(i32x4.extract(v, 2), i32x4.extract(v, 3)));

/** Chunk = rows of W: groups of four against pairs of rows of a. */
function task(m: ModuleBuilder, far: boolean, tiles: readonly (readonly FunctionRef[])[]): void {
  m.task(productTask(far), (f, args, chunk, scratch) => {
    const word = (name: keyof typeof productWord) => f.hoist(argument(args, productWord[name]));
    const [k, aStride, rows] = [word('k'), word('aStride'), word('m')];
    const sums = scratch;
    const copied = f.int(i32.add(scratch, 64));
    const row = f.int(i32.mul(chunk, word('rowsPerChunk')));
    const end = f.int(i32.min(word('n'), i32.add(row, word('rowsPerChunk'))));
    const w = f.int();
    const group = (count: number) => {
      const by = i32.mul(row, k);
      if (far) {
        const from = f.local('i64', i64.add(i64.load(args, productWord.w * 4), i64.extend(by)));
        f.copyFromStore(copied, from, i32.mul(k, count));
        f.set(w, copied);
      } else f.set(w, i32.add(word('w'), by));
      const i = f.int(0);
      const tile = (aRows: number) => () => {
        const ofA = i32.add(word('a'), i32.mul(i, aStride));
        f.call(tiles[count === 1 ? 0 : 1]![aRows - 1]!, ofA, aStride, w, k, k, sums);
        for (let j = 0; j < count; j++)
          for (let di = 0; di < aRows; di++)
            finish(f, word, {
              w: i32.add(w, i32.mul(k, j)),
              row: i32.add(i, di),
              column: i32.add(row, j),
              sum: i32.load(sums, 4 * (j * aRows + di)),
            });
      };
      f.while(i, i32.and(rows, -2), 2, tile(2));
      f.while(i, rows, 1, tile(1));
    };
    f.while(row, i32.sub(end, groupRows - 1), groupRows, () => group(groupRows));
    f.while(row, end, 1, () => group(1));
  });
}

interface Cell {
  /** Address of the row of W. */
  readonly w: I32;
  readonly row: I32;
  readonly column: I32;
  readonly sum: I32;
}

/** out[row, column] = sum * (scales) / 127^2 (+ bias) + the columns in full precision. */
function finish(f: FunctionBuilder, word: (name: keyof typeof productWord) => I, cell: Cell): void {
  const at = (base: I32, index: I32): I32 => i32.add(base, i32.shl(index, 2));
  const [row, column, w] = [f.int(cell.row), f.int(cell.column), f.int(cell.w)];
  const scale = f.local('f32', f32.load(at(word('wScale'), column)));
  const scales = f32.mul(f32.load(at(word('aScale'), row)), scale);
  const value = f.local('f32', f32.mul(f32.mul(f32.fromSigned(cell.sum), scales), f32.const(unitSquared)));
  f.if(word('bias'), () => f.set(value, f32.add(value, f32.load(at(word('bias'), column)))));
  f.if(word('columnCount'), () => {
    const total = f.local('f32', f32.const(0));
    const full = f.int(at(word('full'), i32.mul(row, word('k'))));
    const place = f.int();
    f.set(total, f32.const(0));
    f.for(0, word('columnCount'), 1, (i) => {
      f.set(place, i32.load(at(word('columns'), i)));
      const weight = f32.mul(f32.mul(f32.fromSigned(i32.load8s(i32.add(w, place))), scale), f32.const(unit));
      f.set(total, f32.add(total, f32.mul(f32.load(at(full, place)), weight)));
    });
    f.set(value, f32.add(value, total));
  });
  f.emit(store.f32(at(word('out'), i32.add(i32.mul(row, word('n')), column)), value));
}
