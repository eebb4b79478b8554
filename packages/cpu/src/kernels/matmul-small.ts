/**
 * Products in which one operand has few rows, as in generation and in LoRA: every row of the other one, W [n, k], is read once
 * and as it lies, without packing, in blocks of k for which the few rows stay in the first-level cache.
 */
import {
  argument,
  type FunctionBuilder,
  type FunctionRef,
  type Local,
  type ModuleBuilder,
  moved,
} from '../assembler.ts';
import { f32, i32, i64, store } from '../instructions.ts';
import { scratchBytes } from '../team.ts';
import { combineFunction, dotStep, dotsFunction, placed, sumsBytes } from './dots.ts';
import {
  bytesPerElement,
  elementShift,
  type Features,
  type FloatType,
  floatTypes,
  loadFloat,
  loadFloats,
} from './lanes.ts';

type IntLocal = Local<'i32'>;

/** Words of the task `dots`: A [rows, k] in f32, W [n, k] at a 64-bit address, C with any strides, in bytes. */
export const dotsWord = {
  c: 0,
  /** From a row of A, and of W, to the next in C. */
  cStrideA: 1,
  cStrideW: 2,
  rows: 3,
  n: 4,
  rowsPerChunk: 5,
  bias: 6,
  /** The same in the bias: 0 or 4. */
  biasStrideA: 7,
  biasStrideW: 8,
  keep: 9,
  a: 10,
  aStride: 11,
  w: 12,
  wStride: 14,
  k: 15,
  /** Steps of k at a time, a multiple of `dotStep`, and rows of W, a multiple of 4. */
  blockK: 16,
  groupRows: 17,
} as const;

/** 'near' in work memory, 'far' in the first 4 GiB of the store, 'copied' beyond: rows of W pass through scratch. */
export type Place = 'near' | 'far' | 'copied';
export const dotsTask = (dtype: FloatType, place: Place) => `dots_${dtype}_${place}`;

/** Partial sums in scratch, and behind them copied rows of W. */
const maxSumsBytes = 512 * 1024;
export const maxCopiedBytes = scratchBytes - maxSumsBytes - 4096;
/** Products of a group that fit the scratch; a group has some to spare, so that four can be combined at a time. */
export const maxGroupProducts = maxSumsBytes / sumsBytes - 4;

/** Adds the `dots` tasks. */
export function addSmallRows(m: ModuleBuilder, features: Features, withStore: boolean): void {
  const combine = combineFunction(m);
  // Sums of six rows fill the registers of paired vectors, of three those of single ones.
  const maxARows = features.revectorize ? 6 : 3;
  for (const dtype of floatTypes) {
    const sweeps = (far: boolean): Sweeps => ({
      // Two rows of A leave registers for four streams of W.
      few: dotsFunction(m, features, { dtype, far }, fewW, fewRows),
      many: dotsFunction(m, features, { dtype, far }, manyW, maxARows),
    });
    const near = sweeps(false);
    dots(m, { dtype, place: 'near', ...near, combine });
    if (!withStore) continue;
    dots(m, { dtype, place: 'far', ...sweeps(true), combine });
    dots(m, { dtype, place: 'copied', ...near, combine });
  }
  for (const dtype of floatTypes) for (const transposed of [false, true]) arrange(m, dtype, transposed);
}

/** Rows of W a tile takes: for at most `fewRows` rows of A, and for more. */
const [fewRows, fewW, manyW] = [2, 4, 2];

interface Sweeps {
  readonly few: FunctionRef;
  readonly many: FunctionRef;
}

interface DotsTask extends Sweeps {
  readonly dtype: FloatType;
  readonly place: Place;
  readonly combine: FunctionRef;
}

