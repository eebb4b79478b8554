/**
 * What happens to a group of queries' scores, [keys, queries]: hiding what is not seen, the running softmax of the
 * forward, the score gradients of the backward. Queries lie along vectors, so no sum crosses lanes.
 */
import type { FunctionBuilder, FunctionRef, Local, ModuleBuilder } from '../assembler.ts';
import { f32, f32x4, type I32, i32, store, type V128, v128 } from '../instructions.ts';
import { groupQueries, rowBytes, scoreBytes } from './attention-blocks.ts';
import { stateBytes } from './attention-frame.ts';
import { exp2Below127 } from './exp2.ts';
import { type Features, maddFor } from './lanes.ts';
import { accumulators, rowLoop, total, walk } from './row-loop.ts';

type IntLocal = Local<'i32'>;
type Ints = IntLocal[] & Record<number, IntLocal>;

export interface RowFunctions {
  /**
   * (scores, low, high, end of the first query's keys, their start, start of the last query's keys): -infinity where a
   * query of the group does not see a key of low .. high.
   */
  readonly hide: FunctionRef;
  /** (scores, low, high): zeros in the rows around low .. high that a tile of another group's queries may reach. */
  readonly clearAround: FunctionRef;
  /** (scores, low, high, state): scores become 2^(score - maximum so far); state holds maxima, sums and shrinking. */
  readonly soften: FunctionRef;
  /** (shrinking, rows in scratch, count, e): each row times its query's shrinking. */
  readonly shrink: FunctionRef;
  /** (scores, products, low, high, state): scores become probabilities, products (of dO and V) their gradients. */
  readonly scoreGrad: FunctionRef;
  /** (dO rows in scratch, out, out stride, count, e, to, scratch): sums of dO * out. */
  readonly delta: FunctionRef;
}

export function addRowFunctions(m: ModuleBuilder, features: Features): RowFunctions {
  return {
    hide: hide(m),
    clearAround: clearAround(m),
    soften: soften(m, features),
    shrink: shrink(m),
    scoreGrad: scoreGrad(m, features),
    delta: delta(m),
  };
}

const vectors = Array.from({ length: groupQueries / 4 }, (_, i) => i);
const loadAll = (f: FunctionBuilder, at: I32, offset = 0) =>
  vectors.map((i) => f.vector(v128.load(at, offset + 16 * i)));
/** Adjacent stores, which V8 needs to pair what leads to them. */
const storeAll = (f: FunctionBuilder, at: I32, values: readonly V128[], offset = 0) => {
  for (const i of vectors) f.emit(store.v128(at, values[i]!, offset + 16 * i));
};

/** Visits the rows low .. high of a group; `row` is a row's address. */
function overRows(f: FunctionBuilder, scores: I32, low: I32, high: I32, visit: (row: IntLocal) => void): void {
  const row = f.int(i32.add(scores, i32.mul(low, scoreBytes)));
  f.while(row, f.int(i32.add(scores, i32.mul(high, scoreBytes))), scoreBytes, () => visit(row));
}

function hide(m: ModuleBuilder): FunctionRef {
  return m.function(undefined, new Array(6).fill('i32'), [], (f) => {
    const [scores, low, high, end, firstLow, lastLow] = f.params as Ints;
    const hidden = f.hoist(f32.const(Number.NEGATIVE_INFINITY));
    /** Hides the queries first .. end from key `row`. */
    const fill = (row: IntLocal, first: I32 | number, until: I32 | number) => {
      const lane = f.int(first);
      const rowAt = f.int(i32.add(scores!, i32.mul(row, scoreBytes)));
      f.while(lane, until, 1, () => f.emit(store.f32(i32.add(rowAt, i32.shl(lane, 2)), hidden)));
    };
    const late = f.int(i32.select(i32.gtS(end!, low!), end!, low!));
    f.while(late, high!, 1, () => fill(late, 0, f.int(i32.min(groupQueries, i32.add(i32.sub(late, end!), 1)))));
    const early = f.int(low!);
    f.while(early, f.int(i32.min(high!, lastLow!)), 1, () => {
      fill(early, i32.add(i32.sub(early, firstLow!), 1), groupQueries);
    });
  });
}

/** Rows that a register tile may reach beyond a group's keys: more than any tile has. */
const reach = 8;

