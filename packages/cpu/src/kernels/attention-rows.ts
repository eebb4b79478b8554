/** One row of attention scores: the running softmax of the forward, and the score gradients of the backward. */
import type { FunctionRef, Local, ModuleBuilder } from '../assembler.ts';
import { f32, f32x4, type I32, i32, store, type V128 } from '../instructions.ts';
import type { Features } from './lanes.ts';
import { vectorMath } from './math.ts';
import { accumulators, largest, rowLoop, total, walk } from './row-loop.ts';

type IntLocal = Local<'i32'>;

export interface RowFunctions {
  /**
   * (scores, low, high, count, state, out, e, scale bits, scratch): scores become probabilities relative to the running
   * maximum (0 outside low .. high), out is rescaled; state holds the maximum and the sum.
   */
  readonly soften: FunctionRef;
  /** (scores, dp, low, high, count, lse, delta, scale bits): dp becomes the score gradient; lse and delta are one number. */
  readonly gradOfRow: FunctionRef;
  /** The same along queries: lse and delta are rows; scores become probabilities as well. */
  readonly gradOfColumn: FunctionRef;
}

export function addRowFunctions(m: ModuleBuilder, features: Features): RowFunctions {
  return {
    soften: soften(m, features),
    gradOfRow: scoreGrad(m, features, false),
    gradOfColumn: scoreGrad(m, features, true),
  };
}

type Writer = Parameters<Parameters<ModuleBuilder['function']>[3]>[0];

/** Zeros outside low .. high of a row of `count` floats. */
function clearOutside(f: Writer, row: I32, low: I32, high: I32, count: I32): void {
  f.fill(row, 0, i32.shl(low, 2));
  f.fill(i32.add(row, i32.shl(high, 2)), 0, i32.shl(i32.sub(count, high), 2));
}

function soften(m: ModuleBuilder, features: Features): FunctionRef {
  return m.function(undefined, new Array(9).fill('i32'), [], (f) => {
    const [scores, low, high, count, state, out, e, scaleBits, scratch] = f.params as IntLocal[] &
      Record<number, IntLocal>;
    f.if(i32.geS(low!, high!), () => {
      f.fill(scores!, 0, i32.shl(count!, 2));
      f.return();
    });
    const math = vectorMath(f, features);
    const scale = f.vector(f32x4.splat(f32.reinterpret(scaleBits!)));
    const length = f.int(i32.sub(high!, low!));
    const start = f.int(i32.add(scores!, i32.shl(low!, 2)));
    clearOutside(f, scores!, low!, high!, count!);
    const lowest = f.hoist(f32x4.const(Number.NEGATIVE_INFINITY));
    const tops = accumulators(f, lowest);
    const [read, write] = [walk(f, start), walk(f, start)];
    rowLoop(f, length, [read, write], ({ half, load, only }) => {
      const scaled = f.vector(f32x4.mul(load(read), scale));
      f.set(tops[half]!, f32x4.max(tops[half]!, only(scaled, lowest)));
      return [[write, scaled]];
    });
    const before = f.local('f32', f32.load(state!));
    const top = f.local('f32', f32.max(before, largest(f, tops, scratch!)));
    const shift = f.vector(f32x4.splat(top));
    const zero = math.constant(0);
    const sums = accumulators(f, zero);
    const probabilities = walk(f, start);
    rowLoop(f, length, [probabilities], ({ half, load, only }) => {
      const p = f.vector(math.exp(f32x4.sub(load(probabilities), shift)));
      f.set(sums[half]!, f32x4.add(sums[half]!, only(p, zero)));
      return [[probabilities, p]];
    });
    const shrink = f.vector(math.exp(f32x4.sub(f32x4.splat(before), shift)));
    const sum = f32.add(f32.mul(f32.load(state!, 4), f32x4.extract(shrink, 0)), total(f, sums, scratch!));
    f.emit(store.f32(state!, sum, 4));
    f.emit(store.f32(state!, top));
    f.if(f32.ne(before, top), () => {
      const o = walk(f, out!);
      rowLoop(f, e!, [o], ({ load }) => [[o, f32x4.mul(load(o), shrink)]]);
    });
  });
}

function scoreGrad(m: ModuleBuilder, features: Features, alongQueries: boolean): FunctionRef {
  return m.function(undefined, new Array(8).fill('i32'), [], (f) => {
    const [scores, dp, low, high, count, lse, delta, scaleBits] = f.params as IntLocal[] & Record<number, IntLocal>;
    f.if(i32.geS(low!, high!), () => {
      f.fill(dp!, 0, i32.shl(count!, 2));
      f.fill(scores!, 0, i32.shl(count!, 2));
      f.return();
    });
    const math = vectorMath(f, features);
    const scale = f.vector(f32x4.splat(f32.reinterpret(scaleBits!)));
    const skip = f.int(i32.shl(low!, 2));
    clearOutside(f, dp!, low!, high!, count!);
    clearOutside(f, scores!, low!, high!, count!);
    const [s, g] = [walk(f, i32.add(scores!, skip)), walk(f, i32.add(dp!, skip))];
    const rows = alongQueries ? [walk(f, i32.add(lse!, skip)), walk(f, i32.add(delta!, skip))] : [];
    const fixed = alongQueries ? [] : [f.vector(f32x4.splat(f32.load(lse!))), f.vector(f32x4.splat(f32.load(delta!)))];
    rowLoop(f, i32.sub(high!, low!), [s, g, ...rows], ({ load }) => {
      const [shift, lessen] = (alongQueries ? rows.map(load) : fixed) as [V128, V128];
      const p = f.vector(math.exp(f32x4.sub(f32x4.mul(load(s), scale), shift)));
      const ds = f32x4.mul(f32x4.mul(p, f32x4.sub(load(g), lessen)), scale);
      return alongQueries
        ? [
            [g, ds],
            [s, p],
          ]
        : [[g, ds]];
    });
  });
}
