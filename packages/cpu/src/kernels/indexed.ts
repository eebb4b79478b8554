/** Rows and elements that i32 indices name: read from their places, or added up there. Indices are checked before. */
import { argument, type FunctionBuilder, type Local, type MemoryShape, ModuleBuilder, moved } from '../assembler.ts';
import { f32, f32x4, type I32, i32, i64, store } from '../instructions.ts';
import { moveElement } from './copy.ts';
import { rowLoop, walk } from './row-loop.ts';

/** out[o, j] = x[o, indices[j]], rows of `bytes` bytes; `from` is 64 bits wide. */
export const selectWord = { from: 0, to: 2, indices: 3, m: 4, n: 5, bytes: 6, rows: 7, rowsPerChunk: 8 } as const;
/**
 * out[o, index of group, i] += source[o, j, i] in f32 for the j of each group in their order. `order` lists all j group by
 * group, `starts` where each group's part of it begins, its end included. Chunk = (o, groups, columns).
 */
export const addWord = {
  source: 0,
  to: 1,
  indices: 2,
  order: 3,
  starts: 4,
  groups: 5,
  groupsPerChunk: 6,
  m: 7,
  n: 8,
  inner: 9,
  columnBlocks: 10,
  groupBlocks: 11,
} as const;
export const addColumns = 2048;
/** Elements [outer, m, inner], each with an index of its own along the n of the larger tensor. */
export const elementWord = {
  small: 0,
  large: 1,
  indices: 2,
  m: 3,
  n: 4,
  inner: 5,
  rows: 6,
  perChunk: 7,
  columnBlocks: 8,
} as const;
export const scatterColumns = 64;