function clearAround(m: ModuleBuilder): FunctionRef {
  return m.function(undefined, new Array(3).fill('i32'), [], (f) => {
    const [scores, low, high] = f.params as Ints;
    const zero = f.hoist(f32x4.const(0));
    const clear = (row: IntLocal) =>
      storeAll(
        f,
        row,
        vectors.map(() => zero),
      );
    const first = f.int(i32.select(i32.gtS(low!, reach), i32.sub(low!, reach), 0));
    overRows(f, scores!, first, low!, clear);
    overRows(f, scores!, high!, i32.add(high!, reach), clear);
  });
}

function soften(m: ModuleBuilder, features: Features): FunctionRef {
  const madd = maddFor(features);
  return m.function(undefined, new Array(4).fill('i32'), [], (f) => {
    const [scores, low, high, state] = f.params as Ints;
    // Queries come scaled: only the base changes here.
    const base = f.hoist(f32x4.const(Math.LOG2E));
    const before = loadAll(f, state!);
    const tops = before.map((value) => f.vector(value));
    overRows(f, scores!, low!, high!, (row) => {
      const scaled = loadAll(f, row).map((value) => f.vector(f32x4.mul(value, base)));
      for (const i of vectors) f.set(tops[i]!, f32x4.pmax(tops[i]!, scaled[i]!));
    });
    storeAll(f, state!, tops);
    const shrinking = vectors.map((i) => f.vector(exp2Below127(f, features, f32x4.sub(before[i]!, tops[i]!))));
    storeAll(f, state!, shrinking, 2 * stateBytes);
    const sums = loadAll(f, state!, stateBytes).map((sum, i) => f.vector(f32x4.mul(sum, shrinking[i]!)));
    const shifts = tops.map((top) => f.vector(f32x4.neg(top)));
    overRows(f, scores!, low!, high!, (row) => {
      const loaded = loadAll(f, row);
      const powers = vectors.map((i) => f.vector(exp2Below127(f, features, madd(loaded[i]!, base, shifts[i]!))));
      for (const i of vectors) f.set(sums[i]!, f32x4.add(sums[i]!, powers[i]!));
      storeAll(f, row, powers);
    });
    storeAll(f, state!, sums, stateBytes);
  });
}

function shrink(m: ModuleBuilder): FunctionRef {
  return m.function(undefined, new Array(4).fill('i32'), [], (f) => {
    const [factors, rows, count, e] = f.params as Ints;
    f.for(0, count!, 1, () => {
      const factor = f.local('f32', f32.load(factors!));
      f.if(f32.ne(factor, f32.const(1)), () => {
        const spread = f.vector(f32x4.splat(factor));
        const row = walk(f, rows!);
        rowLoop(f, e!, [row], ({ load }) => [[row, f32x4.mul(load(row), spread)]]);
      });
      f.increase(factors!, 4);
      f.increase(rows!, rowBytes);
    });
  });
}

function scoreGrad(m: ModuleBuilder, features: Features): FunctionRef {
  const madd = maddFor(features);
  return m.function(undefined, new Array(5).fill('i32'), [], (f) => {
    const [scores, products, low, high, state] = f.params as Ints;
    const base = f.hoist(f32x4.const(Math.LOG2E));
    const [shifts, deltas] = [loadAll(f, state!), loadAll(f, state!, stateBytes)];
    const distance = f.int(i32.sub(products!, scores!));
    overRows(f, scores!, low!, high!, (row) => {
      const other = f.int(i32.add(row, distance));
      const [s, product] = [loadAll(f, row), loadAll(f, other)];
      const p = vectors.map((i) => f.vector(exp2Below127(f, features, madd(s[i]!, base, shifts[i]!))));
      const gradients = vectors.map((i) => f.vector(f32x4.mul(p[i]!, f32x4.sub(product[i]!, deltas[i]!))));
      storeAll(f, row, p);
      storeAll(f, other, gradients);
    });
  });
}

function delta(m: ModuleBuilder): FunctionRef {
  return m.function(undefined, new Array(7).fill('i32'), [], (f) => {
    const [grads, out, stride, count, e, to, scratch] = f.params as Ints;
    const zero = f.hoist(f32x4.const(0));
    f.for(0, count!, 1, () => {
      const [a, b] = [walk(f, grads!), walk(f, out!)];
      const sums = accumulators(f, zero);
      rowLoop(f, e!, [a, b], ({ half, load, only }) => {
        f.set(sums[half]!, f32x4.add(sums[half]!, only(f32x4.mul(load(a), load(b)), zero)));
        return [];
      });
      f.emit(store.f32(to!, total(f, sums, scratch!)));
      f.increase(to!, 4);
      f.increase(grads!, rowBytes);
      f.increase(out!, stride!);
    });
  });
}
