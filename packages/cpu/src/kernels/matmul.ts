/**
 * C [m, n] = start + sum over pairs of A [m, k] x B [k, n], after Goto and van de Geijn's packed product. Each task packs its
 * columns of B block by block and sweeps all its rows; A is packed once by all threads, or by the task where one needs it.
 * An element's sum runs over pairs and k in order, in blocks of `blockK`, whatever the tile and the thread.
 */
import {
  argument,
  type FunctionBuilder,
  type FunctionRef,
  type Local,
  type MemoryShape,
  ModuleBuilder,
  moved,
} from '../assembler.ts';
import { type I64, i32, i64 } from '../instructions.ts';
import { scratchBytes } from '../team.ts';
import type { KernelParameters } from '../tuning.ts';
import type { Features } from './lanes.ts';
import { offsetIn, packTask, panelsFunction } from './matmul-pack.ts';
import { addSmallRows } from './matmul-small.ts';
import { transposeFunction } from './matmul-transpose.ts';
import { edgeKernel, microKernel, panelAccess, type Tile } from './micro.ts';
import { pack4bitFunction } from './pack-4bit.ts';
import { weightWord } from './weight-4bit.ts';

/** Columns of B that a task takes at most, and steps of k between two visits to C. */
export const maxBlockColumns = 256;
const maxBlockK = 512;
/** Scratch: panels of B, the tile of an edge, zeros, what packing from 4 bits needs, then A's panels and a block of C. */
const tileBufferAt = maxBlockColumns * maxBlockK * 4;
const zerosAt = tileBufferAt + 4096;
const pack4bitAt = zerosAt + maxBlockColumns * 4;
const [ownAAt, ownCAt] = [scratchBytes / 2, (scratchBytes * 3) / 4];
/** A's panels that a task packs for itself, and a block of C in scratch. */
export const maxOwnBytes = scratchBytes / 4;

/** Words of the product task's argument block, the pair blocks follow at `pairs`. */
export const productWord = {
  c: 0,
  cStride: 1,
  cBatch: 2,
  m: 3,
  n: 4,
  rowsPerBlock: 5,
  columnsPerBlock: 6,
  rowBlocks: 7,
  columnBlocks: 8,
  /** What C starts as: 0 for zeros, or the address of its first element, with the bytes between rows and matrices. */
  from: 9,
  fromStride: 10,
  fromBatch: 11,
  pairCount: 12,
  /** 1: C is written as its transpose [n, m]. */
  transposed: 13,
  pairs: 14,
} as const;
/**
 * A is packed where its form is `packedForm`. `b` is a 64-bit address where its form says that it lies in the store; `weight`
 * is B in 4 bits, and then `b` unused.
 */
export const pairWord = {
  a: 0,
  aStride: 1,
  aBatch: 2,
  aForm: 3,
  b: 4,
  bStride: 6,
  bBatch: 7,
  k: 8,
  bForm: 9,
  weight: 10,
  size: 10 + weightWord.size,
} as const;
export const packedForm = 16;
/** Added to the form of a B operand in 4 bits. */
export const kind4bit = 16;

/** Tasks: `product`, `packA`, and those of few rows. */
export function matmulModule(
  memory: MemoryShape,
  features: Features,
  tile: Tile,
  parameters: KernelParameters,
): ModuleBuilder {
  const m = new ModuleBuilder(memory);
  const withStore = Boolean(memory.storePages);
  if (withStore) m.importStore();
  const packA = panelsFunction(m, tile.rows, false);
  packTask(m, packA, tile.rows);
  addSmallRows(m, features, withStore);
  const micro = microKernel(m, features, tile, { ...panelAccess(tile), from: true });
  productTask(m, {
    tile,
    micro,
    edge: edgeKernel(m, tile, micro),
    packA,
    packB: panelsFunction(m, tile.columns, withStore),
    pack4bit: pack4bitFunction(m, features, tile.columns, withStore),
    transpose: transposeFunction(m),
    blockK: parameters['matmul.blockK'],
    sweepRows: parameters['matmul.sweepRows'] - (parameters['matmul.sweepRows'] % tile.rows),
  });
  return m;
}

type Functions = Readonly<Record<'micro' | 'edge' | 'packA' | 'packB' | 'pack4bit' | 'transpose', FunctionRef>>;

interface ProductKind extends Functions {
  readonly tile: Tile;
  /** Steps of k between two visits to C: they order the sums. */
  readonly blockK: number;
  /** Rows of A swept with one panel of B: with blockK steps of f32 they stay in the second-level cache. */
  readonly sweepRows: number;
}

