/** Copies between strided places: runs of bytes along the innermost axis, single elements where that axis has a stride. */
import { argument, type MemoryShape, ModuleBuilder, moved } from '../assembler.ts';
import { f32, type I32, i32, i64, store } from '../instructions.ts';

/** Three outer axes and the innermost; strides and lengths in bytes. */
export const copyWord = {
  from: 0,
  to: 1,
  rows: 2,
  rowsPerChunk: 3,
  size1: 4,
  size2: 5,
  fromStride: 6,
  toStride: 9,
  bytes: 12,
  count: 13,
  fromStep: 14,
  toStep: 15,
} as const;
/** Rows named by i32 indices: out[o, j] = x[o, indices[j]], rows of `bytes` bytes; `from` is 64 bits wide. */
export const selectWord = {
  from: 0,
  to: 2,
  indices: 3,
  m: 4,
  n: 5,
  bytes: 6,
  rows: 7,
  rowsPerChunk: 8,
} as const;
/** out[o, indices[j], i] += source[o, j, i] in f32: chunk = (o, columns). */
export const addWord = { source: 0, to: 1, indices: 2, m: 3, n: 4, inner: 5, blocks: 6 } as const;
export const addColumns = 256;

/** Tasks `copyRuns`, `copyElements1`, `copyElements2`, `copyElements4`, `selectRows` (and `selectStoreRows`) and `addRows`. */
export function copyModule(memory: MemoryShape): ModuleBuilder {
  const m = new ModuleBuilder(memory);
  copyTask(m, 'copyRuns', null);
  for (const width of [1, 2, 4] as const) copyTask(m, `copyElements${width}`, width);
  selectRows(m, 'selectRows', false);
  if (memory.storePages) {
    m.importStore();
    selectRows(m, 'selectStoreRows', true);
  }
  addRows(m);
  return m;
}

const element = {
  1: (to: I32, from: I32) => store.i8(to, i32.load8u(from)),
  2: (to: I32, from: I32) => store.i16(to, i32.load16u(from)),
  4: (to: I32, from: I32) => store.i32(to, i32.load(from)),
};

function copyTask(m: ModuleBuilder, name: string, width: 1 | 2 | 4 | null): void {
  m.task(name, (f, args, chunk) => {
    const word = (at: number) => f.int(argument(args, at));
    const [size1, size2, perChunk] = [word(copyWord.size1), word(copyWord.size2), word(copyWord.rowsPerChunk)];
    const row = f.int(i32.mul(chunk, perChunk));
    const end = f.int(i32.min(word(copyWord.rows), i32.add(row, perChunk)));
    const strides = (base: number) => [0, 1, 2].map((axis) => f.int(argument(args, base + axis)));
    const [fromStrides, toStrides] = [strides(copyWord.fromStride), strides(copyWord.toStride)];
    f.while(row, end, 1, () => {
      const outer = f.int(i32.divU(row, size2));
      const index = [f.int(i32.divU(outer, size1)), f.int(i32.remU(outer, size1)), f.int(i32.remU(row, size2))];
      const place = (base: number, by: I32[]) =>
        index.reduce<I32>((sum, i, axis) => i32.add(sum, i32.mul(i, by[axis]!)), argument(args, base));
      const [from, to] = [f.int(place(copyWord.from, fromStrides)), f.int(place(copyWord.to, toStrides))];
      if (width === null) {
        f.copy(to, from, argument(args, copyWord.bytes));
        return;
      }
      const [fromStep, toStep] = [f.int(argument(args, copyWord.fromStep)), f.int(argument(args, copyWord.toStep))];
      f.for(0, argument(args, copyWord.count), 1, () => {
        f.emit(element[width](to, from));
        f.increase(to, toStep);
        f.increase(from, fromStep);
      });
    });
  });
}

function selectRows(m: ModuleBuilder, name: string, far: boolean): void {
  m.task(name, (f, args, chunk) => {
    const word = (key: keyof typeof selectWord) => f.int(argument(args, selectWord[key]));
    const [count, n, bytes, perChunk] = [word('m'), word('n'), word('bytes'), word('rowsPerChunk')];
    const row = f.int(i32.mul(chunk, perChunk));
    const end = f.int(i32.min(word('rows'), i32.add(row, perChunk)));
    f.while(row, end, 1, () => {
      const index = i32.load(i32.add(argument(args, selectWord.indices), i32.shl(i32.remU(row, count), 2)));
      const source = i32.add(i32.mul(i32.divU(row, count), n), index);
      const to = i32.add(argument(args, selectWord.to), i32.mul(row, bytes));
      const offset = i32.mul(source, bytes);
      if (far) f.copyFromStore(to, moved(i64.load(args, selectWord.from * 4), offset), bytes);
      else f.copy(to, moved(argument(args, selectWord.from), offset), bytes);
    });
  });
}

function addRows(m: ModuleBuilder): void {
  m.task('addRows', (f, args, chunk) => {
    const word = (key: keyof typeof addWord) => f.int(argument(args, addWord[key]));
    const [count, n, inner, blocks] = [word('m'), word('n'), word('inner'), word('blocks')];
    const outer = f.int(i32.divU(chunk, blocks));
    const column = f.int(i32.mul(i32.remU(chunk, blocks), addColumns));
    const width = f.int(i32.min(addColumns, i32.sub(inner, column)));
    const place = (base: I32, row: I32) => i32.add(base, i32.shl(i32.add(i32.mul(row, inner), column), 2));
    f.for(0, n, 1, (i) =>
      f.fill(place(argument(args, addWord.to), i32.add(i32.mul(outer, n), i)), 0, i32.shl(width, 2)),
    );
    f.for(0, count, 1, (j) => {
      const index = i32.load(i32.add(argument(args, addWord.indices), i32.shl(j, 2)));
      const to = f.int(place(argument(args, addWord.to), i32.add(i32.mul(outer, n), index)));
      const from = f.int(place(argument(args, addWord.source), i32.add(i32.mul(outer, count), j)));
      f.for(0, width, 1, () => {
        f.emit(store.f32(to, f32Sum(to, from)));
        f.increase(to, 4);
        f.increase(from, 4);
      });
    });
  });
}

const f32Sum = (a: I32, b: I32) => f32.add(f32.load(a), f32.load(b));
