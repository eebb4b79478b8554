/**
 * Attention over padding-free sequences in flash style (Dao et al. 2022): blocks of scores live in a thread's scratch,
 * never the whole matrix. A task is (block of queries, head); keys are visited in order, so every sum has one order.
 */
import { type MemoryShape, ModuleBuilder } from '../assembler.ts';
import { f32x4, i32, store, v128 } from '../instructions.ts';
import { addBlocks, type Blocks, groupQueries, rowBytes } from './attention-blocks.ts';
import { addAttentionDecode } from './attention-decode.ts';
import { type Block, Frame, type Group, type IntLocal, lowest, stateBytes } from './attention-frame.ts';
import { addAttentionGrad } from './attention-grad.ts';
import { addRowFunctions, type RowFunctions } from './attention-rows.ts';
import { type Features, maddFor } from './lanes.ts';
import { vectorMath } from './math.ts';
import type { Tile } from './micro.ts';
import { rowLoop, walk } from './row-loop.ts';

/** Tasks `attention`, `attentionGrad`, `attentionJoin`, `attentionDecode` and `attentionDecodeJoin`. */
export function attentionModule(memory: MemoryShape, features: Features, tile: Tile): ModuleBuilder {
  const m = new ModuleBuilder(memory);
  const blocks = addBlocks(m, features, tile);
  const rows = addRowFunctions(m, features);
  forward(m, features, blocks, rows);
  addAttentionGrad(m, blocks, rows);
  addAttentionDecode(m, features);
  return m;
}

function forward(m: ModuleBuilder, features: Features, blocks: Blocks, rows: RowFunctions): void {
  m.task('attention', (f, args, chunk, scratch) => {
    const frame = new Frame(f, args, scratch);
    const { e } = frame;
    const head = f.int(i32.divU(chunk, frame.word('blockCount')));
    const block = frame.block(i32.remU(chunk, frame.word('blockCount')));
    const kvHead = f.int(i32.divU(head, frame.word('groupSize')));
    const queries = frame.at('queries');
    f.call(
      blocks.scaleRows,
      frame.head('q', block.row, head),
      frame.word('qStride'),
      block.rows,
      e,
      queries,
      frame.word('scale'),
    );
    f.call(blocks.packQueries, queries, block.rows, e, frame.at('panels'));
    f.fill(frame.at('result'), 0, i32.mul(block.rows, rowBytes));
    f.for(0, stateBytes, 16, (at) => {
      f.emit(store.v128(i32.add(frame.at('state'), at), f.hoist(f32x4.const(lowest))));
      f.emit(store.v128(i32.add(frame.at('state'), at), f.hoist(f32x4.const(0)), stateBytes));
    });
    frame.overKeys(block, (keys) => {
      const row = f.int(i32.add(block.other, keys.key));
      for (const [from, to] of [
        ['k', 'keys'],
        ['v', 'values'],
      ] as const)
        f.call(
          blocks.copyRows,
          frame.head(from, row, kvHead),
          frame.word(`${from}Stride`),
          keys.count,
          e,
          frame.at(to),
        );
      frame.overQueries(
        block,
        keys,
        groupQueries,
        (group) => softenGroup(frame, blocks, rows, group),
        (group) => frame.clearAround(rows.clearAround, keys, group, ['scores']),
      );
      frame.weigh(blocks, block, keys, 'scores', 'values');
    });
    finish(frame, features, block, head);
  });
}

function softenGroup(frame: Frame, blocks: Blocks, { hide, soften, shrink }: RowFunctions, group: Group): void {
  const { f, e } = frame;
  const { low, high, first, last } = group;
  const scores = frame.column('scores', group);
  f.call(blocks.score, frame.at('keys'), frame.panels('panels', group), scores, low, high, e);
  frame.hideUnseen(hide, scores, group);
  f.call(soften, scores, low, high, frame.state(0, group));
  const result = i32.add(frame.at('result'), i32.mul(first, rowBytes));
  f.call(shrink, frame.state(2, group), result, i32.add(last, 1), e);
}

/** out = result / sum, lse = maximum + log(sum). */
function finish(frame: Frame, features: Features, block: Block, head: IntLocal): void {
  const { f, e } = frame;
  f.for(0, block.rows, 1, (first) => {
    const sum = f.vector(v128.load32Splat(frame.state(1, { first })));
    const result = walk(f, i32.add(frame.at('result'), i32.mul(first, rowBytes)));
    const out = walk(f, frame.dense('out', i32.add(block.row, first), frame.word('heads'), head));
    rowLoop(f, e, [result, out], ({ load }) => [[out, f32x4.div(load(result), sum)]]);
  });
  f.for(0, block.rows, 4, (first) => {
    const log = vectorMath(f, features).log(v128.load(frame.state(1, { first })));
    const top = v128.load(frame.state(0, { first }));
    const lse = maddFor(features)(top, f.hoist(f32x4.const(Math.LN2)), log);
    f.emit(store.v128(frame.state(2, { first }), lse));
  });
  f.copy(frame.lse(block.row, head), frame.state(2, { first: 0 }), i32.shl(block.rows, 2));
}
