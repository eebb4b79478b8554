/**
 * The backward of attention: dq by (block of queries, head), dk and dv by (block of keys, key-value head) over the group's
 * query heads in order. Scores are computed again for each pass instead of being shared, so nothing is added by two tasks.
 */
import type { Local, ModuleBuilder } from '../assembler.ts';
import { f32x4, type I32, i32, store } from '../instructions.ts';
import type { Blocks } from './attention-blocks.ts';
import { type Block, blockSteps, clamp, copyOut, Frame, overKeys, overRows, stepBytes } from './attention-frame.ts';
import type { RowFunctions } from './attention-rows.ts';
import { accumulators, rowLoop, rowTask, total, walk } from './row-loop.ts';

type IntLocal = Local<'i32'>;

/** Tasks `attentionDelta`, `attentionGradQ` and `attentionGradKv`. */
export function addAttentionGrad(m: ModuleBuilder, blocks: Blocks, rows: RowFunctions): void {
  delta(m);
  gradQ(m, blocks, rows);
  gradKv(m, blocks, rows);
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

function gradQ(m: ModuleBuilder, blocks: Blocks, { gradOfRow }: RowFunctions): void {
  m.task('attentionGradQ', (f, args, chunk, scratch) => {
    const frame = new Frame(f, args, scratch);
    const head = f.int(i32.divU(chunk, frame.word('blockCount')));
    const block = frame.block(i32.remU(chunk, frame.word('blockCount')));
    const kvHead = f.int(i32.divU(head, frame.word('groupSize')));
    frame.packBlock(blocks, 'q', block, head, 'first');
    frame.packBlock(blocks, 'grad', block, head, 'second');
    f.fill(frame.at('result'), 0, i32.mul(block.rows, frame.rowBytes));
    overKeys(frame, block, (key, count) => {
      const keys = { row: f.int(i32.add(block.other, key)), head: kvHead, count, rows: block.rows };
      frame.scores(blocks, { ...keys, from: 'k', by: 'first', to: 'scores' });
      frame.scores(blocks, { ...keys, from: 'v', by: 'second', to: 'gradients' });
      overRows(frame, block, key, count, (row, low, high) => {
        const offset = f.int(i32.mul(row, stepBytes));
        const token = i32.add(i32.mul(head, frame.word('t')), i32.add(block.row, row));
        const at = f.int(i32.shl(token, 2));
        const [scores, dp] = [i32.add(frame.at('scores'), offset), i32.add(frame.at('gradients'), offset)];
        const [lse, sum] = [i32.add(frame.word('lse'), at), i32.add(frame.word('delta'), at)];
        f.call(gradOfRow, scores, dp, low, high, count, lse, sum, frame.word('scale'));
      });
      frame.weigh(blocks, { ...keys, from: 'k', scores: 'gradients', to: 'result' });
    });
    copyOut(frame, 'dq', 'result', block, frame.word('heads'), head);
  });
}

/** The queries that see key `index`, counted in its sequence: low .. high. */
function seeingQueries(frame: Frame, index: I32, block: Block): { low: IntLocal; high: IntLocal } {
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

/** Visits the query blocks that see a block of keys; `visit` gets the first query and the count. */
function overQueries(frame: Frame, block: Block, visit: (query: IntLocal, count: IntLocal) => void): void {
  const { f } = frame;
  const first = seeingQueries(frame, block.start, block);
  const last = seeingQueries(frame, i32.sub(i32.add(block.start, block.rows), 1), block);
  const query = f.int(i32.sub(first.low, i32.remU(first.low, blockSteps)));
  const end = f.int(i32.select(i32.gtS(last.high, first.high), last.high, first.high));
  f.while(query, end, blockSteps, () => visit(query, f.int(i32.min(blockSteps, i32.sub(end, query)))));
}

function gradKv(m: ModuleBuilder, blocks: Blocks, { gradOfColumn }: RowFunctions): void {
  m.task('attentionGradKv', (f, args, chunk, scratch) => {
    const frame = new Frame(f, args, scratch);
    const kvHead = f.int(i32.divU(chunk, frame.word('blockCount')));
    const block = frame.block(i32.remU(chunk, frame.word('blockCount')));
    frame.packBlock(blocks, 'k', block, kvHead, 'first');
    frame.packBlock(blocks, 'v', block, kvHead, 'second');
    f.fill(frame.at('result'), 0, i32.mul(block.rows, frame.rowBytes));
    f.fill(frame.at('result2'), 0, i32.mul(block.rows, frame.rowBytes));
    const head = f.int(i32.mul(kvHead, frame.word('groupSize')));
    const headEnd = f.int(i32.add(head, frame.word('groupSize')));
    f.while(head, headEnd, 1, () => {
      overQueries(frame, block, (query, count) => {
        const token = f.int(i32.add(block.other, query));
        const queries = { row: token, head, count, rows: block.rows };
        frame.scores(blocks, { ...queries, from: 'q', by: 'first', to: 'scores' });
        frame.scores(blocks, { ...queries, from: 'grad', by: 'second', to: 'gradients' });
        const at = f.int(i32.shl(i32.add(i32.mul(head, frame.word('t')), token), 2));
        f.for(0, block.rows, 1, (row) => {
          const seen = seeingQueries(frame, i32.add(block.start, row), block);
          const [low, high] = [clamp(f, i32.sub(seen.low, query), count), clamp(f, i32.sub(seen.high, query), count)];
          const offset = f.int(i32.mul(row, stepBytes));
          const [scores, dp] = [i32.add(frame.at('scores'), offset), i32.add(frame.at('gradients'), offset)];
          const [lse, sum] = [i32.add(frame.word('lse'), at), i32.add(frame.word('delta'), at)];
          f.call(gradOfColumn, scores, dp, low, high, count, lse, sum, frame.word('scale'));
        });
        frame.weigh(blocks, { ...queries, from: 'q', scores: 'gradients', to: 'result' });
        frame.weigh(blocks, { ...queries, from: 'grad', scores: 'scores', to: 'result2' });
      });
    });
    copyOut(frame, 'dk', 'result', block, frame.word('kvHeads'), kvHead);
    copyOut(frame, 'dv', 'result2', block, frame.word('kvHeads'), kvHead);
  });
}
