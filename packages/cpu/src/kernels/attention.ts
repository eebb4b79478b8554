/**
 * Attention over padding-free sequences in flash style (Dao et al. 2022): blocks of scores live in a thread's scratch,
 * never the whole matrix. Forward and dq: a task is (block of queries, head). dk and dv: (block of keys, key-value head),
 * over the group's query heads in order, so every sum has one order.
 */
import { argument, type FunctionBuilder, type Local, type MemoryShape, ModuleBuilder } from '../assembler.ts';
import { f32, f32x4, type I32, i32, store } from '../instructions.ts';
import { addBlocks, type Blocks } from './attention-blocks.ts';
import { addRowFunctions, type RowFunctions } from './attention-rows.ts';
import type { Features } from './lanes.ts';
import { vectorMath } from './math.ts';
import type { Tile } from './micro.ts';
import { accumulators, rowLoop, rowTask, total, walk } from './row-loop.ts';

/** Rows of a task's block, and the step along the other side. Constants of this version: they order the sums. */
export const blockRows = 48;
export const blockSteps = 64;
export const maxHeadWidth = 256;

export const attentionWord = {
  q: 0,
  qStride: 1,
  k: 2,
  kStride: 3,
  v: 4,
  vStride: 5,
  out: 6,
  lse: 7,
  t: 8,
  heads: 9,
  groupSize: 10,
  e: 11,
  scale: 12,
  window: 13,
  causal: 14,
  blocks: 15,
  blockCount: 16,
  grad: 17,
  gradStride: 18,
  delta: 19,
  dq: 20,
  dk: 21,
  dv: 22,
  kvHeads: 23,
} as const;
/** A block: first row in the batch, rows, first row in its sequence, first row of the other side, sequence lengths. */
export const blockWord = { row: 0, rows: 1, start: 2, other: 3, queries: 4, keys: 5, size: 6 } as const;

type IntLocal = Local<'i32'>;

/** Tasks `attention`, `attentionDelta`, `attentionGradQ` and `attentionGradKv`. */
export function attentionModule(memory: MemoryShape, features: Features, tile: Tile): ModuleBuilder {
  const m = new ModuleBuilder(memory);
  const blocks = addBlocks(m, features, tile);
  const rows = addRowFunctions(m, features);
  forward(m, features, blocks, rows);
  delta(m);
  gradQ(m, blocks, rows);
  gradKv(m, blocks, rows);
  return m;
}

/** Places in a thread's scratch, in floats. */
const place = (() => {
  const side = (blockRows + 16) * maxHeadWidth;
  const other = (blockSteps + 16) * maxHeadWidth;
  const scores = (blockRows + 16) * blockSteps;
  let at = 64;
  const take = (floats: number) => {
    const start = at;
    at += floats;
    return start * 4;
  };
  return {
    reduce: 0,
    first: take(side),
    second: take(side),
    columns: take(other),
    scores: take(scores),
    gradients: take(scores),
    packed: take(scores),
    result: take(side),
    result2: take(side),
    state: take(2 * blockRows),
    tile: take(256),
  };
})();

/** What all tasks read at their start. */
class Frame {
  readonly f: FunctionBuilder;
  readonly args: IntLocal;
  readonly scratch: IntLocal;
  readonly e: IntLocal;
  readonly rowBytes: IntLocal;

  constructor(f: FunctionBuilder, args: IntLocal, scratch: IntLocal) {
    this.f = f;
    this.args = args;
    this.scratch = scratch;
    this.e = f.int(this.word('e'));
    this.rowBytes = f.int(i32.shl(this.e, 2));
  }

  word(name: keyof typeof attentionWord): IntLocal {
    return this.f.hoist(argument(this.args, attentionWord[name]));
  }

  at(name: keyof typeof place): I32 {
    return this.f.hoist(i32.add(this.scratch, place[name]));
  }