type IntLocal = Local<'i32'>;

/** A block of C: where it is computed, and where its elements start from; strides in bytes. */
interface Block {
  readonly row: IntLocal;
  readonly column: IntLocal;
  readonly rows: IntLocal;
  readonly columns: IntLocal;
  readonly c: IntLocal;
  readonly stride: IntLocal;
  readonly from: IntLocal;
  readonly fromStride: IntLocal;
}

function productTask(m: ModuleBuilder, kind: ProductKind): void {
  const { tile, blockK } = kind;
  m.task('product', (f, args, chunk, scratch) => {
    const word = (name: keyof typeof productWord) => f.int(argument(args, productWord[name]));
    const columnBlocks = word('columnBlocks');
    const blocks = f.int(i32.mul(word('rowBlocks'), columnBlocks));
    const batch = f.int(i32.divU(chunk, blocks));
    const number = f.int(i32.remU(chunk, blocks));
    const row = f.int(i32.mul(i32.divU(number, columnBlocks), word('rowsPerBlock')));
    const column = f.int(i32.mul(i32.remU(number, columnBlocks), word('columnsPerBlock')));
    const rows = f.int(i32.min(word('rowsPerBlock'), i32.sub(word('m'), row)));
    const columns = f.int(i32.min(word('columnsPerBlock'), i32.sub(word('n'), column)));
    const transposed = word('transposed');
    const [c, stride] = [f.int(i32.add(scratch, ownCAt)), f.int(i32.shl(columns, 2))];
    f.if(i32.eqz(transposed), () => {
      f.set(stride, word('cStride'));
      const inMatrix = i32.add(i32.mul(row, stride), i32.shl(column, 2));
      f.set(c, i32.add(i32.add(word('c'), i32.mul(batch, word('cBatch'))), inMatrix));
    });
    const block: Block = {
      row,
      column,
      rows,
      columns,
      c,
      stride,
      ...startOf(f, { args, scratch, row, column, columns, batch }),
    };
    const pair = f.int(i32.add(args, productWord.pairs * 4));
    f.for(0, word('pairCount'), 1, () => {
      const field = (name: keyof typeof pairWord) => f.int(argument(pair, pairWord[name]));
      const k = field('k');
      const panelBytes = f.int(i32.mul(k, tile.rows * 4));
      const a = panelsOfA(f, { kind, pair, batch, block, k, panelBytes, scratch });
      const b = f.local('i64', moved(i64.load(pair, pairWord.b * 4), i32.mul(batch, field('bBatch'))));
      const [bStride, form] = [field('bStride'), field('bForm')];
      f.for(0, k, blockK, (k0) => {
        const kc = f.int(i32.min(blockK, i32.sub(k, k0)));
        f.if(
          i32.geS(form, kind4bit),
          () => packColumns4bit(f, { kind, pair, form, k0, kc, block, scratch }),
          () => {
            const at = moved(b, f.int(offsetIn(form, bStride, column, k0)));
            f.call(kind.packB, form, at as I64, scratch, kc, columns, bStride, blockK * tile.columns * 4);
          },
        );
        sweep(f, { kind, block, a: f.int(i32.add(a, i32.mul(k0, tile.rows * 4))), panelBytes, kc, scratch });
        f.set(block.from, c);
        f.set(block.fromStride, stride);
      });
      f.increase(pair, pairWord.size * 4);
    });
    f.if(transposed, () => {
      const first = i32.add(i32.mul(column, word('cStride')), i32.shl(row, 2));
      const to = i32.add(i32.add(word('c'), i32.mul(batch, word('cBatch'))), first);
      f.call(kind.transpose, c, stride, to, word('cStride'), rows, columns);
    });
  });
}

interface Start {
  readonly args: IntLocal;
  readonly scratch: IntLocal;
  readonly row: IntLocal;
  readonly column: IntLocal;
  readonly columns: IntLocal;
  readonly batch: IntLocal;
}

/** What the block's elements start from. */
function startOf(
  f: FunctionBuilder,
  { args, scratch, row, column, columns, batch }: Start,
): Pick<Block, 'from' | 'fromStride'> {
  const word = (name: keyof typeof productWord) => argument(args, productWord[name]);
  const [from, fromStride] = [f.int(word('from')), f.int(word('fromStride'))];
  f.if(
    from,
    () => {
      const inMatrix = i32.add(i32.mul(row, fromStride), i32.shl(column, 2));
      f.increase(from, i32.add(i32.mul(batch, word('fromBatch')), inMatrix));
    },
    () => {
      f.set(from, i32.add(scratch, zerosAt));
      f.fill(from, 0, i32.shl(columns, 2));
    },
  );
  return { from, fromStride };
}

