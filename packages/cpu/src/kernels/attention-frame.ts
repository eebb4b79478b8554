/** What the attention tasks share: argument words, places in scratch, and the walk over visible blocks. */
import { argument, type FunctionBuilder, type Local } from '../assembler.ts';
import { type I32, i32 } from '../instructions.ts';
import type { Blocks } from './attention-blocks.ts';

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

/** Operands with a row stride. */
type Source = 'q' | 'k' | 'v' | 'grad';

/** A block of rows of one side, in locals. */
export type Block = Readonly<Record<'row' | 'rows' | 'start' | 'other' | 'queries' | 'keys', IntLocal>>;

/** The other side of a product: `count` rows of `from` at `row`, for the block's `rows`. */
interface OtherSide {
  readonly from: Source;
  readonly row: I32;
  readonly head: I32;
  readonly count: IntLocal;
  readonly rows: IntLocal;
}

interface ScoreBlock extends OtherSide {
  readonly by: 'first' | 'second';
  readonly to: 'scores' | 'gradients';
}

interface WeighBlock extends OtherSide {
  readonly scores: 'scores' | 'gradients';
  readonly to: 'result' | 'result2';
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
export class Frame {
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
  head(base: Source, row: I32, head: I32): I32 {
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

  block(index: I32): Block {
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

  /** `to` = rows in scratch (`by`) x transposed rows of an operand: a block of scores. */
  scores({ packColumnsAsRows, multiply }: Blocks, o: ScoreBlock): void {
    const { f, e } = this;
    const stride = this.word(`${o.from}Stride`);
    f.call(packColumnsAsRows, this.head(o.from, o.row, o.head), stride, o.count, e, this.at('columns'));
    f.fill(this.at(o.to), 0, i32.mul(o.rows, stepBytes));
    f.call(multiply, this.at(o.by), this.at('columns'), this.at(o.to), stepBytes, o.rows, o.count, e, this.at('tile'));
  }

  /** `to` += a block of scores x rows of an operand. */
  weigh({ packRows, packColumns, multiply }: Blocks, o: WeighBlock): void {
    const { f, e, rowBytes } = this;
    const stride = this.word(`${o.from}Stride`);
    f.call(packRows, this.at(o.scores), stepBytes, o.rows, o.count, this.at('packed'));
    f.call(packColumns, this.head(o.from, o.row, o.head), stride, e, o.count, this.at('columns'));
    f.call(
      multiply,
      this.at('packed'),
      this.at('columns'),
      this.at(o.to),
      rowBytes,
      o.rows,
      e,
      o.count,
      this.at('tile'),
    );
  }

  /** Packs a block's rows of an operand. */
  packBlock({ packRows }: Blocks, from: Source, block: Block, head: I32, to: 'first' | 'second'): void {
    this.f.call(
      packRows,
      this.head(from, block.row, head),
      this.word(`${from}Stride`),
      block.rows,
      this.e,
      this.at(to),
    );
  }
}

/** value limited to 0 .. limit. */
export function clamp(f: FunctionBuilder, value: I32, limit: I32): IntLocal {
  const result = f.int(value);
  f.if(i32.ltS(result, 0), () => f.setInt(result, 0));
  f.if(i32.gtS(result, limit), () => f.set(result, f.int(limit)));
  return result;
}

export const stepBytes = blockSteps * 4;

/** Visits the key blocks that a block of queries sees; `visit` gets the first key and the count. */
export function overKeys(frame: Frame, block: Block, visit: (key: IntLocal, count: IntLocal) => void): void {
  const { f } = frame;
  const first = frame.visibleKeys(block.start, block.queries, block.keys).low;
  const end = frame.visibleKeys(i32.sub(i32.add(block.start, block.rows), 1), block.queries, block.keys).high;
  const key = f.int(i32.sub(first, i32.remU(first, blockSteps)));
  f.while(key, end, blockSteps, () => visit(key, f.int(i32.min(blockSteps, i32.sub(end, key)))));
}

/** Calls `visit` for each row of the query block with its visible part of the key block. */
export function overRows(
  frame: Frame,
  block: Block,
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

/** Scratch rows to a dense [rows, heads, e] result. */
export function copyOut(
  frame: Frame,
  to: 'dq' | 'dk' | 'dv',
  from: 'result' | 'result2',
  block: Block,
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
