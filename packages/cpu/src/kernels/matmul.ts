/**
 * C [m, n] = sum over pairs of A [m, k] x B [k, n] (+ bias [n]), after Goto and van de Geijn's packed product.
 * A is packed once by all threads; then each task packs its columns of B block by block and sweeps all its rows.
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
import { i32, i64 } from '../instructions.ts';
import { elementShift, type Features, type FloatType, floatTypes } from './lanes.ts';
import { addSmallRows } from './matmul-small.ts';
import { edgeKernel, microKernel, type Tile } from './micro.ts';
import { type PackFunctions, packFunctions } from './pack.ts';
import { pack4bitFunction } from './pack-4bit.ts';
import { weightWord } from './weight-4bit.ts';

/** Steps of k between two visits to C. A constant of this version: it orders the sums. */
export const blockK = 256;
/** Columns of B that fit a thread's scratch. */
export const maxBlockColumns = 512;
/** Scratch: the panels of B, the tile of an edge, and what packing from 4 bits needs. */
const tileBufferAt = maxBlockColumns * blockK * 4;
const pack4bitAt = tileBufferAt + 4096;
/** Rows of A swept with one panel of B: 192 x 256 x 4 bytes stay in the second-level cache. */
const sweepRows = 192;

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
  bias: 9,
  pairCount: 10,
  keep: 11,
  pairs: 12,
} as const;
/** `b` is a 64-bit address where the kind says that it lies in the store; `weight` is B in 4 bits, and then `b` unused. */
export const pairWord = {
  a: 0,
  aBatch: 1,
  b: 2,
  bStride: 4,
  bBatch: 5,
  k: 6,
  kind: 7,
  weight: 8,
  size: 8 + weightWord.size,
} as const;
export const packWord = {
  source: 0,
  stride: 1,
  batch: 2,
  to: 3,
  m: 4,
  k: 5,
  panelsPerChunk: 6,
  chunksPerBatch: 7,
} as const;

/** An operand's form as a number: dtype x (is k contiguous in memory). */
export const operandKind = (dtype: FloatType, kContiguous: boolean) =>
  floatTypes.indexOf(dtype) * 2 + (kContiguous ? 1 : 0);
/** Added to the kind of a B operand that lies in the store. */
export const storeKind = 8;
/** Added to the form of a B operand in 4 bits. */
export const kind4bit = 16;
const packName = (kind: number) => `packA${kind}`;
export const packTaskName = packName;

/** Tasks: `product`, and `packA0` .. `packA5`, one for each operand kind. */
export function matmulModule(memory: MemoryShape, features: Features, tile: Tile): ModuleBuilder {
  const m = new ModuleBuilder(memory);
  if (memory.storePages) m.importStore();
  const packRows = packFunctions(m, tile.rows);
  const packColumns = packFunctions(m, tile.columns);
  for (const dtype of floatTypes) {
    packTask(m, packName(operandKind(dtype, true)), packRows[dtype].lanes, dtype, true, tile.rows);
    packTask(m, packName(operandKind(dtype, false)), packRows[dtype].steps, dtype, false, tile.rows);
  }
  const micro = microKernel(m, features, tile);
  const farColumns = memory.storePages ? packFunctions(m, tile.columns, 'i64') : undefined;
  addSmallRows(m, features, Boolean(memory.storePages));
  const packs = {
    pack: packB(m, packColumns, farColumns),
    pack4bit: pack4bitFunction(m, features, tile.columns, Boolean(memory.storePages)),
  };
  productTask(m, tile, packs, edgeKernel(m, tile, micro), micro);
  return m;
}

function packTask(
  m: ModuleBuilder,
  name: string,
  pack: FunctionRef,
  dtype: FloatType,
  kContiguous: boolean,
  rows: number,
): void {
  m.task(name, (f, args, chunk) => {
    const word = (name: keyof typeof packWord) => f.int(argument(args, packWord[name]));
    const [stride, rowCount, k, perChunk, chunks] = [
      word('stride'),
      word('m'),
      word('k'),
      word('panelsPerChunk'),
      word('chunksPerBatch'),
    ];
    const batch = f.int(i32.divU(chunk, chunks));
    const panel = f.int(i32.mul(i32.remU(chunk, chunks), perChunk));
    const panelCount = f.int(i32.divU(i32.add(rowCount, rows - 1), rows));
    const source = f.int(i32.add(argument(args, packWord.source), i32.mul(batch, argument(args, packWord.batch))));
    const panelBytes = f.int(i32.mul(k, rows * 4));
    const to = f.int(i32.add(argument(args, packWord.to), i32.mul(i32.mul(batch, panelCount), panelBytes)));
    const end = f.int(i32.min(panelCount, i32.add(panel, perChunk)));
    f.while(panel, end, 1, () => {
      const first = f.int(i32.mul(panel, rows));
      const at = kContiguous ? i32.mul(first, stride) : i32.shl(first, elementShift(dtype));
      const lanes = i32.min(rows, i32.sub(rowCount, first));
      f.call(pack, i32.add(source, at), i32.add(to, i32.mul(panel, panelBytes)), k, lanes, stride);
    });
  });
}

