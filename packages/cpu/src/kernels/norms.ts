/** rmsNorm and layerNorm over rows, with their gradients: a row stays in the first-level cache between its sweeps. */
import { type MemoryShape, ModuleBuilder } from '../assembler.ts';
import { type F32, f32, f32x4, type I32, i32, type V128 } from '../instructions.ts';
import { type FloatType, floatTypes } from './lanes.ts';
import { accumulators, type RowTask, rowDot, rowLoop, rowTask, total, type Walker, walk } from './row-loop.ts';

/** Tasks named after their ops; those that read rmsNorm's weight carry its dtype. */
export function normsModule(memory: MemoryShape): ModuleBuilder {
  const m = new ModuleBuilder(memory);
  for (const dtype of floatTypes) {
    rmsNorm(m, dtype);
    rmsNormGrad(m, dtype);
  }
  layerNorm(m);
  layerNormGrad(m);
  weightGrads(m);
  return m;
}

export const rmsNormTask = (dtype: FloatType) => `rmsNorm_${dtype}`;
export const rmsNormGradTask = (dtype: FloatType) => `rmsNormGrad_${dtype}`;

const spread = ({ f }: RowTask, value: F32) => f.vector(f32x4.splat(value));

/** 1 / sqrt(sum / n + eps). */
const inverseRootMean = ({ f, n }: RowTask, sum: F32, eps: F32) =>
  f.local('f32', f32.div(f32.const(1), f32.sqrt(f32.add(f32.div(sum, f32.fromSigned(n)), eps))));

/** Words: x, out, weight, eps. */
function rmsNorm(m: ModuleBuilder, dtype: FloatType): void {
  rowTask(m, rmsNormTask(dtype), (task) => {
    const { f, n, rowAt, word, float } = task;
    const scale = f.vector(f32x4.splat(inverseRootMean(task, rowDot(task, rowAt(0), rowAt(0)), float(3))));
    const [x, to, weight] = [walk(f, rowAt(0)), walk(f, rowAt(1)), walk(f, word(2), dtype)];
    rowLoop(f, n, [x, to, weight], ({ load }) => [[to, f32x4.mul(f32x4.mul(load(x), scale), load(weight))]]);
  });
}

/** Words: grad, x, out, weight, eps. */
function rmsNormGrad(m: ModuleBuilder, dtype: FloatType): void {
  rowTask(m, rmsNormGradTask(dtype), (task) => {
    const { f, n, rowAt, word, float, scratch } = task;
    const zero = f.hoist(f32x4.const(0));
    const [squares, products] = [accumulators(f, zero), accumulators(f, zero)];
    const first = [walk(f, rowAt(0)), walk(f, rowAt(1)), walk(f, word(3), dtype)] as const;
    rowLoop(f, n, first, ({ half, load, only }) => {
      const value = load(first[1]);
      const product = f32x4.mul(f32x4.mul(load(first[0]), load(first[2])), value);
      f.set(squares[half]!, f32x4.add(squares[half]!, only(f32x4.mul(value, value), zero)));
      f.set(products[half]!, f32x4.add(products[half]!, only(product, zero)));
      return [];
    });
    const s = inverseRootMean(task, total(f, squares, scratch), float(4));
    const mean = f32.div(total(f, products, scratch), f32.fromSigned(n));
    const cubed = f32.mul(f32.mul(s, s), f32.mul(s, mean));
    const [scale, back] = [f.vector(f32x4.splat(s)), f.vector(f32x4.splat(cubed))];
    const [grad, x, weight, to] = [walk(f, rowAt(0)), walk(f, rowAt(1)), walk(f, word(3), dtype), walk(f, rowAt(2))];
    rowLoop(f, n, [grad, x, weight, to], ({ load }) => {
      const scaled = f32x4.mul(f32x4.mul(load(grad), load(weight)), scale);
      return [[to, f32x4.sub(scaled, f32x4.mul(load(x), back))]];
    });
  });
}

type Body = Parameters<typeof rowLoop>[3];

/** Further sums in the sweep over x - (a first mean), and what that sweep reads beside x. */
interface Beside {
  readonly walkers: readonly Walker[];
  readonly add: (near: V128, access: Parameters<Body>[0]) => void;
}

/**
 * x - mean and 1 / sqrt(variance + eps) of a row. The mean is taken twice, because the rounding of a mean far from 0 is an
 * error of every difference: `rest`, the second mean, is that error.
 */
