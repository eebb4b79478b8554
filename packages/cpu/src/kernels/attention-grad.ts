/**
 * The backward of attention, one pass: a task is (span, key-value head) and goes over its blocks of queries in order; dq of
 * a block is complete then, dk and dv grow in place. A sequence is one span where heads and sequences are many. Where they
 * are few it is cut into parts that take turns with the blocks; each part has sums of its own, which are added in order.
 */
import type { ModuleBuilder } from '../assembler.ts';
import { argument } from '../assembler.ts';
import { f32, f32x4, i32, store, v128 } from '../instructions.ts';
import { type Blocks, blockQueries, groupQueries, rowBytes, scoreBytes } from './attention-blocks.ts';
import { attentionWord, type Block, Frame, type Group, type IntLocal, type KeyBlock } from './attention-frame.ts';
import type { RowFunctions } from './attention-rows.ts';
import { rowLoop, walk } from './row-loop.ts';

/** Rows and lengths of a sequence, and which of its parts. */
export const spanWord = { row: 0, queries: 1, other: 2, keys: 3, part: 4, size: 5 } as const;
type Span = Readonly<Record<Exclude<keyof typeof spanWord, 'size'>, IntLocal>>;

/** Words of `attentionJoin`: elements, elements a chunk, the sums of the first part, bytes a part, parts, the result. */
export const joinWord = { count: 0, perChunk: 1, from: 2, partBytes: 3, parts: 4, to: 5 } as const;

/** Tasks `attentionGrad` and `attentionJoin`. */
export function addAttentionGrad(m: ModuleBuilder, blocks: Blocks, rows: RowFunctions): void {
  join(m);
  m.task('attentionGrad', (f, args, chunk, scratch) => {
    const frame = new Frame(f, args, scratch);
    const kvHeads = frame.word('kvHeads');
    const kvHead = f.int(i32.remU(chunk, kvHeads));
    const span = spanAt(frame, f.int(i32.divU(chunk, kvHeads)));
    const stride = f.int(i32.shl(i32.mul(kvHeads, frame.e), 2));
    const sums = (['dk', 'dv'] as const).map((name) => {
      const offset = i32.mul(span.part, frame.word('partBytes'));
      return f.int(i32.add(frame.dense(name, span.other, kvHeads, kvHead), offset));
    }) as [IntLocal, IntLocal];
    for (const sum of sums)
      f.for(0, span.keys, 1, (key) => f.fill(i32.add(sum, i32.mul(key, stride)), 0, i32.shl(frame.e, 2)));
    const perHead = f.int(i32.divU(i32.add(span.queries, blockQueries - 1), blockQueries));
    const turn = f.int(span.part);
    f.while(turn, f.int(i32.mul(perHead, frame.word('groupSize'))), frame.word('parts'), () => {
      const start = f.int(i32.mul(i32.remU(turn, perHead), blockQueries));
      const head = f.int(i32.add(i32.mul(kvHead, frame.word('groupSize')), i32.divU(turn, perHead)));
      const row = f.int(i32.add(span.row, start));
      const blockRows = f.int(i32.min(blockQueries, i32.sub(span.queries, start)));
      const block = { ...span, row, start, rows: blockRows };
      load(frame, blocks, rows, block, head);
      frame.overKeys(block, (keys) => visit(frame, { blocks, rows, block, keys, kvHead, sums, stride }));
      storeQueries(frame, block, head);
    });
  });
}

function spanAt(frame: Frame, index: IntLocal): Span {
  const { f } = frame;
  const at = f.int(i32.add(frame.word('blocks'), i32.mul(index, spanWord.size * 4)));
  const get = (name: keyof typeof spanWord) => f.int(argument(at, spanWord[name]));
  return { row: get('row'), queries: get('queries'), other: get('other'), keys: get('keys'), part: get('part') };
}

/** A block's queries and gradients to scratch, as rows and as panels; shifts -lse in base 2 and deltas to the state. */
function load(frame: Frame, blocks: Blocks, { delta }: RowFunctions, block: Block, head: IntLocal): void {
  const { f, e } = frame;
  const heads = frame.word('heads');
  const [queries, grads] = [frame.at('queries'), frame.at('grads')];
  const from = (name: 'q' | 'grad') => [frame.head(name, block.row, head), frame.word(`${name}Stride`)] as const;
  f.call(blocks.scaleRows, ...from('q'), block.rows, e, queries, frame.word('scale'));
  f.call(blocks.packQueries, queries, block.rows, e, frame.at('panels'));
  f.call(blocks.copyRows, ...from('grad'), block.rows, e, grads);
  f.call(blocks.packQueries, grads, block.rows, e, frame.at('gradPanels'));
  f.fill(frame.at('result'), 0, i32.mul(block.rows, rowBytes));
  const negative = f.hoist(f32.const(-Math.LOG2E));
  const lse = f.int(frame.lse(block.row, head));
  f.for(0, block.rows, 1, (first) => {
    const value = f32.mul(f32.load(i32.add(lse, i32.shl(first, 2))), negative);
    f.emit(store.f32(frame.state(0, { first }), value));
  });
  const out = frame.dense('out', block.row, heads, head);
  const outStride = i32.shl(i32.mul(heads, e), 2);
  f.call(delta, grads, out, outStride, block.rows, e, frame.state(1, { first: 0 }), frame.at('reduce'));
}