interface PanelsOfA {
  readonly kind: ProductKind;
  readonly pair: IntLocal;
  readonly batch: IntLocal;
  readonly block: Block;
  readonly k: IntLocal;
  readonly panelBytes: IntLocal;
  readonly scratch: IntLocal;
}

/** Where the block's panels of A lie, packed here if no task before did. */
function panelsOfA(f: FunctionBuilder, { kind, pair, batch, block, k, panelBytes, scratch }: PanelsOfA): IntLocal {
  const field = (name: keyof typeof pairWord) => f.int(argument(pair, pairWord[name]));
  const [form, stride] = [field('aForm'), field('aStride')];
  const a = f.int(i32.add(field('a'), i32.mul(batch, field('aBatch'))));
  f.if(
    i32.eq(form, packedForm),
    () => f.increase(a, i32.mul(i32.divU(block.row, kind.tile.rows), panelBytes)),
    () => {
      const from = i64.extend(f.int(i32.add(a, offsetIn(form, stride, block.row, 0))));
      f.set(a, i32.add(scratch, ownAAt));
      f.call(kind.packA, form, from, a, k, block.rows, stride, panelBytes);
    },
  );
  return a;
}

interface PackColumns4bit {
  readonly kind: ProductKind;
  readonly pair: IntLocal;
  readonly form: IntLocal;
  readonly k0: IntLocal;
  readonly kc: IntLocal;
  readonly block: Block;
  readonly scratch: IntLocal;
}

/** The block's columns of a B in 4 bits for steps k0 .. k0 + kc, one panel after the other in scratch. */
function packColumns4bit(f: FunctionBuilder, { kind, pair, form, k0, kc, block, scratch }: PackColumns4bit): void {
  const weight = f.int(i32.add(pair, pairWord.weight * 4));
  const own = f.int(i32.add(scratch, pack4bitAt));
  f.for(0, block.columns, kind.tile.columns, (j) => {
    const to = i32.add(scratch, i32.mul(j, kind.blockK * 4));
    const lanes = i32.min(kind.tile.columns, i32.sub(block.columns, j));
    f.call(kind.pack4bit, weight, i32.sub(form, kind4bit), i32.add(block.column, j), k0, kc, lanes, to, own);
  });
}

interface Sweep {
  readonly kind: ProductKind;
  readonly block: Block;
  readonly a: IntLocal;
  readonly panelBytes: IntLocal;
  readonly kc: IntLocal;
  readonly scratch: IntLocal;
}

/** All tiles of the block: rows in groups that stay in cache, then panels of B, then panels of A. */
function sweep(f: FunctionBuilder, { kind, block, a, panelBytes, kc, scratch }: Sweep): void {
  const { tile, blockK, sweepRows, micro, edge } = kind;
  const { rows, columns, stride, fromStride } = block;
  const buffer = f.int(i32.add(scratch, tileBufferAt));
  f.for(0, rows, sweepRows, (group) => {
    const groupEnd = f.int(i32.min(rows, i32.add(group, sweepRows)));
    f.for(0, columns, tile.columns, (j) => {
      const b = f.int(i32.add(scratch, i32.mul(j, blockK * 4)));
      const width = f.int(i32.min(tile.columns, i32.sub(columns, j)));
      const panel = f.int(i32.add(a, i32.mul(i32.divU(group, tile.rows), panelBytes)));
      const at = (base: IntLocal, step: IntLocal) => f.int(i32.add(i32.add(base, i32.mul(group, step)), i32.shl(j, 2)));
      const [c, from] = [at(block.c, stride), at(block.from, fromStride)];
      f.for(group, groupEnd, tile.rows, (i) => {
        const height = f.int(i32.min(tile.rows, i32.sub(rows, i)));
        const whole = i32.and(i32.eq(height, tile.rows), i32.eq(width, tile.columns));
        f.if(
          whole,
          () => f.call(micro, panel, b, c, kc, stride, from, fromStride),
          () => f.call(edge, panel, b, c, kc, stride, from, fromStride, height, width, buffer),
        );
        f.increase(panel, panelBytes);
        f.increase(c, i32.mul(stride, tile.rows));
        f.increase(from, i32.mul(fromStride, tile.rows));
      });
    });
  });
}