function moments(task: RowTask, from: I32, eps: F32, beside?: Beside) {
  const { f, n, scratch } = task;
  const zero = f.hoist(f32x4.const(0));
  const count = f32.fromSigned(n);
  const first = walk(f, from);
  const sums = accumulators(f, zero);
  rowLoop(f, n, [first], ({ half, load, only }) => {
    f.set(sums[half]!, f32x4.add(sums[half]!, only(load(first), zero)));
    return [];
  });
  const mean = spread(task, f32.div(total(f, sums, scratch), count));
  const second = walk(f, from);
  const [rests, squares] = [accumulators(f, zero), accumulators(f, zero)];
  rowLoop(f, n, [second, ...(beside?.walkers ?? [])], (access) => {
    const { half, load, only } = access;
    const near = f.vector(only(f32x4.sub(load(second), mean), zero));
    f.set(rests[half]!, f32x4.add(rests[half]!, near));
    f.set(squares[half]!, f32x4.add(squares[half]!, f32x4.mul(near, near)));
    beside?.add(near, access);
    return [];
  });
  const rest = f.local('f32', f32.div(total(f, rests, scratch), count));
  const sum = f32.sub(total(f, squares, scratch), f32.mul(count, f32.mul(rest, rest)));
  const shift = spread(task, rest);
  const centered = (x: V128) => f32x4.sub(f32x4.sub(x, mean), shift);
  return { centered, scale: inverseRootMean(task, sum, eps), rest };
}

/** Words: x, out, weight, bias, eps. */
function layerNorm(m: ModuleBuilder): void {
  rowTask(m, 'layerNorm', (task) => {
    const { f, n, rowAt, word, float } = task;
    const { centered, scale } = moments(task, rowAt(0), float(4));
    const factor = spread(task, scale);
    const [x, to, weight, bias] = [walk(f, rowAt(0)), walk(f, rowAt(1)), walk(f, word(2)), walk(f, word(3))];
    rowLoop(f, n, [x, to, weight, bias], ({ load }) => {
      const normal = f32x4.mul(centered(load(x)), factor);
      return [[to, f32x4.add(f32x4.mul(normal, load(weight)), load(bias))]];
    });
  });
}

/** Words: grad, x, out, weight, eps. */
function layerNormGrad(m: ModuleBuilder): void {
  rowTask(m, 'layerNormGrad', (task) => {
    const { f, n, rowAt, word, float, scratch } = task;
    const zero = f.hoist(f32x4.const(0));
    const count = f32.fromSigned(n);
    const [gradSums, products] = [accumulators(f, zero), accumulators(f, zero)];
    const [grad, weight] = [walk(f, rowAt(0)), walk(f, word(3))];
    const add = (near: V128, { half, load, only }: Parameters<Body>[0]) => {
      const g = f.vector(only(f32x4.mul(load(grad), load(weight)), zero));
      f.set(gradSums[half]!, f32x4.add(gradSums[half]!, g));
      f.set(products[half]!, f32x4.add(products[half]!, f32x4.mul(g, near)));
    };
    const { centered, scale, rest } = moments(task, rowAt(1), float(4), { walkers: [grad, weight], add });
    const gradSum = total(f, gradSums, scratch);
    const product = f32.mul(f32.sub(total(f, products, scratch), f32.mul(rest, gradSum)), scale);
    const [factor, mean, along] = [
      spread(task, scale),
      spread(task, f32.div(gradSum, count)),
      spread(task, f32.div(product, count)),
    ];
    const rows = [walk(f, rowAt(0)), walk(f, rowAt(1)), walk(f, word(3)), walk(f, rowAt(2))] as const;
    rowLoop(f, n, rows, ({ load }) => {
      const g = f32x4.sub(f32x4.mul(load(rows[0]), load(rows[2])), mean);
      const normal = f32x4.mul(centered(load(rows[1])), factor);
      return [[rows[3], f32x4.mul(f32x4.sub(g, f32x4.mul(normal, along)), factor)]];
    });
  });
}

/**
 * Words: grad, x, sums of each chunk's rows [chunks, n], rows a chunk, eps. A chunk's sums lie in its row of the third,
 * and are then summed over chunks.
 */
function weightGrads(m: ModuleBuilder): void {
  const sums = (name: string, normal: (task: RowTask) => (x: V128) => V128) =>
    rowTask(m, name, (task) => {
      const { f, n, row, rowAt, word } = task;
      const rowBytes = i32.shl(n, 2);
      const at = f.int(i32.add(word(2), i32.mul(i32.divU(row, word(3)), rowBytes)));
      f.if(i32.eqz(i32.remU(row, word(3))), () => f.fill(at, 0, rowBytes));
      const normalOf = normal(task);
      const [grad, x, to] = [walk(f, rowAt(0)), walk(f, rowAt(1)), walk(f, at)];
      rowLoop(f, n, [grad, x, to], ({ load }) => [[to, f32x4.add(load(to), f32x4.mul(load(grad), normalOf(load(x))))]]);
    });
  sums('rmsNormWeightGrad', (task) => {
    const scale = spread(task, inverseRootMean(task, rowDot(task, task.rowAt(1), task.rowAt(1)), task.float(4)));
    return (x) => f32x4.mul(x, scale);
  });
  sums('layerNormWeightGrad', (task) => {
    const { centered, scale } = moments(task, task.rowAt(1), task.float(4));
    const factor = spread(task, scale);
    return (x) => f32x4.mul(centered(x), factor);
  });
}