/** Chunk = rows of W, taken in groups; the last rows that fill no tile are taken one by one. */
function dots(m: ModuleBuilder, kind: DotsTask): void {
  const { dtype, place, few, many, combine } = kind;
  m.task(dotsTask(dtype, place), (f, args, chunk, scratch) => {
    const get = (name: keyof typeof dotsWord) => f.int(argument(args, dotsWord[name]));
    const [rows, a, aStride, k, blockK] = [get('rows'), get('a'), get('aStride'), get('k'), get('blockK')];
    const row = f.int(i32.mul(chunk, get('rowsPerChunk')));
    const end = f.int(i32.min(get('n'), i32.add(row, get('rowsPerChunk'))));
    const wholeK = f.int(i32.and(k, -dotStep));
    const wRows = f.int(i32.select(i32.leS(rows, fewRows), fewW, manyW));
    const [w, count, left, stride] = [f.int(), f.int(), f.int(), f.int()];
    f.while(row, end, count, () => {
      f.set(left, i32.sub(end, row));
      const whole = f.int(i32.geS(left, wRows));
      const inTiles = f.int(i32.and(left, i32.sub(0, wRows)));
      f.set(count, i32.select(whole, i32.min(inTiles, get('groupRows')), 1));
      const groupStride = bring(f, { args, kind, row, count, k, scratch, w });
      f.set(stride, i32.select(whole, groupStride, 0));
      const cells = f.int(i32.mul(rows, i32.select(whole, count, wRows)));
      f.fill(scratch, 0, i32.mul(cells, sumsBytes));
      f.for(0, wholeK, blockK, (k0) => {
        const kc = f.int(i32.min(blockK, i32.sub(wholeK, k0)));
        const aBlock = f.int(i32.add(a, i32.shl(k0, 2)));
        const wBlock = f.int(i32.add(w, i32.shl(k0, elementShift(dtype))));
        const sums = f.int(scratch);
        f.for(0, count, wRows, () => {
          const given = [wBlock, stride, aBlock, aStride, rows, kc, sums];
          f.if(
            i32.eq(wRows, fewW),
            () => f.call(few, ...given),
            () => f.call(many, ...given),
          );
          f.increase(wBlock, i32.mul(stride, wRows));
          f.increase(sums, i32.mul(i32.mul(rows, wRows), sumsBytes));
        });
      });
      f.call(combine, scratch, cells);
      f.for(0, count, 1, (i) =>
        finishRow(f, {
          args,
          dtype,
          far: place === 'far',
          i,
          row,
          rows,
          wRows,
          w,
          stride,
          a,
          aStride,
          k,
          wholeK,
          scratch,
        }),
      );
    });
  });
}

interface Bring {
  readonly args: IntLocal;
  readonly kind: DotsTask;
  readonly row: IntLocal;
  readonly count: IntLocal;
  readonly k: IntLocal;
  readonly scratch: IntLocal;
  readonly w: IntLocal;
}

/** Sets `w` to the group's first row, copied if need be; gives the distance of rows there. */
function bring(f: FunctionBuilder, { args, kind, row, count, k, scratch, w }: Bring): IntLocal {
  const wStride = f.int(argument(args, dotsWord.wStride));
  if (kind.place !== 'copied') {
    f.set(w, i32.add(argument(args, dotsWord.w), i32.mul(row, wStride)));
    return wStride;
  }
  const rowBytes = f.int(i32.shl(k, elementShift(kind.dtype)));
  const from = f.local('i64', moved(i64.load(args, dotsWord.w * 4), i32.mul(row, wStride)));
  const to = f.int(i32.add(scratch, maxSumsBytes));
  f.set(w, to);
  f.for(0, count, 1, () => {
    f.copyFromStore(to, from, rowBytes);
    f.set(from, moved(from, wStride));
    f.increase(to, rowBytes);
  });
  return rowBytes;
}

interface FinishRow {
  readonly args: IntLocal;
  readonly dtype: FloatType;
  readonly far: boolean;
  /** The row of W in its group, and the group's first row. */
  readonly i: IntLocal;
  readonly row: IntLocal;
  readonly rows: IntLocal;
  readonly wRows: IntLocal;
  readonly w: IntLocal;
  readonly stride: IntLocal;
  readonly a: IntLocal;
  readonly aStride: IntLocal;
  readonly k: IntLocal;
  readonly wholeK: IntLocal;
  readonly scratch: IntLocal;
}