  /** Address of a token's head in an operand [rows, heads, e] with a row stride. */
  head(base: 'q' | 'k' | 'v' | 'grad', row: I32, head: I32): I32 {
    const stride = this.word(`${base}Stride`);
    return i32.add(i32.add(this.word(base), i32.mul(row, stride)), i32.mul(head, this.rowBytes));
  }

  /** The keys query `index` of its sequence sees, counted in its sequence: low .. high. */
  visibleKeys(index: I32, queries: IntLocal, keys: IntLocal): { low: IntLocal; high: IntLocal } {
    const { f } = this;
    const last = i32.add(i32.add(i32.sub(keys, queries), index), 1);
    const high = f.int(i32.select(this.word('causal'), last, keys));
    const low = f.int(i32.sub(high, this.word('window')));
    f.if(i32.ltS(low, 0), () => f.setInt(low, 0));
    return { low, high };
  }

  block(index: I32): Record<'row' | 'rows' | 'start' | 'other' | 'queries' | 'keys', IntLocal> {
    const at = this.f.int(i32.add(this.word('blocks'), i32.mul(index, blockWord.size * 4)));
    const get = (name: keyof typeof blockWord) => this.f.int(argument(at, blockWord[name]));
    return {
      row: get('row'),
      rows: get('rows'),
      start: get('start'),
      other: get('other'),
      queries: get('queries'),
      keys: get('keys'),
    };
  }
}

/** value limited to 0 .. limit. */
function clamp(f: FunctionBuilder, value: I32, limit: I32): IntLocal {
  const result = f.int(value);
  f.if(i32.ltS(result, 0), () => f.setInt(result, 0));
  f.if(i32.gtS(result, limit), () => f.set(result, f.int(limit)));
  return result;
}

const stepBytes = blockSteps * 4;

/** Visits the key blocks that a block of queries sees; `visit` gets the first key and the count. */
function overKeys(
  frame: Frame,
  block: ReturnType<Frame['block']>,
  visit: (key: IntLocal, count: IntLocal) => void,
): void {
  const { f } = frame;
  const first = frame.visibleKeys(block.start, block.queries, block.keys).low;
  const end = frame.visibleKeys(i32.sub(i32.add(block.start, block.rows), 1), block.queries, block.keys).high;
  const key = f.int(i32.sub(first, i32.remU(first, blockSteps)));
  f.while(key, end, blockSteps, () => visit(key, f.int(i32.min(blockSteps, i32.sub(end, key)))));
}

/** Calls `visit` for each row of the query block with its visible part of the key block. */
function overRows(
  frame: Frame,
  block: ReturnType<Frame['block']>,
  key: IntLocal,
  count: IntLocal,
  visit: (row: IntLocal, low: I32, high: I32) => void,
): void {
  const { f } = frame;
  f.for(0, block.rows, 1, (row) => {
    const seen = frame.visibleKeys(i32.add(block.start, row), block.queries, block.keys);
    visit(row, clamp(f, i32.sub(seen.low, key), count), clamp(f, i32.sub(seen.high, key), count));
  });
}

