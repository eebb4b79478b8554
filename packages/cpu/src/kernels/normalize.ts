/** Kernels over rows: softmax, logSoftmax and cross-entropy with their gradients. f32 accumulation in 16 lanes. */
import { type Local, type MemoryShape, ModuleBuilder } from '../assembler.ts';
import { type F32, f32, f32x4, type I32, i32, store, v128 } from '../instructions.ts';
import type { Features } from './lanes.ts';
import { vectorMath } from './math.ts';
import {
  type Access,
  accumulators,
  largest,
  longTurn,
  type RowTask,
  rowDot,
  rowLoop,
  rowTask,
  type Stores,
  total,
  walk,
} from './row-loop.ts';

/** Tasks named after their ops. */
export function normalizeModule(memory: MemoryShape, features: Features): ModuleBuilder {
  const m = new ModuleBuilder(memory);
  softmax(m, features);
  softmaxGrad(m);
  logSoftmax(m, features);
  crossEntropy(m, features);
  crossEntropyGrad(m, features);
  crossEntropyWithGrad(m, features);
  return m;
}

/** Largest element of a row, NaN left out: it comes back with its own exponential. */
function rowMax({ f, n, scratch }: RowTask, from: ReturnType<RowTask['rowAt']>): F32 & { index: number } {
  const x = walk(f, from);
  const lowest = f.hoist(f32x4.const(Number.NEGATIVE_INFINITY));
  const tops = accumulators(f, lowest);
  rowLoop(f, n, [x], ({ half, load, only }) => {
    f.set(tops[half]!, f32x4.pmax(tops[half]!, only(load(x), lowest)));
    return [];
  });
  return largest(f, tops, scratch);
}

/** Sum over a row of exp(x - shift); with `to` the exponentials are stored there. */
function rowExpSum(
  task: RowTask,
  features: Features,
  from: ReturnType<RowTask['rowAt']>,
  shift: F32,
  to?: ReturnType<RowTask['rowAt']>,
) {
  const { f, n, scratch } = task;
  const math = vectorMath(f, features);
  const x = walk(f, from);
  const out = to ? walk(f, to) : undefined;
  const shifted = f.vector(f32x4.splat(shift));
  const zero = math.constant(0);
  const sums = accumulators(f, zero);
  const body = ({ half, load, only }: Access): Stores => {
    const e = f.vector(math.expFlushed(f32x4.sub(load(x), shifted)));
    f.set(sums[half]!, f32x4.add(sums[half]!, only(e, zero)));
    return out ? [[out, e]] : [];
  };
  rowLoop(f, n, out ? [x, out] : [x], body, longTurn);
  return total(f, sums, scratch);
}

function softmax(m: ModuleBuilder, features: Features): void {
  rowTask(m, 'softmax', (task) => {
    const { f, n, rowAt } = task;
    const top = rowMax(task, rowAt(0));
    const sum = rowExpSum(task, features, rowAt(0), top, rowAt(1));
    const out = walk(f, rowAt(1));
    const divisor = f.vector(f32x4.splat(sum));
    rowLoop(f, n, [out], ({ load }) => [[out, f32x4.div(load(out), divisor)]]);
  });
}

function softmaxGrad(m: ModuleBuilder): void {
  rowTask(m, 'softmaxGrad', (task) => {
    const { f, n, rowAt } = task;
    const dot = f.vector(f32x4.splat(rowDot(task, rowAt(0), rowAt(1))));
    const [grad, out, to] = [walk(f, rowAt(0)), walk(f, rowAt(1)), walk(f, rowAt(2))];
    rowLoop(f, n, [grad, out, to], ({ load }) => [[to, f32x4.mul(load(out), f32x4.sub(load(grad), dot))]]);
  });
}

function logSoftmax(m: ModuleBuilder, features: Features): void {
  rowTask(m, 'logSoftmax', (task) => {
    const { f, n, rowAt } = task;
    // x - max first: subtracting max + log(sum) at once would lose the small difference of two large numbers.
    const top = rowMax(task, rowAt(0));
    const sum = rowExpSum(task, features, rowAt(0), top);
    const log = f.vector(vectorMath(f, features).log(f32x4.splat(sum)));
    const shift = f.vector(f32x4.splat(top));
    const [x, to] = [walk(f, rowAt(0)), walk(f, rowAt(1))];
    rowLoop(f, n, [x, to], ({ load }) => [[to, f32x4.sub(f32x4.sub(load(x), shift), log)]]);
  });
}

/** The row's label (word `index`: labels), and whether the row counts (word `index` + 1: ignoreIndex). */
function labelOf({ f, row, word }: RowTask, index: number) {
  const label = f.int(i32.load(i32.add(word(index), i32.shl(row, 2))));
  return { label, ignored: i32.eq(label, word(index + 1)) };
}

interface Label {
  readonly label: Local<'i32'>;
  readonly smoothing: F32;
}