/** Tasks `selectRows` (and `selectStoreRows`), `addRows`, `zeros`, `gather1`, `gather2`, `gather4` and `scatterAdd`. */
export function indexedModule(memory: MemoryShape): ModuleBuilder {
  const m = new ModuleBuilder(memory);
  if (memory.storePages) m.importStore();
  selectRows(m, 'selectRows', false);
  if (memory.storePages) selectRows(m, 'selectStoreRows', true);
  zeros(m);
  addRows(m);
  for (const width of [1, 2, 4] as const) gather(m, width);
  scatterAdd(m);
  return m;
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

/** Words: address, bytes, bytes a chunk. */
function zeros(m: ModuleBuilder): void {
  m.task('zeros', (f, args, chunk) => {
    const perChunk = f.int(argument(args, 2));
    const start = f.int(i32.mul(chunk, perChunk));
    const rest = f.int(i32.sub(argument(args, 1), start));
    f.fill(i32.add(argument(args, 0), start), 0, i32.select(i32.ltU(rest, perChunk), rest, perChunk));
  });
}

function addRows(m: ModuleBuilder): void {
  m.task('addRows', (f, args, chunk) => {
    const word = (key: keyof typeof addWord) => f.int(argument(args, addWord[key]));
    const [inner, columnBlocks, groupBlocks, perChunk] = [
      word('inner'),
      word('columnBlocks'),
      word('groupBlocks'),
      word('groupsPerChunk'),
    ];
    const cell = f.int(i32.divU(chunk, columnBlocks));
    const column = f.int(i32.mul(i32.remU(chunk, columnBlocks), addColumns));
    const width = f.int(i32.min(addColumns, i32.sub(inner, column)));
    const outer = f.int(i32.divU(cell, groupBlocks));
    const group = f.int(i32.mul(i32.remU(cell, groupBlocks), perChunk));
    const end = f.int(i32.min(word('groups'), i32.add(group, perChunk)));
    const entry = (list: keyof typeof addWord, at: I32, offset = 0) =>
      i32.load(i32.add(argument(args, addWord[list]), i32.shl(at, 2)), offset);
    const place = (base: keyof typeof addWord, rows: keyof typeof addWord, row: I32) => {
      const line = i32.add(i32.mul(outer, argument(args, addWord[rows])), row);
      return f.int(i32.add(argument(args, addWord[base]), i32.shl(i32.add(i32.mul(line, inner), column), 2)));
    };
    f.while(group, end, 1, () => {
      const k = f.int(entry('starts', group));
      const stop = f.int(entry('starts', group, 4));
      const to = place('to', 'n', entry('indices', f.int(entry('order', k))));
      f.while(k, stop, 1, () => addTo(f, to, place('source', 'm', entry('order', k)), width));
    });
  });
}

/** to[..width] += from[..width]. */
function addTo(f: FunctionBuilder, to: I32, from: I32, width: I32): void {
  const [sum, more] = [walk(f, to), walk(f, from)];
  rowLoop(f, width, [sum, more], ({ load }) => [[sum, f32x4.add(load(sum), load(more))]]);
}

type ElementWord = (key: keyof typeof elementWord) => Local<'i32'>;

/** Address of the element of the larger tensor that the index at `indices` names, `first` elements into it. */
const named = (word: ElementWord, indices: I32, inner: I32, first: I32, shift: number) =>
  i32.add(word('large'), i32.shl(i32.add(i32.mul(i32.load(indices), inner), first), shift));

/** out[o, j, i] = x[o, indices[o, j, i], i]; chunk = rows (o, j). */
function gather(m: ModuleBuilder, width: 1 | 2 | 4): void {
  m.task(`gather${width}`, (f, args, chunk) => {
    const word: ElementWord = (key) => f.hoist(argument(args, elementWord[key]));
    const inner = word('inner');
    const row = f.int(i32.mul(chunk, word('perChunk')));
    const end = f.int(i32.min(word('rows'), i32.add(row, word('perChunk'))));
    const start = f.int(i32.mul(row, inner));
    const indices = f.int(i32.add(word('indices'), i32.shl(start, 2)));
    const to = f.int(i32.add(word('small'), i32.shl(start, Math.log2(width))));
    const slab = f.int(i32.mul(word('n'), inner));
    const [outer, j] = [f.int(i32.divU(row, word('m'))), f.int(i32.remU(row, word('m')))];
    const first = f.int(i32.mul(outer, slab));
    f.while(row, end, 1, () => {
      f.for(0, inner, 1, (i) => {
        f.emit(moveElement[width](to, named(word, indices, inner, i32.add(first, i), Math.log2(width))));
        f.increase(to, width);
        f.increase(indices, 4);
      });
      f.increase(j, 1);
      f.if(i32.eq(j, word('m')), () => {
        f.setInt(j, 0);
        f.increase(first, slab);
      });
    });
  });
}

/** out[o, indices[o, j, i], i] += source[o, j, i] in f32, from zeros, in order of j; chunk = (o, columns). */
function scatterAdd(m: ModuleBuilder): void {
  m.task('scatterAdd', (f, args, chunk) => {
    const word: ElementWord = (key) => f.hoist(argument(args, elementWord[key]));
    const inner = word('inner');
    const outer = f.int(i32.divU(chunk, word('columnBlocks')));
    const column = f.int(i32.mul(i32.remU(chunk, word('columnBlocks')), scatterColumns));
    const end = f.int(i32.min(inner, i32.add(column, scatterColumns)));
    const first = f.int(i32.mul(outer, i32.mul(word('n'), inner)));
    const start = f.int(i32.add(i32.mul(outer, i32.mul(word('m'), inner)), column));
    const indices = f.int(i32.add(word('indices'), i32.shl(start, 2)));
    const from = f.int(i32.add(word('small'), i32.shl(start, 2)));
    const skip = f.int(i32.shl(i32.sub(inner, i32.sub(end, column)), 2));
    f.for(0, word('m'), 1, () => {
      f.for(column, end, 1, (i) => {
        const to = f.int(named(word, indices, inner, i32.add(first, i), 2));
        f.emit(store.f32(to, f32.add(f32.load(to), f32.load(from))));
        f.increase(from, 4);
        f.increase(indices, 4);
      });
      f.increase(from, skip);
      f.increase(indices, skip);
    });
  });
}