interface Visit {
  readonly blocks: Blocks;
  readonly rows: RowFunctions;
  readonly block: Block;
  readonly keys: KeyBlock;
  readonly kvHead: IntLocal;
  /** Where dk and dv of the span's first key lie. */
  readonly sums: readonly [dk: IntLocal, dv: IntLocal];
  readonly stride: IntLocal;
}

/** A block of keys against a block of queries: adds to dq in scratch, to dk and to dv. */
function visit(frame: Frame, { blocks, rows, block, keys, kvHead, sums, stride }: Visit): void {
  const { f, e } = frame;
  const row = f.int(i32.add(block.other, keys.key));
  const bring = (from: 'k' | 'v', to: 'keys' | 'values') =>
    f.call(blocks.copyRows, frame.head(from, row, kvHead), frame.word(`${from}Stride`), keys.count, e, frame.at(to));
  bring('k', 'keys');
  bring('v', 'values');
  frame.overQueries(
    block,
    keys,
    groupQueries,
    (group) => scoreGradients(frame, blocks, rows, group),
    (group) => frame.clearAround(rows.clearAround, keys, group, ['scores', 'gradients']),
  );
  frame.weigh(blocks, block, keys, 'gradients', 'keys');
  const { tile, weighKeys } = blocks;
  frame.overSeenKeys(block, keys, tile.rows, (key, first, end) => {
    const offset = f.int(i32.add(i32.mul(key, scoreBytes), i32.shl(first, 2)));
    const to = f.int(i32.mul(i32.add(keys.key, key), stride));
    const [count, left] = [f.int(i32.sub(end, first)), f.int(i32.sub(keys.count, key))];
    for (const [scores, source, sum] of [
      ['gradients', 'queries', sums[0]],
      ['scores', 'grads', sums[1]],
    ] as const) {
      const from = i32.add(frame.at(source), i32.mul(first, rowBytes));
      const at = i32.add(frame.at(scores), offset);
      f.call(weighKeys, at, from, i32.add(sum, to), stride, count, e, left, frame.at('tile'));
    }
  });
}

function scoreGradients(frame: Frame, { score }: Blocks, { hide, scoreGrad }: RowFunctions, group: Group): void {
  const { f, e } = frame;
  const { low, high } = group;
  const [scores, gradients] = [frame.column('scores', group), frame.column('gradients', group)];
  f.call(score, frame.at('keys'), frame.panels('panels', group), scores, low, high, e);
  f.call(score, frame.at('values'), frame.panels('gradPanels', group), gradients, low, high, e);
  frame.hideUnseen(hide, scores, group);
  f.call(scoreGrad, scores, gradients, low, high, frame.state(0, group));
}

/** dq of a block from scratch. */
function storeQueries(frame: Frame, block: Block, head: IntLocal): void {
  const { f, e } = frame;
  const scale = f.hoist(v128.load32Splat(frame.args, attentionWord.scale * 4));
  f.for(0, block.rows, 1, (first) => {
    const from = walk(f, i32.add(frame.at('result'), i32.mul(first, rowBytes)));
    const to = walk(f, frame.dense('dq', i32.add(block.row, first), frame.word('heads'), head));
    rowLoop(f, e, [from, to], ({ load: read }) => [[to, f32x4.mul(read(from), scale)]]);
  });
}

/** Adds the parts' sums in order. */
function join(m: ModuleBuilder): void {
  m.task('attentionJoin', (f, args, chunk) => {
    const word = (name: keyof typeof joinWord) => f.int(argument(args, joinWord[name]));
    const first = f.int(i32.mul(chunk, word('perChunk')));
    const count = f.int(i32.min(word('perChunk'), i32.sub(word('count'), first)));
    const [out, from] = [
      f.int(i32.add(word('to'), i32.shl(first, 2))),
      f.int(i32.add(word('from'), i32.shl(first, 2))),
    ];
    f.copy(out, from, i32.shl(count, 2));
    f.for(1, word('parts'), 1, () => {
      f.increase(from, word('partBytes'));
      const [sum, part] = [walk(f, out), walk(f, from)];
      rowLoop(f, count, [sum, part], ({ load: read }) => [[sum, f32x4.add(read(sum), read(part))]]);
    });
  });
}