/** Largest logit of a row and sum(exp(x - it)); with `to` the exponentials are stored there. */
function rowSoftmax(task: RowTask, features: Features, from: I32, to?: I32) {
  const top = rowMax(task, from);
  return { top, sum: rowExpSum(task, features, from, top, to) };
}

/** Loss of a row of logits: (1 - s) (log sum - (picked - top)) + s mean of the same over all classes. */
function rowLoss(task: RowTask, features: Features, { label, smoothing }: Label, { top, sum }: { top: F32; sum: F32 }) {
  const { f, n, rowAt, scratch } = task;
  const log = f.local('f32', f32x4.extract(vectorMath(f, features).log(f32x4.splat(sum)), 0));
  const picked = f32.load(i32.add(rowAt(0), i32.shl(label, 2)));
  const loss = f.local('f32', f32.sub(log, f32.sub(picked, top)));
  f.if(f32.ne(smoothing, f32.const(0)), () => {
    const x = walk(f, rowAt(0));
    const zero = f.hoist(f32x4.const(0));
    const shift = f.vector(f32x4.splat(top));
    const sums = accumulators(f, zero);
    rowLoop(f, n, [x], ({ half, load, only }) => {
      f.set(sums[half]!, f32x4.add(sums[half]!, only(f32x4.sub(load(x), shift), zero)));
      return [];
    });
    const average = f32.sub(log, f32.div(total(f, sums, scratch), f32.fromSigned(n)));
    f.set(loss, f32.add(f32.mul(f32.sub(f32.const(1), smoothing), loss), f32.mul(smoothing, average)));
  });
  return loss;
}

/** A gradient's part below 2^-90 of its row counts as 0: it would become subnormal, and slow the products that follow. */
const leastExponential = 2 ** -90;

/** Exponentials at `to`, which sum to `sum`, become (softmax - target) * factor. */
function rowGrad({ f, n }: RowTask, to: I32, sum: F32, { label, smoothing }: Label, factor: F32): void {
  const [divisor, even, by] = [sum, f32.div(smoothing, f32.fromSigned(n)), factor].map((value) =>
    f.vector(f32x4.splat(value)),
  );
  const least = f.hoist(f32x4.const(leastExponential));
  const p = walk(f, to);
  rowLoop(f, n, [p], ({ load }) => {
    const e = load(p);
    const share = f32x4.div(v128.and(e, f32x4.ge(e, least)), divisor!);
    return [[p, f32x4.mul(f32x4.sub(share, even!), by!)]];
  });
  const at = f.int(i32.add(to, i32.shl(label, 2)));
  f.emit(store.f32(at, f32.sub(f32.load(at), f32.mul(f32.sub(f32.const(1), smoothing), factor))));
}

/** Words: logits, labels, ignoreIndex, out, smoothing. */
function crossEntropy(m: ModuleBuilder, features: Features): void {
  rowTask(m, 'crossEntropy', (task) => {
    const { f, row, rowAt, word, float } = task;
    const { label, ignored } = labelOf(task, 1);
    const to = f.int(i32.add(word(3), i32.shl(row, 2)));
    f.if(
      ignored,
      () => f.emit(store.f32(to, f32.const(0))),
      () => {
        const parts = rowSoftmax(task, features, rowAt(0));
        f.emit(store.f32(to, rowLoss(task, features, { label, smoothing: float(4) }, parts)));
      },
    );
  });
}

/** Words: logits, labels, ignoreIndex, out, smoothing, grad. */
function crossEntropyGrad(m: ModuleBuilder, features: Features): void {
  rowTask(m, 'crossEntropyGrad', (task) => {
    const { f, n, row, rowAt, word, float } = task;
    const { label, ignored } = labelOf(task, 1);
    f.if(
      ignored,
      () => f.fill(rowAt(3), 0, i32.shl(n, 2)),
      () => {
        const { sum } = rowSoftmax(task, features, rowAt(0), rowAt(3));
        const grad = f.local('f32', f32.load(i32.add(word(5), i32.shl(row, 2))));
        rowGrad(task, rowAt(3), sum, { label, smoothing: float(4) }, grad);
      },
    );
  });
}

/** Words: logits, labels, ignoreIndex, loss, smoothing, grad, scale. */
function crossEntropyWithGrad(m: ModuleBuilder, features: Features): void {
  rowTask(m, 'crossEntropyWithGrad', (task) => {
    const { f, n, row, rowAt, word, float } = task;
    const { label, ignored } = labelOf(task, 1);
    const to = f.int(i32.add(word(3), i32.shl(row, 2)));
    f.if(
      ignored,
      () => {
        f.emit(store.f32(to, f32.const(0)));
        f.fill(rowAt(5), 0, i32.shl(n, 2));
      },
      () => {
        const parts = rowSoftmax(task, features, rowAt(0), rowAt(5));
        const of = { label, smoothing: float(4) };
        f.emit(store.f32(to, rowLoss(task, features, of, parts)));
        rowGrad(task, rowAt(5), parts.sum, of, float(6));
      },
    );
  });
}
