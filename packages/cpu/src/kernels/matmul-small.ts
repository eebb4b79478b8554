/**
 * Products with at most eight rows of A and W stored as [n, k], as in generation: every row of W is read once, without
 * packing, against up to four rows of A at a time. Sixteen partial sums an element, combined in a fixed order.
 */
import {
  argument,
  type FunctionBuilder,
  type FunctionRef,
  type Local,
  type ModuleBuilder,
  moved,
} from '../assembler.ts';
import { f32, f32x4, i32, i64, store, v128 } from '../instructions.ts';
import type { Task, Team } from '../team.ts';
import {
  bytesPerElement,
  elementShift,
  type Features,
  type FloatType,
  floatTypes,
  loadFloat,
  loadFloats,
  maddFor,
  sumLanes,
} from './lanes.ts';
import type { Pair, Product } from './matmul-plan.ts';

const maxRows = 8;
const step = 16;
/** Bytes of W a chunk reads: long enough to be worth a claim, short enough to share. */
const bytesPerChunk = 256 * 1024;
const word = {
  c: 0,
  cStride: 1,
  m: 2,
  n: 3,
  rowsPerChunk: 4,
  bias: 5,
  keep: 6,
  a: 7,
  aStride: 8,
  b: 9,
  bStride: 11,
  k: 12,
} as const;
const taskName = (dtype: FloatType, far: boolean) => `rows_${dtype}${far ? '_store' : ''}`;

/** Adds the tasks `rows_f32`, `rows_f16` and `rows_bf16`, named by W's dtype, and their twins for a W in the store. */
export function addSmallRows(m: ModuleBuilder, features: Features, withStore: boolean): void {
  for (const dtype of floatTypes) {
    for (const pointer of withStore ? (['i32', 'i64'] as const) : (['i32'] as const)) {
      const four = dots(m, features, { dtype, pointer, count: 4 });
      const one = dots(m, features, { dtype, pointer, count: 1 });
      rowsTask(m, { dtype, pointer, four, one });
    }
  }
}

type Pointer = 'i32' | 'i64';

/** (w row, a, a stride, k, out): `count` dot products, stored one f32 after the other. */
function dots(
  m: ModuleBuilder,
  features: Features,
  { dtype, pointer, count }: { dtype: FloatType; pointer: Pointer; count: number },
): FunctionRef {
  const madd = maddFor(features);
  return m.function(undefined, [pointer, 'i32', 'i32', 'i32', 'i32'], [], (f) => {
    const [w, a, stride, k, out] = f.params as unknown as [
      Local<Pointer>,
      Local<'i32'>,
      Local<'i32'>,
      Local<'i32'>,
      Local<'i32'>,
    ];
    const rows = Array.from({ length: count }, () => f.int());
    const acc = rows.map(() => Array.from({ length: 4 }, () => f.vector()));
    for (const [i, row] of rows.entries()) f.set(row, i === 0 ? a : i32.add(rows[i - 1]!, stride));
    const done = f.int(0);
    f.while(done, i32.and(k, -step), step, () => {
      const wVectors = [0, 1, 2, 3].map((j) => f.vector(loadFloats(f, dtype, w, j * 4 * bytesPerElement[dtype])));
      for (const [i, row] of rows.entries()) {
        const aVectors = [0, 1, 2, 3].map((j) => f.vector(v128.load(row, 16 * j)));
        for (let j = 0; j < 4; j++) f.set(acc[i]![j]!, madd(aVectors[j]!, wVectors[j]!, acc[i]![j]!));
      }
      for (const row of rows) f.increase(row, step * 4);
      f.set(w, moved(w, step * bytesPerElement[dtype]));
    });
    const sums = acc.map((vectors) => finishSum(f, vectors, out));
    f.while(done, k, 1, () => {
      for (const [i, row] of rows.entries()) {
        f.set(sums[i]!, f32.add(sums[i]!, f32.mul(f32.load(row), loadFloat(f, dtype, w))));
        f.increase(row, 4);
      }
      f.set(w, moved(w, bytesPerElement[dtype]));
    });
    for (const [i, sum] of sums.entries()) f.emit(store.f32(out, sum, 4 * i));
  });
}