function forward(
  m: ModuleBuilder,
  features: Features,
  { packRows, packColumnsAsRows, packColumns, multiply }: Blocks,
  { soften }: RowFunctions,
): void {
  m.task('attention', (f, args, chunk, scratch) => {
    const frame = new Frame(f, args, scratch);
    const { e, rowBytes } = frame;
    const head = f.int(i32.divU(chunk, frame.word('blockCount')));
    const block = frame.block(i32.remU(chunk, frame.word('blockCount')));
    const kvHead = f.int(i32.divU(head, frame.word('groupSize')));
    f.call(packRows, frame.head('q', block.row, head), frame.word('qStride'), block.rows, e, frame.at('first'));
    f.fill(frame.at('result'), 0, i32.mul(block.rows, rowBytes));
    f.for(0, block.rows, 1, (row) => {
      const state = i32.add(frame.at('state'), i32.shl(row, 3));
      f.emit(store.f32(state, f32.const(Number.NEGATIVE_INFINITY)));
      f.emit(store.f32(state, f32.const(0), 4));
    });
    overKeys(frame, block, (key, count) => {
      const keyRow = f.int(i32.add(block.other, key));
      f.call(packColumnsAsRows, frame.head('k', keyRow, kvHead), frame.word('kStride'), count, e, frame.at('columns'));
      f.fill(frame.at('scores'), 0, i32.mul(block.rows, stepBytes));
      f.call(
        multiply,
        frame.at('first'),
        frame.at('columns'),
        frame.at('scores'),
        stepBytes,
        block.rows,
        count,
        e,
        frame.at('tile'),
      );
      overRows(frame, block, key, count, (row, low, high) => {
        const scores = i32.add(frame.at('scores'), i32.mul(row, stepBytes));
        const state = i32.add(frame.at('state'), i32.shl(row, 3));
        const out = i32.add(frame.at('result'), i32.mul(row, rowBytes));
        f.call(soften, scores, low, high, count, state, out, e, frame.word('scale'), frame.at('reduce'));
      });
      f.call(packRows, frame.at('scores'), stepBytes, block.rows, count, frame.at('packed'));
      f.call(packColumns, frame.head('v', keyRow, kvHead), frame.word('vStride'), e, count, frame.at('columns'));
      f.call(
        multiply,
        frame.at('packed'),
        frame.at('columns'),
        frame.at('result'),
        rowBytes,
        block.rows,
        e,
        count,
        frame.at('tile'),
      );
    });
    finish(frame, features, block, head);
  });
}

/** out = result / sum, lse = maximum + log(sum). */
function finish(frame: Frame, features: Features, block: ReturnType<Frame['block']>, head: IntLocal): void {
  const { f, e, rowBytes } = frame;
  f.for(0, block.rows, 1, (row) => {
    const state = f.int(i32.add(frame.at('state'), i32.shl(row, 3)));
    const sum = f.vector(f32x4.splat(f32.load(state, 4)));
    const token = f.int(i32.add(block.row, row));
    const result = walk(f, i32.add(frame.at('result'), i32.mul(row, rowBytes)));
    const outRow = i32.add(i32.mul(token, frame.word('heads')), head);
    const out = walk(f, i32.add(frame.word('out'), i32.mul(outRow, rowBytes)));
    rowLoop(f, e, [result, out], ({ load }) => [[out, f32x4.div(load(result), sum)]]);
    const log = f32x4.extract(vectorMath(f, features).log(sum), 0);
    const to = i32.add(frame.word('lse'), i32.shl(i32.add(i32.mul(head, frame.word('t')), token), 2));
    f.emit(store.f32(to, f32.add(f32.load(state), log)));
  });
}

/** delta[h, t] = sum of grad * out over a head; rows are (token, head). Words: grad, out, delta, heads, t. */
function delta(m: ModuleBuilder): void {
  rowTask(m, 'attentionDelta', ({ f, row, n, rowAt, word, scratch }) => {
    const [a, b] = [walk(f, rowAt(0)), walk(f, rowAt(1))];
    const zero = f.hoist(f32x4.const(0));
    const sums = accumulators(f, zero);
    rowLoop(f, n, [a, b], ({ half, load, only }) => {
      f.set(sums[half]!, f32x4.add(sums[half]!, only(f32x4.mul(load(a), load(b)), zero)));
      return [];
    });
    const at = i32.add(i32.mul(i32.remU(row, word(3)), word(4)), i32.divU(row, word(3)));
    f.emit(store.f32(i32.add(word(2), i32.shl(at, 2)), total(f, sums, scratch)));
  });
}

