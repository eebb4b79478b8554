/** Kernels over rows: softmax, logSoftmax, rmsNorm and cross-entropy with their gradients. f32 accumulation in 8 lanes. */
import { type MemoryShape, ModuleBuilder } from '../assembler.ts';
import { type F32, f32, f32x4, i32, store, type V128 } from '../instructions.ts';
import { type Features, type FloatType, floatTypes } from './lanes.ts';
import { vectorMath } from './math.ts';
import { accumulators, largest, type RowTask, rowLoop, rowTask, total, walk } from './row-loop.ts';

/** Tasks named after their ops; rmsNorm's carry the weight's dtype. */
export function normalizeModule(memory: MemoryShape, features: Features): ModuleBuilder {
  const m = new ModuleBuilder(memory);
  softmax(m, features);
  softmaxGrad(m);
  logSoftmax(m, features);
  for (const dtype of floatTypes) {
    rmsNorm(m, features, dtype);
    rmsNormGrad(m, features, dtype);
  }
  crossEntropy(m, features);
  crossEntropyGrad(m, features);
  return m;
}

export const rmsNormTask = (dtype: FloatType) => `rmsNorm_${dtype}`;
export const rmsNormGradTask = (dtype: FloatType) => `rmsNormGrad_${dtype}`;

/** Largest element of a row. */
function rowMax({ f, n, scratch }: RowTask, from: ReturnType<RowTask['rowAt']>): F32 & { index: number } {
  const x = walk(f, from);
  const lowest = f.hoist(f32x4.const(Number.NEGATIVE_INFINITY));
  const tops = accumulators(f, lowest);
  rowLoop(f, n, [x], ({ half, load, only }) => {
    f.set(tops[half]!, f32x4.max(tops[half]!, only(load(x), lowest)));
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
  rowLoop(f, n, out ? [x, out] : [x], ({ half, load, only }) => {
    const e = f.vector(math.exp(f32x4.sub(load(x), shifted)));
    f.set(sums[half]!, f32x4.add(sums[half]!, only(e, zero)));
    return out ? [[out, e]] : [];
  });
  return total(f, sums, scratch);
}

/** max + log(sum(exp(x - max))). */
function logSumExp(task: RowTask, features: Features, from: ReturnType<RowTask['rowAt']>) {
  const { f } = task;
  const top = rowMax(task, from);
  const sum = rowExpSum(task, features, from, top);
  const log = vectorMath(f, features).log(f32x4.splat(sum));
  return f.local('f32', f32.add(top, f32x4.extract(log, 0)));
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

function rowDot({ f, n, scratch }: RowTask, a: ReturnType<RowTask['rowAt']>, b: ReturnType<RowTask['rowAt']>) {
  const [x, y] = [walk(f, a), walk(f, b)];
  const zero = f.hoist(f32x4.const(0));
  const sums = accumulators(f, zero);
  rowLoop(f, n, [x, y], ({ half, load, only }) => {
    f.set(sums[half]!, f32x4.add(sums[half]!, only(f32x4.mul(load(x), load(y)), zero)));
    return [];
  });
  return total(f, sums, scratch);
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

/** 1 / sqrt(mean of squares + eps), eps in float word `epsWord`. */
function inverseRms(task: RowTask, from: ReturnType<RowTask['rowAt']>, eps: F32) {
  const sum = rowDot(task, from, from);
  const mean = f32.div(sum, f32.fromSigned(task.n));
  return task.f.local('f32', f32.div(f32.const(1), f32.sqrt(f32.add(mean, eps))));
}

/** Words: x, out, weight, eps. */
function rmsNorm(m: ModuleBuilder, _features: Features, dtype: FloatType): void {
  rowTask(m, rmsNormTask(dtype), (task) => {
    const { f, n, rowAt, word, float } = task;
    const scale = f.vector(f32x4.splat(inverseRms(task, rowAt(0), float(3))));
    const [x, to, weight] = [walk(f, rowAt(0)), walk(f, rowAt(1)), walk(f, word(2), dtype)];
    rowLoop(f, n, [x, to, weight], ({ load }) => [[to, f32x4.mul(f32x4.mul(load(x), scale), load(weight))]]);
  });
}

/** Words: grad, x, out, weight, eps. */
function rmsNormGrad(m: ModuleBuilder, features: Features, dtype: FloatType): void {
  rowTask(m, rmsNormGradTask(dtype), (task) => {
    const { f, n, rowAt, word, float, scratch } = task;
    const math = vectorMath(f, features);
    const s = inverseRms(task, rowAt(1), float(4));
    const zero = math.constant(0);
    const sums = accumulators(f, zero);
    const first = [walk(f, rowAt(0)), walk(f, rowAt(1)), walk(f, word(3), dtype)] as const;
    rowLoop(f, n, first, ({ half, load, only }) => {
      const product = f32x4.mul(f32x4.mul(load(first[0]), load(first[2])), load(first[1]));
      f.set(sums[half]!, f32x4.add(sums[half]!, only(product, zero)));
      return [];
    });
    const mean = f32.div(total(f, sums, scratch), f32.fromSigned(n));
    const cubed = f32.mul(f32.mul(s, s), f32.mul(s, mean));
    const [scale, back] = [f.vector(f32x4.splat(s)), f.vector(f32x4.splat(cubed))];
    const [grad, x, weight, to] = [walk(f, rowAt(0)), walk(f, rowAt(1)), walk(f, word(3), dtype), walk(f, rowAt(2))];
    rowLoop(f, n, [grad, x, weight, to], ({ load }) => {
      const scaled = f32x4.mul(f32x4.mul(load(grad), load(weight)), scale);
      return [[to, f32x4.sub(scaled, f32x4.mul(load(x), back))]];
    });
  });
}

/** The row's label (word `index`: labels), and whether the row counts (word `index` + 1: ignoreIndex). */
function labelOf({ f, row, word }: RowTask, index: number) {
  const label = f.int(i32.load(i32.add(word(index), i32.shl(row, 2))));
  return { label, ignored: i32.eq(label, word(index + 1)) };
}

/** Words: logits, labels, ignoreIndex, out, smoothing. */
function crossEntropy(m: ModuleBuilder, features: Features): void {
  rowTask(m, 'crossEntropy', (task) => {
    const { f, n, row, rowAt, word, float, scratch } = task;
    const { label, ignored } = labelOf(task, 1);
    const to = f.int(i32.add(word(3), i32.shl(row, 2)));
    f.if(
      ignored,
      () => f.emit(store.f32(to, f32.const(0))),
      () => {
        const top = rowMax(task, rowAt(0));
        const sum = rowExpSum(task, features, rowAt(0), top);
        const log = f.local('f32', f32x4.extract(vectorMath(f, features).log(f32x4.splat(sum)), 0));
        const picked = f32.load(i32.add(rowAt(0), i32.shl(label, 2)));
        const loss = f.local('f32', f32.sub(log, f32.sub(picked, top)));
        f.if(f32.ne(float(4), f32.const(0)), () => {
          const x = walk(f, rowAt(0));
          const zero = f.hoist(f32x4.const(0));
          const shift = f.vector(f32x4.splat(top));
          const sums = accumulators(f, zero);
          rowLoop(f, n, [x], ({ half, load, only }) => {
            f.set(sums[half]!, f32x4.add(sums[half]!, only(f32x4.sub(load(x), shift), zero)));
            return [];
          });
          const average = f32.sub(log, f32.div(total(f, sums, scratch), f32.fromSigned(n)));
          f.set(loss, f32.add(f32.mul(f32.sub(f32.const(1), float(4)), loss), f32.mul(float(4), average)));
        });
        f.emit(store.f32(to, loss));
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
        const math = vectorMath(f, features);
        const lse = f.vector(f32x4.splat(logSumExp(task, features, rowAt(0))));
        const grad = f.local('f32', f32.load(i32.add(word(5), i32.shl(row, 2))));
        const factor = f.vector(f32x4.splat(grad));
        const even = f.vector(f32x4.splat(f32.div(float(4), f32.fromSigned(n))));
        const [x, to] = [walk(f, rowAt(0)), walk(f, rowAt(3))];
        rowLoop(f, n, [x, to], ({ load }) => {
          const p: V128 = math.exp(f32x4.sub(load(x), lse));
          return [[to, f32x4.mul(f32x4.sub(p, even), factor)]];
        });
        const at = f.int(i32.add(rowAt(3), i32.shl(label, 2)));
        const share = f32.mul(f32.sub(f32.const(1), float(4)), grad);
        f.emit(store.f32(at, f32.sub(f32.load(at), share)));
      },
    );
  });
}
