/** Copies between strided places: runs of bytes along the innermost axis, single elements where that axis has a stride. */
import { argument, type MemoryShape, ModuleBuilder } from '../assembler.ts';
import { type I32, i32, store } from '../instructions.ts';

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
/** Tasks `copyRuns`, `copyElements1`, `copyElements2` and `copyElements4`. */
export function copyModule(memory: MemoryShape): ModuleBuilder {
  const m = new ModuleBuilder(memory);
  copyTask(m, 'copyRuns', null);
  for (const width of [1, 2, 4] as const) copyTask(m, `copyElements${width}`, width);
  return m;
}

/** Statements that move one element of so many bytes. */
export const moveElement = {
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
        f.emit(moveElement[width](to, from));
        f.increase(to, toStep);
        f.increase(from, fromStep);
      });
    });
  });
}