/** C of one row of W = its products (with the last steps of k) + (what C holds, the bias, or nothing). */
function finishRow(f: FunctionBuilder, o: FinishRow): void {
  const get = (name: keyof typeof dotsWord) => f.int(argument(o.args, dotsWord[name]));
  const [keep, bias, biasStrideA, cStrideA] = [get('keep'), get('bias'), get('biasStrideA'), get('cStrideA')];
  const inTile = f.int(i32.and(o.i, i32.sub(o.wRows, 1)));
  const cell = i32.add(i32.mul(i32.sub(o.i, inTile), o.rows), inTile);
  const sum = f.int(i32.add(o.scratch, i32.shl(cell, 2)));
  const wide = f.int(i32.add(o.row, o.i));
  const c = f.int(i32.add(get('c'), i32.mul(wide, get('cStrideW'))));
  const biasAt = f.int(i32.add(bias, i32.mul(wide, get('biasStrideW'))));
  const aRow = f.int(o.a);
  const lastW = f.int(i32.add(i32.add(o.w, i32.mul(o.i, o.stride)), i32.shl(o.wholeK, elementShift(o.dtype))));
  f.for(0, o.rows, 1, () => {
    const value = f.local('f32', f32.load(sum));
    const [atA, atW] = [f.int(i32.add(aRow, i32.shl(o.wholeK, 2))), f.int(lastW)];
    f.for(o.wholeK, o.k, 1, () => {
      f.set(value, f32.add(value, f32.mul(f32.load(atA), loadFloat(f, o.dtype, placed(o.far, atW)))));
      f.increase(atA, 4);
      f.increase(atW, bytesPerElement[o.dtype]);
    });
    const start = f.local('f32', f32.const(0));
    f.if(bias, () => f.set(start, f32.load(biasAt)));
    f.if(keep, () => f.set(start, f32.load(c)));
    f.emit(store.f32(c, f32.add(start, value)));
    f.increase(sum, i32.shl(o.wRows, 2));
    f.increase(c, cStrideA);
    f.increase(biasAt, biasStrideA);
    f.increase(aRow, o.aStride);
  });
}

/** Words of the tasks that copy an operand [rows, k] to f32 rows one after the other. */
export const arrangeWord = { from: 0, stride: 1, to: 2, rows: 3, k: 4, stepsPerChunk: 5 } as const;
export const arrangeTask = (dtype: FloatType, transposed: boolean) => `arrange_${dtype}${transposed ? '_t' : ''}`;

/** Chunk = some steps of k of all rows. */
function arrange(m: ModuleBuilder, dtype: FloatType, transposed: boolean): void {
  m.task(arrangeTask(dtype, transposed), (f, args, chunk) => {
    const get = (name: keyof typeof arrangeWord) => f.int(argument(args, arrangeWord[name]));
    const [stride, k] = [get('stride'), get('k')];
    const first = f.int(i32.mul(chunk, get('stepsPerChunk')));
    const end = f.int(i32.min(k, i32.add(first, get('stepsPerChunk'))));
    const size = bytesPerElement[dtype];
    f.for(0, get('rows'), 1, (row) => {
      const start = transposed
        ? i32.add(i32.mul(first, stride), i32.shl(row, elementShift(dtype)))
        : i32.add(i32.mul(row, stride), i32.shl(first, elementShift(dtype)));
      const from = f.int(i32.add(get('from'), start));
      const to = f.int(i32.add(get('to'), i32.shl(i32.add(i32.mul(row, k), first), 2)));
      const at = f.int(first);
      const step = f.int(transposed ? stride : size);
      if (!transposed)
        f.while(at, i32.sub(end, 3), 4, () => {
          f.emit(store.v128(to, f.vector(loadFloats(f, dtype, from))));
          f.increase(from, 4 * size);
          f.increase(to, 16);
        });
      f.while(at, end, 1, () => {
        f.emit(store.f32(to, loadFloat(f, dtype, from)));
        f.increase(from, step);
        f.increase(to, 4);
      });
    });
  });
}
