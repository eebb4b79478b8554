/** What the attention tasks share: argument words, places in scratch, and which keys a run of queries sees. */
import { argument, type FunctionBuilder, type FunctionRef, type Local } from '../assembler.ts';
import { type I32, type Int, i32 } from '../instructions.ts';
import {
  type Blocks,
  blockKeys,
  blockQueries,
  groupQueries,
  maxHeadWidth,
  rowBytes,
  scoreBytes,
} from './attention-blocks.ts';

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
  /** Blocks of queries, or spans; and how many. */
  blocks: 15,
  blockCount: 16,
  grad: 17,
  gradStride: 18,
  dq: 19,
  dk: 20,
  dv: 21,
  kvHeads: 22,
  /** Spans of a sequence, and bytes between their sums of dk and dv. */
  parts: 23,
  partBytes: 24,
} as const;
/** A block: first row in the batch, rows, first row in its sequence, first row of the keys, sequence lengths. */
export const blockWord = { row: 0, rows: 1, start: 2, other: 3, queries: 4, keys: 5, size: 6 } as const;

export type IntLocal = Local<'i32'>;

/** Operands with a row stride. */
type Source = 'q' | 'k' | 'v' | 'grad';

/** A block of queries, in locals. */
export type Block = Readonly<Record<Exclude<keyof typeof blockWord, 'size'>, IntLocal>>;

/** Bytes of a number for each query of a block. */
export const stateBytes = blockQueries * 4;

/** Places in a thread's scratch, in bytes. */
const place = (() => {
  // A tile of keys may reach past the last one, and so may the zeros around a group's keys.
  const slack = groupQueries;
  const panels = blockQueries * maxHeadWidth * 4;
  const scores = (blockKeys + slack) * scoreBytes;
  let at = 0;
  const take = (bytes: number) => {
    const start = at;
    at += Math.ceil(bytes / 64) * 64;
    return start;
  };
  return {
    reduce: take(256),
    panels: take(panels),
    gradPanels: take(panels),
    queries: take(blockQueries * rowBytes),
    grads: take(blockQueries * rowBytes),
    keys: take((blockKeys + slack) * rowBytes),
    values: take((blockKeys + slack) * rowBytes),
    scores: take(scores),
    gradients: take(scores),
    result: take(blockQueries * rowBytes),
    /** Maximum, sum and shrinking of the forward; shift and delta of the backward. */
    state: take(3 * stateBytes),
    tile: take(1024),
  };
})();

/** A block of keys: the first, how many, and where the keys end (from that first one) that the first query sees. */
export interface KeyBlock {
  readonly key: IntLocal;
  readonly count: IntLocal;
  readonly end: IntLocal;
}

/** A group of queries: the first and the last's distance, the keys of the block that any sees, and where the first's lie. */
export interface Group {
  readonly first: IntLocal;
  readonly last: IntLocal;
  readonly low: IntLocal;
  readonly high: IntLocal;
  readonly firstEnd: IntLocal;
}

/** A maximum before any key: finite, so that a query that sees nothing yet shrinks by 1, not by NaN. */
export const lowest = -3.4028234663852886e38;

/** What all tasks read at their start. */
export class Frame {
  readonly f: FunctionBuilder;
  readonly args: IntLocal;
  readonly scratch: IntLocal;
  readonly e: IntLocal;

  constructor(f: FunctionBuilder, args: IntLocal, scratch: IntLocal) {
    this.f = f;
    this.args = args;
    this.scratch = scratch;
    this.e = f.int(this.word('e'));
  }

  word(name: keyof typeof attentionWord): IntLocal {
    return this.f.hoist(argument(this.args, attentionWord[name]));
  }

  at(name: keyof typeof place): I32 {
    return this.f.hoist(i32.add(this.scratch, place[name]));
  }

  /** Address of a token's head in an operand [rows, heads, e] with a row stride. */
  head(base: Source, row: I32, head: I32): I32 {
    const offset = i32.shl(i32.mul(head, this.e), 2);
    return i32.add(i32.add(this.word(base), i32.mul(row, this.word(`${base}Stride`))), offset);
  }

  /** Address of a token's head in a dense [rows, heads, e]. */
  dense(base: 'out' | 'dq' | 'dk' | 'dv', row: I32, heads: I32, head: I32): I32 {
    return i32.add(this.word(base), i32.shl(i32.mul(i32.add(i32.mul(row, heads), head), this.e), 2));
  }

