/**
 * The small dense products inside attention. Scores lie transposed, [keys, queries]: then a block of scores is the packed
 * left operand of P x V as it is, the rows of K need no packing, and a softmax runs along whole vectors of queries.
 * Operands are copied to scratch, where rows have one constant distance, so that the register tile needs one pointer each.
 */
import type { FunctionBuilder, FunctionRef, Local, ModuleBuilder } from '../assembler.ts';
import { f32, f32x4, type I32, i32 } from '../instructions.ts';
import type { Features } from './lanes.ts';
import { edgeKernel, microKernel, panelAccess, type Tile } from './micro.ts';
import { packFunctions } from './pack.ts';
import { rowLoop, walk } from './row-loop.ts';

/** Queries and keys of a block. Constants of this version: they order the sums. */
export const blockQueries = 96;
export const blockKeys = 96;
/** Queries whose scores are computed and softened together. */
export const groupQueries = 16;
export const maxHeadWidth = 256;
/** Bytes between rows of an operand in scratch; an odd number of cache lines spreads them over the cache. */
export const rowBytes = (maxHeadWidth + 16) * 4;
/** Bytes between keys of a block of scores. */
export const scoreBytes = blockQueries * 4;

type IntLocal = Local<'i32'>;

export interface Blocks {
  readonly tile: Tile;
  /** (source, stride, rows, e, to): rows to scratch. */
  readonly copyRows: FunctionRef;
  /** (source, stride, rows, e, to, factor bits): the same times a number. */
  readonly scaleRows: FunctionRef;
  /** (rows in scratch, count, e, to): panels of the tile's columns, transposed. */
  readonly packQueries: FunctionRef;
  /** (keys in scratch, panels of a group, scores, low, high, e): scores of keys low .. high with a group of queries. */
  readonly score: FunctionRef;
  /** (scores, rows in scratch, to, keys, e): tile rows of queries += transposed scores x rows, for keys > 0. */
  readonly weighQueries: FunctionRef;
  /** (scores, rows in scratch, to, stride, queries, e, keys that exist, tile buffer): tile rows of keys += scores x rows. */
  readonly weighKeys: FunctionRef;
}

export function addBlocks(m: ModuleBuilder, features: Features, tile: Tile): Blocks {
  return {
    tile,
    copyRows: copyRows(m, false),
    scaleRows: copyRows(m, true),
    packQueries: packQueries(m, tile),
    score: score(m, features, tile),
    weighQueries: weighQueries(m, features, tile),
    weighKeys: weighKeys(m, features, tile),
  };
}

function copyRows(m: ModuleBuilder, scaled: boolean): FunctionRef {
  return m.function(undefined, new Array(scaled ? 6 : 5).fill('i32'), [], (f) => {
    const [source, stride, rows, e, to, bits] = f.params as IntLocal[] & Record<number, IntLocal>;
    const factor = bits && f.vector(f32x4.splat(f32.reinterpret(bits)));
    f.for(0, rows!, 1, () => {
      const [from, into] = [walk(f, source!), walk(f, to!)];
      rowLoop(f, e!, [from, into], ({ load }) => [[into, factor ? f32x4.mul(load(from), factor) : load(from)]]);
      f.increase(source!, stride!);
      f.increase(to!, rowBytes);
    });
  });
}

/** Whole panels always: rows past the last are stale in scratch, and so are their scores, which nobody reads. */
function packQueries(m: ModuleBuilder, { columns }: Tile): FunctionRef {
  const pack = packFunctions(m, columns).f32.lanes;
  return m.function(undefined, new Array(4).fill('i32'), [], (f) => {
    const [source, count, e, to] = f.params as [IntLocal, IntLocal, IntLocal, IntLocal];
    const groups = i32.shl(i32.divU(i32.add(count, groupQueries - 1), groupQueries), Math.log2(groupQueries));
    f.for(0, f.int(groups), columns, (first) => {
      const panel = i32.add(to, i32.shl(i32.mul(first, e), 2));
      f.call(pack, i32.add(source, i32.mul(first, rowBytes)), panel, e, columns, rowBytes);
    });
  });
}

function score(m: ModuleBuilder, features: Features, tile: Tile): FunctionRef {
  const access = { aRow: rowBytes, aStep: 4, bStep: panelAccess(tile).bStep, fresh: true };
  const micro = microKernel(m, features, tile, access);
  return m.function(undefined, new Array(6).fill('i32'), [], (f) => {
    const [keys, panels, scores, low, high, e] = f.params as IntLocal[] & Record<number, IntLocal>;
    for (let column = 0; column < groupQueries; column += tile.columns) {
      const panel = f.int(i32.add(panels!, i32.mul(e!, column * 4)));
      f.for(i32.sub(low!, i32.remU(low!, tile.rows)), high!, tile.rows, (key) => {
        const to = i32.add(i32.add(scores!, column * 4), i32.mul(key, scoreBytes));
        f.call(micro, i32.add(keys!, i32.mul(key, rowBytes)), panel, to, e!, scoreBytes);
      });
    }
  });
}

function weighQueries(m: ModuleBuilder, features: Features, tile: Tile): FunctionRef {
  const micro = microKernel(m, features, tile, { aRow: 4, aStep: scoreBytes, bStep: rowBytes });
  return m.function(undefined, new Array(5).fill('i32'), [], (f) => {
    const [scores, rows, to, keys, e] = f.params as IntLocal[] & Record<number, IntLocal>;
    f.for(0, e!, tile.columns, (column) => {
      const at = f.int(i32.shl(column, 2));
      f.call(micro, scores!, i32.add(rows!, at), i32.add(to!, at), keys!, rowBytes);
    });
  });
}

function weighKeys(m: ModuleBuilder, features: Features, tile: Tile): FunctionRef {
  const micro = microKernel(m, features, tile, { aRow: scoreBytes, aStep: 4, bStep: rowBytes });
  const edge = edgeKernel(m, tile, micro);
  return m.function(undefined, new Array(8).fill('i32'), [], (f) => {
    const [scores, rows, to, stride, queries, e, keys, buffer] = f.params as IntLocal[] & Record<number, IntLocal>;
    f.for(0, e!, tile.columns, (column) => {
      const at = f.int(i32.shl(column, 2));
      const [from, into] = [i32.add(rows!, at), i32.add(to!, at)];
      const width = f.int(i32.min(tile.columns, i32.sub(e!, column)));
      const whole = i32.and(i32.geS(keys!, tile.rows), i32.eq(width, tile.columns));
      f.if(
        whole,
        () => f.call(micro, scores!, from, into, queries!, stride!),
        () => f.call(edge, scores!, from, into, queries!, stride!, smaller(f, keys!, tile.rows), width, buffer!),
      );
    });
  });
}

const smaller = (f: FunctionBuilder, value: I32, limit: number): IntLocal => f.int(i32.min(value, limit));