/** Packs one panel of B: (kind, source (64 bits), to, k, lanes, stride). */
function packB(m: ModuleBuilder, near: PackFunctions, far: PackFunctions | undefined): FunctionRef {
  return m.function(undefined, ['i32', 'i64', 'i32', 'i32', 'i32', 'i32'], [], (f) => {
    const [kind, source, ...rest] = f.params as unknown as [IntLocal, Local<'i64'>, ...IntLocal[]];
    for (const dtype of floatTypes) {
      for (const kContiguous of [false, true]) {
        const number = operandKind(dtype, kContiguous);
        const layout = kContiguous ? 'lanes' : 'steps';
        f.if(i32.eq(kind, number), () => f.call(near[dtype][layout], i32.wrap(source), ...rest));
        if (far) f.if(i32.eq(kind, number + storeKind), () => f.call(far[dtype][layout], source, ...rest));
      }
    }
  });
}

type Packs = Readonly<Record<'pack' | 'pack4bit', FunctionRef>>;

function productTask(m: ModuleBuilder, tile: Tile, packs: Packs, edge: FunctionRef, micro: FunctionRef): void {
  m.task('product', (f, args, chunk, scratch) => {
    const word = (name: keyof typeof productWord) => f.int(argument(args, productWord[name]));
    const [stride, columnBlocks] = [word('cStride'), word('columnBlocks')];
    const blocks = f.int(i32.mul(word('rowBlocks'), columnBlocks));
    const batch = f.int(i32.divU(chunk, blocks));
    const block = f.int(i32.remU(chunk, blocks));
    const row = f.int(i32.mul(i32.divU(block, columnBlocks), word('rowsPerBlock')));
    const column = f.int(i32.mul(i32.remU(block, columnBlocks), word('columnsPerBlock')));
    const rows = f.int(i32.min(word('rowsPerBlock'), i32.sub(word('m'), row)));
    const columns = f.int(i32.min(word('columnsPerBlock'), i32.sub(word('n'), column)));
    const c = f.int(
      i32.add(i32.add(word('c'), i32.mul(batch, word('cBatch'))), i32.add(i32.mul(row, stride), i32.shl(column, 2))),
    );
    initializeC(f, args, c, stride, rows, columns, column);
    const tileBuffer = f.int(i32.add(scratch, tileBufferAt));
    const pair = f.int(i32.add(args, productWord.pairs * 4));
    f.for(0, word('pairCount'), 1, () => {
      const field = (name: keyof typeof pairWord) => f.int(argument(pair, pairWord[name]));
      const [k, bStride, kind] = [field('k'), field('bStride'), field('kind')];
      const panelBytes = f.int(i32.mul(k, tile.rows * 4));
      const a = f.int(
        i32.add(i32.add(field('a'), i32.mul(batch, field('aBatch'))), i32.mul(i32.divU(row, tile.rows), panelBytes)),
      );
      const b = f.local('i64', moved(i64.load(pair, pairWord.b * 4), i32.mul(batch, field('bBatch'))));
      f.for(0, k, blockK, (k0) => {
        const kc = f.int(i32.min(blockK, i32.sub(k, k0)));
        const block = { tile, ...packs, pair, b, bStride, kind, k0, kc, column, columns, scratch };
        f.if(
          i32.geS(kind, kind4bit),
          () => packColumns4bit(f, block),
          () => packColumns(f, block),
        );
        const aBlock = f.int(i32.add(a, i32.mul(k0, tile.rows * 4)));
        sweep(f, { tile, edge, micro, a: aBlock, panelBytes, scratch, c, stride, rows, columns, kc, tileBuffer });
      });
      f.increase(pair, pairWord.size * 4);
    });
  });
}

type IntLocal = Local<'i32'>;