  /** Address of a token's log-sum-exp [heads, t]. */
  lse(row: I32, head: I32): I32 {
    return i32.add(this.word('lse'), i32.shl(i32.add(i32.mul(head, this.word('t')), row), 2));
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

  /** Visits the key blocks that a block of queries sees. */
  overKeys(block: Block, visit: (keys: KeyBlock) => void): void {
    const { f } = this;
    const causalEnd = i32.add(i32.add(i32.sub(block.keys, block.queries), block.start), 1);
    const firstEnd = f.int(i32.select(this.word('causal'), causalEnd, block.keys));
    const first = clamp(f, i32.sub(firstEnd, this.word('window')), block.keys);
    const end = f.int(i32.add(firstEnd, i32.mul(this.word('causal'), i32.sub(block.rows, 1))));
    const key = f.int(i32.sub(first, i32.remU(first, blockKeys)));
    f.while(key, end, blockKeys, () => {
      const count = f.int(i32.min(blockKeys, i32.sub(end, key)));
      visit({ key, count, end: f.int(i32.sub(firstEnd, key)) });
    });
  }

  /** The keys of a block that queries first .. first + last see, and where the first one's keys end. */
  #seen(keys: KeyBlock, first: IntLocal, last: IntLocal): Group {
    const { f } = this;
    const firstEnd = f.int(i32.add(keys.end, i32.mul(this.word('causal'), first)));
    const low = clamp(f, i32.sub(firstEnd, this.word('window')), keys.count);
    const high = clamp(f, i32.add(firstEnd, i32.mul(this.word('causal'), last)), keys.count);
    return { first, last, low, high, firstEnd };
  }

  /** Visits runs of at most `size` queries that see keys of the block; `always` comes after, for the others too. */
  overQueries(
    block: Block,
    keys: KeyBlock,
    size: number,
    visit: (group: Group) => void,
    always?: (group: Group) => void,
  ): void {
    const { f } = this;
    f.for(0, block.rows, size, (first) => {
      const last = f.int(i32.sub(i32.min(size, i32.sub(block.rows, first)), 1));
      const group = this.#seen(keys, first, last);
      f.if(i32.ltS(group.low, group.high), () => visit(group));
      always?.(group);
    });
  }

  /** Visits runs of `size` keys of the block with the queries that see any of them: first .. end. */
  overSeenKeys(
    block: Block,
    keys: KeyBlock,
    size: number,
    visit: (key: IntLocal, first: IntLocal, end: IntLocal) => void,
  ): void {
    const { f } = this;
    const causal = this.word('causal');
    f.for(0, keys.count, size, (key) => {
      const last = f.int(i32.sub(i32.min(i32.add(key, size), keys.count), 1));
      const lastEnd = f.int(i32.add(i32.add(i32.sub(last, keys.end), this.word('window')), 1));
      const all = i32.select(i32.gtS(lastEnd, 0), block.rows, 0);
      const first = clamp(f, i32.mul(causal, i32.add(i32.sub(key, keys.end), 1)), block.rows);
      const end = clamp(f, i32.select(causal, lastEnd, all), block.rows);
      f.if(i32.ltS(first, end), () => visit(key, first, end));
    });
  }

  /** Scores of a group become -infinity where a query does not see a key of low .. high. */
  hideUnseen(hide: FunctionRef, scores: I32, group: Group): void {
    const { f } = this;
    const firstLow = i32.sub(group.firstEnd, this.word('window'));
    const lastLow = i32.add(firstLow, i32.mul(this.word('causal'), group.last));
    const inside = i32.and(i32.leS(group.high, group.firstEnd), i32.geS(group.low, lastLow));
    f.if(i32.eqz(inside), () => f.call(hide, scores, group.low, group.high, group.firstEnd, firstLow, lastLow));
  }

  /** Zeros around a group's keys, where a tile of the register kernel reads for the sake of its neighbours. */
  clearAround(clear: FunctionRef, keys: KeyBlock, group: Group, of: readonly ('scores' | 'gradients')[]): void {
    const { f } = this;
    f.if(i32.or(i32.gtS(group.low, 0), i32.ltS(group.high, keys.count)), () => {
      for (const name of of) f.call(clear, this.column(name, group), group.low, group.high);
    });
  }

  /** result += transposed scores x rows of the block of keys. */
  weigh(blocks: Blocks, block: Block, keys: KeyBlock, scores: 'scores' | 'gradients', rows: 'keys' | 'values'): void {
    const { f, e } = this;
    this.overQueries(block, keys, blocks.tile.rows, ({ first, low, high }) => {
      const from = i32.add(i32.add(this.at(scores), i32.mul(low, scoreBytes)), i32.shl(first, 2));
      const other = i32.add(this.at(rows), i32.mul(low, rowBytes));
      const to = i32.add(this.at('result'), i32.mul(first, rowBytes));
      f.call(blocks.weighQueries, from, other, to, i32.sub(high, low), e);
    });
  }

  /** Address of a group's column of a block of scores. */
  column(of: 'scores' | 'gradients', { first }: Group): IntLocal {
    return this.f.int(i32.add(this.at(of), i32.shl(first, 2)));
  }

  /** Address of a group's part of one number for each query. */
  state(index: number, { first }: { readonly first: Int }): I32 {
    return i32.add(i32.add(this.at('state'), index * stateBytes), i32.shl(first, 2));
  }

  /** Address of a group's panels. */
  panels(of: 'panels' | 'gradPanels', { first }: Group): I32 {
    return i32.add(this.at(of), i32.shl(i32.mul(first, this.e), 2));
  }
}

/** value limited to 0 .. limit. */
export function clamp(f: FunctionBuilder, value: I32, limit: I32): IntLocal {
  const result = f.int(value);
  f.if(i32.ltS(result, 0), () => f.setInt(result, 0));
  f.if(i32.gtS(result, limit), () => f.set(result, f.int(limit)));
  return result;
}
