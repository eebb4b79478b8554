/** The register tile: the innermost product, with all accumulators in registers, and its form for the edges of C. */
import type { FunctionRef, Local, ModuleBuilder } from '../assembler.ts';
import { i32, store, v128 } from '../instructions.ts';
import { defaults, type TileName } from '../tuning.ts';
import { type Features, maddFor } from './lanes.ts';

/** Rows and columns of the register tile. */
export interface Tile {
  readonly rows: number;
  readonly columns: number;
}

/** A tile as tuning tables write it. */
export function parseTile(text: TileName): Tile {
  const [rows, columns] = text.split('x').map(Number);
  return { rows: rows!, columns: columns! };
}

/** 6x16 where V8 pairs 128-bit vectors into 256-bit ones, 4x8 where sixteen 128-bit registers are all there is. */
export const pairedTile = parseTile(defaults['matmul.pairedTile']);
export const plainTile = parseTile(defaults['matmul.plainTile']);

/** Where the tile finds its operands: bytes between rows of A, and between steps of k in A and in B. */
export interface TileAccess {
  readonly aRow: number;
  readonly aStep: number;
  readonly bStep: number;
  /** C starts as zeros instead of what it holds. */
  readonly fresh?: boolean;
  /** C starts as what lies elsewhere, with a row distance of its own: two more parameters. */
  readonly from?: boolean;
}

/** Both operands packed in panels of the tile's size. */
export const panelAccess = ({ rows, columns }: Tile): TileAccess => ({ aRow: 4, aStep: rows * 4, bStep: columns * 4 });

/**
 * C[rows, columns] += A x B over k > 0 steps: (a, b, c, k, c stride in bytes), then (from, from's stride) where asked. All
 * accumulators live in registers.
 */
export function microKernel(
  m: ModuleBuilder,
  features: Features,
  tile: Tile,
  access: TileAccess = panelAccess(tile),
): FunctionRef {
  const madd = maddFor(features);
  const vectors = tile.columns / 4;
  return m.function(undefined, new Array(access.from ? 7 : 5).fill('i32'), [], (f) => {
    const [a, b, c, k, stride, from, fromStride] = f.params as Local<'i32'>[] & Record<0 | 1 | 2 | 3 | 4, Local<'i32'>>;
    const acc = Array.from({ length: tile.rows }, () => Array.from({ length: vectors }, () => f.vector()));
    const row = f.int(from ?? c);
    if (!access.fresh) {
      for (const vectorsOfRow of acc) {
        for (const [j, accumulator] of vectorsOfRow.entries()) f.set(accumulator, v128.load(row, 16 * j));
        f.increase(row, fromStride ?? stride);
      }
    }
    const bVectors = Array.from({ length: vectors }, () => f.vector());
    const aVector = f.vector();
    f.loop((again) => {
      for (const [j, vector] of bVectors.entries()) f.set(vector, v128.load(b, 16 * j));
      for (const [i, vectorsOfRow] of acc.entries()) {
        f.set(aVector, v128.load32Splat(a, access.aRow * i));
        for (const [j, accumulator] of vectorsOfRow.entries())
          f.set(accumulator, madd(aVector, bVectors[j]!, accumulator));
      }
      f.increase(a, access.aStep);
      f.increase(b, access.bStep);
      f.increase(k, -1);
      f.branchIf(again, k);
    });
    f.set(row, c);
    for (const vectorsOfRow of acc) {
      for (const [j, accumulator] of vectorsOfRow.entries()) f.emit(store.v128(row, accumulator, 16 * j));
      f.increase(row, stride);
    }
  });
}

/** The micro-kernel on a copy of C's corner: its parameters, then (rows, columns, tile buffer). */
export function edgeKernel(m: ModuleBuilder, tile: Tile, micro: FunctionRef): FunctionRef {
  const own = micro.params.length;
  return m.function(undefined, new Array(own + 3).fill('i32'), [], (f) => {
    const given = f.params as Local<'i32'>[] & Record<0 | 1 | 2 | 3 | 4, Local<'i32'>>;
    const [a, b, c, k, stride, from = c, fromStride = stride] = given.slice(0, own) as typeof given;
    const [rows, columns, buffer] = given.slice(own) as typeof given;
    const rowBytes = f.int(i32.shl(columns, 2));
    const inBuffer = (i: Local<'i32'>) => i32.add(buffer, i32.mul(i, tile.columns * 4));
    f.for(0, rows, 1, (i) => f.copy(inBuffer(i), i32.add(from, i32.mul(i, fromStride)), rowBytes));
    const whole = f.int(tile.columns * 4);
    f.call(micro, a, b, buffer, k, whole, ...(own > 5 ? [buffer, whole] : []));
    f.for(0, rows, 1, (i) => f.copy(i32.add(c, i32.mul(i, stride)), inBuffer(i), rowBytes));
  });
}
