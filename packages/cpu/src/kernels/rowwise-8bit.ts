/** Rows of floats to signed bytes with their scales, and what LLM.int8 takes out of a row before. */
import { argument, type FunctionBuilder, type Local, type ModuleBuilder } from '../assembler.ts';
import { f32, f32x4, i32, i32x4, int, store, type V128, v128 } from '../instructions.ts';
import { elements } from './blockwise-8bit.ts';
import { elementShift, type FloatType, floatTypes, loadFloat, loadFloats, narrowHalf, widenHalf } from './lanes.ts';

/** Words: x [rows, k] and out, whose rows lie `outStride` bytes apart; `extra` are the scales, or the columns' flags. */
export const rowsWord = { x: 0, out: 1, outStride: 2, extra: 3, rows: 4, k: 5, rowsPerChunk: 6, threshold: 7 } as const;
export const quantizeRowsTask = (dtype: FloatType): string => `quantize_rows_${dtype}`;
/**
 * x rounded to f16, as f32, without the elements of at least `threshold` (not 0); `extra` are k bytes, set to 1 where a
 * column has such an element.
 */
export const keepRowsTask = 'keep_rows';

export function addRowwise(m: ModuleBuilder): void {
  for (const dtype of floatTypes)
    rowsTask(m, quantizeRowsTask(dtype), elementShift(dtype), (row) => quantizeRow(row, dtype));
  rowsTask(m, keepRowsTask, 2, keepRow);
}

interface Row {
  readonly f: FunctionBuilder;
  readonly args: Local<'i32'>;
  readonly index: Local<'i32'>;
  readonly k: Local<'i32'>;
  readonly extra: Local<'i32'>;
  /** Pointers to the row. */
  readonly x: Local<'i32'>;
  readonly out: Local<'i32'>;
}

function rowsTask(m: ModuleBuilder, name: string, shift: number, body: (row: Row) => void): void {
  m.task(name, (f, args, chunk) => {
    const word = (w: keyof typeof rowsWord) => f.hoist(argument(args, rowsWord[w]));
    const [k, extra] = [word('k'), word('extra')];
    const index = f.int(i32.mul(chunk, word('rowsPerChunk')));
    const end = f.int(i32.min(word('rows'), i32.add(index, word('rowsPerChunk'))));
    const [x, out] = [f.int(), f.int()];
    f.while(index, end, 1, () => {
      f.set(x, i32.add(word('x'), i32.shl(i32.mul(index, k), shift)));
      f.set(out, i32.add(word('out'), i32.mul(index, word('outStride'))));
      body({ f, args, index, k, extra, x, out });
    });
  });
}

/** Bytes as bitsandbytes computes them: the reciprocal of absmax, times 127, times x; a row without a scale is zeros. */
function quantizeRow({ f, k, index, extra, x, out }: Row, dtype: FloatType): void {
  const most = f.vector();
  f.set(most, f32x4.const(0));
  const shift = elementShift(dtype);
  const first = f.int(x);
  // Where any is NaN the largest is, as torch.max has it.
  const enter = (value: V128) => f.set(most, f32x4.max(most, f32x4.abs(value)));
  elements(
    f,
    k,
    [{ pointer: first, shift }],
    () => enter(loadFloats(f, dtype, first)),
    () => enter(f32x4.splat(loadFloat(f, dtype, first))),
  );
  const lane = (i: number) => f32x4.extract(most, i);
  const largest = f.local('f32', f32.max(f32.max(lane(0), lane(1)), f32.max(lane(2), lane(3))));
  f.emit(store.f32(i32.add(extra, i32.shl(index, 2)), largest));
  const factor = f32.mul(f32.div(f32.const(1), largest), f32.const(127));
  const scale = f.vector(f32x4.splat(f32.select(f32.gt(largest, f32.const(0)), factor, f32.const(0))));
  const [least, greatest] = [f.hoist(f32x4.const(-127)), f.hoist(f32x4.const(127))];
  // NaN comes through both bounds and becomes 0.
  const rounded = (value: V128) => {
    const bounded = f32x4.pmax(f32x4.pmin(f32x4.mul(value, scale), greatest), least);
    return f.vector(i32x4.truncSatS(f32x4.nearest(bounded)));
  };
  const low = [0, 4, 8, 12, 0, 4, 8, 12, 0, 4, 8, 12, 0, 4, 8, 12];
  elements(
    f,
    k,
    [
      { pointer: x, shift },
      { pointer: out, shift: 0 },
    ],
    () => {
      const values = rounded(loadFloats(f, dtype, x));
      f.emit(store.low32(out, v128.shuffle(values, values, low)));
    },
    () => f.emit(store.i8(out, i32x4.extract(rounded(f32x4.splat(loadFloat(f, dtype, x))), 0))),
  );
}

function keepRow({ f, args, k, extra, x, out }: Row): void {
  const threshold = f.hoist(f32x4.splat(f32.load(args, rowsWord.threshold * 4)));
  const flag = f.int(extra);
  /** Writes what is kept and marks the columns of what is not; `lanes` of them. */
  const keep = (value: V128, lanes: number, write: (kept: V128) => void) => {
    const half = f.vector(widenHalf(f, narrowHalf(f, value)));
    const outlier = f.vector(f32x4.ge(f32x4.abs(half), threshold));
    write(v128.andNot(half, outlier));
    // Other threads mark too, but nobody takes a mark away.
    f.if(v128.anyTrue(outlier), () => {
      for (let i = 0; i < lanes; i++) f.if(i32x4.extract(outlier, i), () => f.emit(store.i8(i32.add(flag, i), int(1))));
    });
  };
  elements(
    f,
    k,
    [
      { pointer: x, shift: 2 },
      { pointer: out, shift: 2 },
      { pointer: flag, shift: 0 },
    ],
    () => keep(v128.load(x), 4, (kept) => f.emit(store.v128(out, kept))),
    () => keep(f32x4.splat(f32.load(x)), 1, (kept) => f.emit(store.low32(out, kept))),
  );
}
