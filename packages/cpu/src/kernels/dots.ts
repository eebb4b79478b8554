/**
 * Register tiles of dot products along k: a few rows of one matrix with a few rows of another, both read as they lie in
 * memory. Every product has eight partial sums that combine in one order, whatever the tile and the cut of k.
 */
import type { FunctionBuilder, FunctionRef, Local, ModuleBuilder } from '../assembler.ts';
import { type Address, f32x4, type Int, i32, i64, lanes32, store, v128 } from '../instructions.ts';
import { bytesPerElement, type Features, type FloatType, loadFloats, maddFor } from './lanes.ts';

type IntLocal = Local<'i32'>;

/** Steps of k that a turn of a tile takes; a product has as many partial sums. */
export const dotStep = 8;
/** Steps a turn of the loop takes: addresses are worked out once for both halves. */
const turnSteps = 2 * dotStep;
/** Bytes of a product's partial sums. */
export const sumsBytes = dotStep * 4;
const halves = [0, 1];

export interface DotsKind {
  readonly dtype: FloatType;
  /** W lies in the first 4 GiB of the store. */
  readonly far: boolean;
}

interface TileKind extends DotsKind {
  readonly aRows: number;
  readonly wRows: number;
}

/** A 32-bit pointer as an address of the memory it belongs to; V8 pairs 64-bit loads of this form alone. */
export const placed = (far: boolean, pointer: Int): Address => (far ? i64.extend(pointer) : pointer);

/**
 * (w, w stride, a, a stride, k, sums): adds `aRows` x `wRows` products over k > 0 steps, a multiple of `dotStep`, to their
 * partial sums, those of W's rows innermost.
 */
function tile(m: ModuleBuilder, features: Features, { dtype, far, aRows, wRows }: TileKind): FunctionRef {
  const madd = maddFor(features);
  return m.function(undefined, new Array(6).fill('i32'), [], (f) => {
    const [firstW, wStride, firstA, aStride, k, sums] = f.params as IntLocal[] &
      Record<0 | 1 | 2 | 3 | 4 | 5, IntLocal>;
    const w = rowPointers(f, firstW, wStride, wRows);
    const a = rowPointers(f, firstA, aStride, aRows);
    const acc = a.map((_, i) => w.map((_, j) => halves.map((h) => ({ at: sumsAt(i * wRows + j, h), v: f.vector() }))));
    for (const { at, v } of acc.flat(2)) f.set(v, v128.load(sums, at));
    /** One step: the side with fewer rows stays in registers, the other one passes through. */
    const step = (k0: number) => {
      const loadW = (row: IntLocal) =>
        halves.map((h) => f.vector(loadFloats(f, dtype, placed(far, row), (k0 + h * 4) * bytesPerElement[dtype])));
      const loadA = (row: IntLocal) => halves.map((h) => f.vector(v128.load(row, (k0 + h * 4) * 4)));
      const multiply = (i: number, j: number, ofA: readonly Local<'v128'>[], ofW: readonly Local<'v128'>[]) => {
        for (const h of halves) f.set(acc[i]![j]![h]!.v, madd(ofA[h]!, ofW[h]!, acc[i]![j]![h]!.v));
      };
      if (wRows <= aRows) {
        const held = w.map(loadW);
        for (const [i, row] of a.entries()) {
          const passing = loadA(row);
          for (const [j, ofW] of held.entries()) multiply(i, j, passing, ofW);
        }
      } else {
        const held = a.map(loadA);
        for (const [j, row] of w.entries()) {
          const passing = loadW(row);
          for (const [i, ofA] of held.entries()) multiply(i, j, ofA, passing);
        }
      }
    };
    const end = f.int(i32.add(firstA, i32.shl(k, 2)));
    const lastTurn = f.int(i32.sub(end, turnSteps * 4));
    f.if(i32.leU(firstA, lastTurn), () =>
      f.loop((again) => {
        for (let k0 = 0; k0 < turnSteps; k0 += dotStep) step(k0);
        for (const row of a) f.increase(row, turnSteps * 4);
        for (const row of w) f.increase(row, turnSteps * bytesPerElement[dtype]);
        f.branchIf(again, i32.leU(firstA, lastTurn));
      }),
    );
    f.if(i32.ltU(firstA, end), () => step(0));
    for (const { at, v } of acc.flat(2)) f.emit(store.v128(sums, v, at));
  });
}

const sumsAt = (cell: number, half: number) => (cell * halves.length + half) * 16;

function rowPointers(f: FunctionBuilder, first: IntLocal, stride: IntLocal, count: number): IntLocal[] {
  const rows = [first];
  while (rows.length < count) rows.push(f.int(i32.add(rows.at(-1)!, stride)));
  return rows;
}

/**
 * (w, w stride, a, a stride, rows of A, k, sums): all rows of A with `wRows` rows of W over some steps of k. A's rows are
 * taken in groups of at most `maxARows`, as even as possible.
 */
export function dotsFunction(
  m: ModuleBuilder,
  features: Features,
  kind: DotsKind,
  wRows: number,
  maxARows: number,
): FunctionRef {
  const tiles = Array.from({ length: maxARows }, (_, i) => tile(m, features, { ...kind, wRows, aRows: i + 1 }));
  return m.function(undefined, new Array(7).fill('i32'), [], (f) => {
    const [w, wStride, a, aStride, rows, k, sums] = f.params as IntLocal[] &
      Record<0 | 1 | 2 | 3 | 4 | 5 | 6, IntLocal>;
    const groups = f.int(i32.divU(i32.add(rows, maxARows - 1), maxARows));
    const size = f.int();
    f.loop((again) => {
      f.set(size, i32.divU(i32.sub(i32.add(rows, groups), 1), groups));
      for (const [i, target] of tiles.entries())
        f.if(i32.eq(size, i + 1), () => f.call(target, w, wStride, a, aStride, k, sums));
      f.increase(a, i32.mul(size, aStride));
      f.increase(sums, i32.mul(size, wRows * sumsBytes));
      f.set(rows, i32.sub(rows, size));
      f.increase(groups, -1);
      f.branchIf(again, groups);
    });
  });
}

/** (sums, count): combines each product's partial sums, as f32 one after the other from where they began. */
export function combineFunction(m: ModuleBuilder): FunctionRef {
  return m.function(undefined, ['i32', 'i32'], [], (f) => {
    const [sums, count] = f.params as [IntLocal, IntLocal];
    const [from, to] = [f.int(sums), f.int(sums)];
    f.for(0, count, 4, () => {
      const rows = [0, 1, 2, 3].map((i) =>
        f.vector(f32x4.add(v128.load(from, sumsAt(i, 0)), v128.load(from, sumsAt(i, 1)))),
      );
      const [a, b, c, d] = rows as [Local<'v128'>, Local<'v128'>, Local<'v128'>, Local<'v128'>];
      const pairs = (low: boolean, x: Local<'v128'>, y: Local<'v128'>) =>
        f.vector(v128.shuffle(x, y, low ? lanes32(0, 2, 4, 6) : lanes32(1, 3, 5, 7)));
      // Lanes 0 + 1 and 2 + 3 of each, side by side.
      const ab = f.vector(f32x4.add(pairs(true, a, b), pairs(false, a, b)));
      const cd = f.vector(f32x4.add(pairs(true, c, d), pairs(false, c, d)));
      f.emit(store.v128(to, f32x4.add(pairs(true, ab, cd), pairs(false, ab, cd))));
      f.increase(from, 4 * sumsBytes);
      f.increase(to, 16);
    });
  });
}