/** Four accumulators to one sum; stored side by side first, which is what lets V8 pair the loop above. */
function finishSum(f: FunctionBuilder, vectors: readonly Local<'v128'>[], buffer: Local<'i32'>): Local<'f32'> {
  for (const [j, vector] of vectors.entries()) f.emit(store.v128(buffer, vector, 16 * j));
  const [a, b, c, d] = [0, 1, 2, 3].map((j) => v128.load(buffer, 16 * j)) as [never, never, never, never];
  const total = f.vector(f32x4.add(f32x4.add(a, b), f32x4.add(c, d)));
  return f.local('f32', sumLanes(total));
}

function rowsTask(
  m: ModuleBuilder,
  { dtype, pointer, four, one }: { dtype: FloatType; pointer: Pointer; four: FunctionRef; one: FunctionRef },
): void {
  m.task(taskName(dtype, pointer === 'i64'), (f, args, chunk, scratch) => {
    const get = (name: keyof typeof word) => f.int(argument(args, word[name]));
    const [rowCount, aStride, bStride, k, cStride, bias] = [
      get('m'),
      get('aStride'),
      get('bStride'),
      get('k'),
      get('cStride'),
      get('bias'),
    ];
    const first = f.int(i32.mul(chunk, get('rowsPerChunk')));
    const end = f.int(i32.min(get('n'), i32.add(first, get('rowsPerChunk'))));
    const keep = get('keep');
    f.while(first, end, 1, () => {
      const base = pointer === 'i64' ? i64.load(args, word.b * 4) : argument(args, word.b);
      const w = f.local<Pointer>(pointer, moved(base, i32.mul(first, bStride)));
      const start = f.local('f32', f32.const(0));
      f.if(bias, () => f.set(start, f32.load(i32.add(bias, i32.shl(first, 2)))));
      const at = f.int(i32.add(get('c'), i32.shl(first, 2)));
      const a = get('a');
      const i = f.int(0);
      const finish = (index: number) => {
        f.if(keep, () => f.set(start, f32.load(at)));
        f.emit(store.f32(at, f32.add(start, f32.load(scratch, index * 4))));
        f.increase(at, cStride);
      };
      f.while(i, i32.and(rowCount, -4), 4, () => {
        f.call(four, w, a, aStride, k, scratch);
        for (let index = 0; index < 4; index++) finish(index);
        f.increase(a, i32.shl(aStride, 2));
      });
      f.while(i, rowCount, 1, () => {
        f.call(one, w, a, aStride, k, scratch);
        finish(0);
        f.increase(a, aStride);
      });
    });
  });
}

/** When the row kernels apply, and how they run. */
export const smallRows = {
  fits({ m, batch }: Product, pairs: readonly Pair[]): boolean {
    if (m > maxRows || batch !== 1 || pairs.length === 0) return false;
    return pairs.every(({ a, b }) => b.transposed && !a.transposed && a.dtype === 'f32');
  },

  run(team: Team, tasks: Record<string, Task>, product: Product, pairs: readonly Pair[]): void {
    const { m, n, c } = product;
    for (const [i, { a, b, k }] of pairs.entries()) {
      const rowBytes = k << elementShift(b.dtype);
      const rowsPerChunk = Math.max(1, Math.floor(bytesPerChunk / rowBytes));
      const words: number[] = [];
      words[word.c] = c.address;
      words[word.cStride] = c.rowStride * 4;
      words[word.m] = m;
      words[word.n] = n;
      words[word.rowsPerChunk] = rowsPerChunk;
      words[word.bias] = i === 0 ? (product.bias ?? 0) : 0;
      words[word.keep] = i > 0 || product.keep ? 1 : 0;
      words[word.a] = a.address;
      words[word.aStride] = a.rowStride * 4;
      words[word.b] = b.address % 2 ** 32;
      words[word.b + 1] = Math.floor(b.address / 2 ** 32);
      words[word.bStride] = b.rowStride * bytesPerElement[b.dtype];
      words[word.k] = k;
      team.run(tasks[taskName(b.dtype, Boolean(b.inStore))]!, words, Math.ceil(n / rowsPerChunk));
    }
  },
};