/** C's block starts as the bias, as zeros, or as it is (`keep`). */
function initializeC(
  f: FunctionBuilder,
  args: IntLocal,
  c: IntLocal,
  stride: IntLocal,
  rows: IntLocal,
  columns: IntLocal,
  column: IntLocal,
): void {
  const bytes = f.int(i32.shl(columns, 2));
  const bias = f.int(argument(args, productWord.bias));
  f.if(i32.eqz(argument(args, productWord.keep)), () => {
    const at = f.int(c);
    f.for(0, rows, 1, () => {
      f.if(
        bias,
        () => f.copy(at, i32.add(bias, i32.shl(column, 2)), bytes),
        () => f.fill(at, 0, bytes),
      );
      f.increase(at, stride);
    });
  });
}

interface PackColumns extends Packs {
  tile: Tile;
  pair: IntLocal;
  b: Local<'i64'>;
  bStride: IntLocal;
  kind: IntLocal;
  k0: IntLocal;
  kc: IntLocal;
  column: IntLocal;
  columns: IntLocal;
  scratch: IntLocal;
}

/** The block's columns of B for steps k0 .. k0 + kc, one panel after the other in scratch. */
function packColumns(f: FunctionBuilder, o: PackColumns): void {
  const shift = f.int(i32.select(i32.ltU(i32.and(o.kind, storeKind - 1), 2), 2, 1));
  const kContiguous = f.int(i32.and(o.kind, 1));
  f.for(0, o.columns, o.tile.columns, (j) => {
    const lane = i32.add(o.column, j);
    const at = i32.select(
      kContiguous,
      i32.add(i32.mul(lane, o.bStride), i32.shl(o.k0, shift)),
      i32.add(i32.mul(o.k0, o.bStride), i32.shl(lane, shift)),
    );
    const to = i32.add(o.scratch, i32.mul(j, blockK * 4));
    f.call(o.pack, o.kind, moved(o.b, at), to, o.kc, i32.min(o.tile.columns, i32.sub(o.columns, j)), o.bStride);
  });
}

/** As packColumns for a B in 4 bits. */
function packColumns4bit(f: FunctionBuilder, o: PackColumns): void {
  const weight = f.int(i32.add(o.pair, pairWord.weight * 4));
  const form = f.int(i32.sub(o.kind, kind4bit));
  const own = f.int(i32.add(o.scratch, pack4bitAt));
  f.for(0, o.columns, o.tile.columns, (j) => {
    const to = i32.add(o.scratch, i32.mul(j, blockK * 4));
    const lanes = i32.min(o.tile.columns, i32.sub(o.columns, j));
    f.call(o.pack4bit, weight, form, i32.add(o.column, j), o.k0, o.kc, lanes, to, own);
  });
}

interface Sweep {
  tile: Tile;
  edge: FunctionRef;
  micro: FunctionRef;
  a: IntLocal;
  panelBytes: IntLocal;
  scratch: IntLocal;
  c: IntLocal;
  stride: IntLocal;
  rows: IntLocal;
  columns: IntLocal;
  kc: IntLocal;
  tileBuffer: IntLocal;
}

/** All tiles of the block: rows in groups that stay in cache, then panels of B, then panels of A. */
function sweep(f: FunctionBuilder, o: Sweep): void {
  const { rows: tileRows, columns: tileColumns } = o.tile;
  const groupRows = sweepRows - (sweepRows % tileRows);
  f.for(0, o.rows, groupRows, (group) => {
    const groupEnd = f.int(i32.min(o.rows, i32.add(group, groupRows)));
    f.for(0, o.columns, tileColumns, (j) => {
      const b = f.int(i32.add(o.scratch, i32.mul(j, blockK * 4)));
      const columnsLeft = f.int(i32.sub(o.columns, j));
      const a = f.int(i32.add(o.a, i32.mul(i32.divU(group, tileRows), o.panelBytes)));
      const c = f.int(i32.add(i32.add(o.c, i32.mul(group, o.stride)), i32.shl(j, 2)));
      f.for(group, groupEnd, tileRows, (i) => {
        const rowsLeft = i32.sub(o.rows, i);
        f.if(
          i32.and(i32.geS(rowsLeft, tileRows), i32.geS(columnsLeft, tileColumns)),
          () => f.call(o.micro, a, b, c, o.kc, o.stride),
          () =>
            f.call(
              o.edge,
              a,
              b,
              c,
              o.kc,
              o.stride,
              i32.min(rowsLeft, tileRows),
              i32.min(columnsLeft, tileColumns),
              o.tileBuffer,
            ),
        );
        f.increase(a, o.panelBytes);
        f.increase(c, i32.mul(o.stride, tileRows));
      });
    });
  });
}