function gradQ(
  m: ModuleBuilder,
  { packRows, packColumnsAsRows, packColumns, multiply }: Blocks,
  { gradOfRow }: RowFunctions,
): void {
  m.task('attentionGradQ', (f, args, chunk, scratch) => {
    const frame = new Frame(f, args, scratch);
    const { e, rowBytes } = frame;
    const head = f.int(i32.divU(chunk, frame.word('blockCount')));
    const block = frame.block(i32.remU(chunk, frame.word('blockCount')));
    const kvHead = f.int(i32.divU(head, frame.word('groupSize')));
    f.call(packRows, frame.head('q', block.row, head), frame.word('qStride'), block.rows, e, frame.at('first'));
    f.call(packRows, frame.head('grad', block.row, head), frame.word('gradStride'), block.rows, e, frame.at('second'));
    f.fill(frame.at('result'), 0, i32.mul(block.rows, rowBytes));
    overKeys(frame, block, (key, count) => {
      const keyRow = f.int(i32.add(block.other, key));
      const product = (from: 'k' | 'v', with_: 'first' | 'second', to: 'scores' | 'gradients') => {
        f.call(
          packColumnsAsRows,
          frame.head(from, keyRow, kvHead),
          frame.word(`${from}Stride`),
          count,
          e,
          frame.at('columns'),
        );
        f.fill(frame.at(to), 0, i32.mul(block.rows, stepBytes));
        f.call(
          multiply,
          frame.at(with_),
          frame.at('columns'),
          frame.at(to),
          stepBytes,
          block.rows,
          count,
          e,
          frame.at('tile'),
        );
      };
      product('k', 'first', 'scores');
      product('v', 'second', 'gradients');
      overRows(frame, block, key, count, (row, low, high) => {
        const offset = f.int(i32.mul(row, stepBytes));
        const token = i32.add(i32.mul(head, frame.word('t')), i32.add(block.row, row));
        const at = f.int(i32.shl(token, 2));
        const [scores, dp] = [i32.add(frame.at('scores'), offset), i32.add(frame.at('gradients'), offset)];
        f.call(
          gradOfRow,
          scores,
          dp,
          low,
          high,
          count,
          i32.add(frame.word('lse'), at),
          i32.add(frame.word('delta'), at),
          frame.word('scale'),
        );
      });
      f.call(packRows, frame.at('gradients'), stepBytes, block.rows, count, frame.at('packed'));
      f.call(packColumns, frame.head('k', keyRow, kvHead), frame.word('kStride'), e, count, frame.at('columns'));
      f.call(
        multiply,
        frame.at('packed'),
        frame.at('columns'),
        frame.at('result'),
        rowBytes,
        block.rows,
        e,
        count,
        frame.at('tile'),
      );
    });
    copyOut(frame, 'dq', 'result', block, frame.word('heads'), head);
  });
}

/** Scratch rows to a dense [rows, heads, e] result. */
function copyOut(
  frame: Frame,
  to: 'dq' | 'dk' | 'dv',
  from: 'result' | 'result2',
  block: ReturnType<Frame['block']>,
  heads: I32,
  head: I32,
): void {
  const { f, rowBytes } = frame;
  f.for(0, block.rows, 1, (row) => {
    const place = i32.add(i32.mul(i32.add(block.row, row), heads), head);
    f.copy(
      i32.add(frame.word(to), i32.mul(place, rowBytes)),
      i32.add(frame.at(from), i32.mul(row, rowBytes)),
      rowBytes,
    );
  });
}

/** The queries that see key `index`, counted in its sequence: low .. high. */
function seeingQueries(frame: Frame, index: I32, block: ReturnType<Frame['block']>): { low: IntLocal; high: IntLocal } {
  const { f } = frame;
  const [low, high] = [f.int(0), f.int(block.queries)];
  const shift = f.int(i32.sub(block.keys, block.queries));
  f.if(
    frame.word('causal'),
    () => {
      f.set(low, i32.sub(index, shift));
      f.set(high, i32.add(i32.sub(index, shift), frame.word('window')));
    },
    () => f.if(i32.ltS(index, i32.sub(block.keys, frame.word('window'))), () => f.setInt(high, 0)),
  );
  return { low: clamp(f, low, block.queries), high: clamp(f, high, block.queries) };
}

