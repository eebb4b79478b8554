/**
 * sum, max and argmax of [outer, n, inner] over n. Along rows (inner = 1) in 8 lanes and in blocks of `blockElements`
 * whose results combine in order; along columns one lane a column, in order of n. Integers wrap at 32 bits.
 */
import { argument, type FunctionBuilder, type Local, type MemoryShape, ModuleBuilder } from '../assembler.ts';
import { type F32, f32, f32x4, type I32, i32, i32x4, store, type V128, v128 } from '../instructions.ts';
import { accumulators, largest, rowLoop, total, walk } from './row-loop.ts';

/** A constant of this version: it orders the sums of long rows. */
export const blockElements = 32 * 1024;
export const columnsPerChunk = 64;

export const reduceWord = { x: 0, out: 1, n: 2, inner: 3, blocks: 4, rows: 5, rowsPerChunk: 6 } as const;

/** Tasks `sumRows`, `maxRows` (blocks of rows), `sumColumns`, `maxColumns`, `sumColumnsInteger`, `argmaxRows`. */
export function reduceModule(memory: MemoryShape): ModuleBuilder {
  const m = new ModuleBuilder(memory);
  rows(m, 'sumRows', f32x4.add, 0, total);
  rows(m, 'maxRows', f32x4.max, Number.NEGATIVE_INFINITY, largest);
  columns(m, 'sumColumns', f32x4.add, true);
  columns(m, 'maxColumns', f32x4.max, false);
  columns(m, 'sumColumnsInteger', i32x4.add, true);
  argmaxRows(m);
  return m;
}

type Combine = (a: V128, b: V128) => V128;
type Finish = (f: FunctionBuilder, parts: readonly Local<'v128'>[], scratch: I32) => F32;

/** Chunk = a run of (row, block) cells; out[row, block] is the block's result. */
function rows(m: ModuleBuilder, name: string, combine: Combine, neutral: number, finish: Finish): void {
  m.task(name, (f, args, chunk, scratch) => {
    const word = (key: keyof typeof reduceWord) => f.int(argument(args, reduceWord[key]));
    const [n, blocks, perChunk] = [word('n'), word('blocks'), word('rowsPerChunk')];
    const cell = f.int(i32.mul(chunk, perChunk));
    const end = f.int(i32.min(i32.mul(word('rows'), blocks), i32.add(cell, perChunk)));
    const start = f.hoist(f32x4.const(neutral));
    f.while(cell, end, 1, () => {
      const first = f.int(i32.mul(i32.remU(cell, blocks), blockElements));
      const at = i32.add(i32.mul(i32.divU(cell, blocks), n), first);
      const x = walk(f, i32.add(argument(args, reduceWord.x), i32.shl(at, 2)));
      const parts = accumulators(f, start);
      rowLoop(f, f.int(i32.min(blockElements, i32.sub(n, first))), [x], ({ half, load, only }) => {
        f.set(parts[half]!, combine(parts[half]!, only(load(x), start)));
        return [];
      });
      f.emit(store.f32(i32.add(argument(args, reduceWord.out), i32.shl(cell, 2)), finish(f, parts, scratch)));
    });
  });
}

/** Chunk = (outer, 64 columns); four columns at a time, down all n rows. */
function columns(m: ModuleBuilder, name: string, combine: Combine, fromZero: boolean): void {
  m.task(name, (f, args, chunk, scratch) => {
    const word = (key: keyof typeof reduceWord) => f.int(argument(args, reduceWord[key]));
    const [n, inner, blocks] = [word('n'), word('inner'), word('blocks')];
    const outer = f.int(i32.divU(chunk, blocks));
    const column = f.int(i32.mul(i32.remU(chunk, blocks), columnsPerChunk));
    const end = f.int(i32.min(inner, i32.add(column, columnsPerChunk)));
    const rowBytes = f.int(i32.shl(inner, 2));
    f.while(column, end, 4, () => {
      const first = i32.add(i32.mul(i32.mul(outer, n), inner), column);
      const at = f.int(i32.add(argument(args, reduceWord.x), i32.shl(first, 2)));
      const sum = f.vector(f.hoist(f32x4.const(0)));
      const i = f.int(0);
      if (!fromZero) {
        f.set(sum, v128.load(at));
        f.setInt(i, 1);
        f.increase(at, rowBytes);
      }
      f.while(i, n, 1, () => {
        f.set(sum, combine(sum, v128.load(at)));
        f.increase(at, rowBytes);
      });
      const to = i32.add(argument(args, reduceWord.out), i32.shl(i32.add(i32.mul(outer, inner), column), 2));
      f.emit(store.v128(scratch, sum));
      f.copy(to, scratch, i32.shl(i32.min(4, i32.sub(end, column)), 2));
    });
  });
}

/** First largest element of each row; a NaN wins, as the reference has it. */
function argmaxRows(m: ModuleBuilder): void {
  m.task('argmaxRows', (f, args, chunk) => {
    const word = (key: keyof typeof reduceWord) => f.int(argument(args, reduceWord[key]));
    const [n, perChunk] = [word('n'), word('rowsPerChunk')];
    const row = f.int(i32.mul(chunk, perChunk));
    const end = f.int(i32.min(word('rows'), i32.add(row, perChunk)));
    f.while(row, end, 1, () => {
      const at = f.int(i32.add(argument(args, reduceWord.x), i32.shl(i32.mul(row, n), 2)));
      const top = f.local('f32', f32.load(at));
      const best = f.int(0);
      f.for(1, n, 1, (i) => {
        f.increase(at, 4);
        const value = f.local('f32', f32.load(at));
        const better = i32.or(f32.gt(value, top), i32.and(f32.ne(value, value), f32.eq(top, top)));
        f.if(better, () => {
          f.set(top, value);
          f.set(best, i);
        });
      });
      f.emit(store.i32(i32.add(argument(args, reduceWord.out), i32.shl(row, 2)), best));
    });
  });
}
