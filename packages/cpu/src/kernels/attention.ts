/**
 * Attention over padding-free sequences in flash style (Dao et al. 2022): blocks of scores live in a thread's scratch,
 * never the whole matrix. A task is (block of queries, head); keys are visited in order, so every sum has one order.
 */
import { type Local, type MemoryShape, ModuleBuilder } from '../assembler.ts';
import { f32, f32x4, i32, store } from '../instructions.ts';
import { addBlocks, type Blocks } from './attention-blocks.ts';
import { type Block, Frame, overKeys, overRows, stepBytes } from './attention-frame.ts';
import { addAttentionGrad } from './attention-grad.ts';
import { addRowFunctions, type RowFunctions } from './attention-rows.ts';
import type { Features } from './lanes.ts';
import { vectorMath } from './math.ts';
import type { Tile } from './micro.ts';
import { rowLoop, walk } from './row-loop.ts';

type IntLocal = Local<'i32'>;

/** Tasks `attention`, `attentionDelta`, `attentionGradQ` and `attentionGradKv`. */
export function attentionModule(memory: MemoryShape, features: Features, tile: Tile): ModuleBuilder {
  const m = new ModuleBuilder(memory);
  const blocks = addBlocks(m, features, tile);
  const rows = addRowFunctions(m, features);
  forward(m, features, blocks, rows);
  addAttentionGrad(m, blocks, rows);
  return m;
}

function forward(m: ModuleBuilder, features: Features, blocks: Blocks, { soften }: RowFunctions): void {
  m.task('attention', (f, args, chunk, scratch) => {
    const frame = new Frame(f, args, scratch);
    const head = f.int(i32.divU(chunk, frame.word('blockCount')));
    const block = frame.block(i32.remU(chunk, frame.word('blockCount')));
    const kvHead = f.int(i32.divU(head, frame.word('groupSize')));
    frame.packBlock(blocks, 'q', block, head, 'first');
    f.fill(frame.at('result'), 0, i32.mul(block.rows, frame.rowBytes));
    const stateOf = (row: IntLocal) => i32.add(frame.at('state'), i32.shl(row, 3));
    f.for(0, block.rows, 1, (row) => {
      f.emit(store.f32(stateOf(row), f32.const(Number.NEGATIVE_INFINITY)));
      f.emit(store.f32(stateOf(row), f32.const(0), 4));
    });
    overKeys(frame, block, (key, count) => {
      const keys = { row: f.int(i32.add(block.other, key)), head: kvHead, count, rows: block.rows };
      frame.scores(blocks, { ...keys, from: 'k', by: 'first', to: 'scores' });
      overRows(frame, block, key, count, (row, low, high) => {
        const scores = i32.add(frame.at('scores'), i32.mul(row, stepBytes));
        const out = i32.add(frame.at('result'), i32.mul(row, frame.rowBytes));
        f.call(soften, scores, low, high, count, stateOf(row), out, frame.e, frame.word('scale'), frame.at('reduce'));
      });
      frame.weigh(blocks, { ...keys, from: 'v', scores: 'scores', to: 'result' });
    });
    finish(frame, features, block, head);
  });
}

/** out = result / sum, lse = maximum + log(sum). */
function finish(frame: Frame, features: Features, block: Block, head: IntLocal): void {
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