function gradKv(
  m: ModuleBuilder,
  { packRows, packColumnsAsRows, packColumns, multiply }: Blocks,
  { gradOfColumn }: RowFunctions,
): void {
  m.task('attentionGradKv', (f, args, chunk, scratch) => {
    const frame = new Frame(f, args, scratch);
    const { e, rowBytes } = frame;
    const kvHead = f.int(i32.divU(chunk, frame.word('blockCount')));
    const block = frame.block(i32.remU(chunk, frame.word('blockCount')));
    f.call(packRows, frame.head('k', block.row, kvHead), frame.word('kStride'), block.rows, e, frame.at('first'));
    f.call(packRows, frame.head('v', block.row, kvHead), frame.word('vStride'), block.rows, e, frame.at('second'));
    f.fill(frame.at('result'), 0, i32.mul(block.rows, rowBytes));
    f.fill(frame.at('result2'), 0, i32.mul(block.rows, rowBytes));
    const head = f.int(i32.mul(kvHead, frame.word('groupSize')));
    const headEnd = f.int(i32.add(head, frame.word('groupSize')));
    const seenFirst = seeingQueries(frame, block.start, block);
    const seenLast = seeingQueries(frame, i32.sub(i32.add(block.start, block.rows), 1), block);
    f.while(head, headEnd, 1, () => {
      const query = f.int(i32.sub(seenFirst.low, i32.remU(seenFirst.low, blockSteps)));
      const end = f.int(i32.select(i32.gtS(seenLast.high, seenFirst.high), seenLast.high, seenFirst.high));
      f.while(query, end, blockSteps, () => {
        const count = f.int(i32.min(blockSteps, i32.sub(end, query)));
        const token = f.int(i32.add(block.other, query));
        const product = (from: 'q' | 'grad', with_: 'first' | 'second', to: 'scores' | 'gradients') => {
          f.call(
            packColumnsAsRows,
            frame.head(from, token, head),
            frame.word(`${from}Stride`),
            count,
            e,
            frame.at('columns'),
          );
          f.fill(frame.at(to), 0, i32.mul(block.rows, stepBytes));
          f.call(
            multiply,
            frame.at(with_),
            frame.at('columns'),
            frame.at(to),
            stepBytes,
            block.rows,
            count,
            e,
            frame.at('tile'),
          );
        };
        product('q', 'first', 'scores');
        product('grad', 'second', 'gradients');
        const at = f.int(i32.shl(i32.add(i32.mul(head, frame.word('t')), token), 2));
        f.for(0, block.rows, 1, (row) => {
          const seen = seeingQueries(frame, i32.add(block.start, row), block);
          const [low, high] = [clamp(f, i32.sub(seen.low, query), count), clamp(f, i32.sub(seen.high, query), count)];
          const offset = f.int(i32.mul(row, stepBytes));
          const [scores, dp] = [i32.add(frame.at('scores'), offset), i32.add(frame.at('gradients'), offset)];
          f.call(
            gradOfColumn,
            scores,
            dp,
            low,
            high,
            count,
            i32.add(frame.word('lse'), at),
            i32.add(frame.word('delta'), at),
            frame.word('scale'),
          );
        });
        const accumulate = (rows: 'scores' | 'gradients', from: 'q' | 'grad', to: 'result' | 'result2') => {
          f.call(packRows, frame.at(rows), stepBytes, block.rows, count, frame.at('packed'));
          f.call(
            packColumns,
            frame.head(from, token, head),
            frame.word(`${from}Stride`),
            e,
            count,
            frame.at('columns'),
          );
          f.call(
            multiply,
            frame.at('packed'),
            frame.at('columns'),
            frame.at(to),
            rowBytes,
            block.rows,
            e,
            count,
            frame.at('tile'),
          );
        };
        accumulate('gradients', 'q', 'result');
        accumulate('scores', 'grad', 'result2');
      });
    });
    copyOut(frame, 'dk', 'result', block, frame.word('kvHeads'), kvHead);
    copyOut(frame, 'dv', 'result2', block, frame.word('kvHeads'), kvHead);
  });
}
