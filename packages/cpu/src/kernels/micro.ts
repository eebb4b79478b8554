/** The register tile: the innermost product, with all accumulators in registers, and its form for the edges of C. */
import type { FunctionRef, Local, ModuleBuilder } from '../assembler.ts';
import { i32, store, v128 } from '../instructions.ts';
import { type Features, maddFor } from './lanes.ts';

/** Rows and columns of the register tile. */
export interface Tile {
  readonly rows: number;
  readonly columns: number;
}

/** 6x16 where V8 pairs 128-bit vectors into 256-bit ones, 4x8 where sixteen 128-bit registers are all there is. */
export const pairedTile: Tile = { rows: 6, columns: 16 };
export const plainTile: Tile = { rows: 4, columns: 8 };

/** Where the tile finds its operands: bytes between rows of A, and between steps of k in A and in B. */
export interface TileAccess {
  readonly aRow: number;
  readonly aStep: number;
  readonly bStep: number;
  /** C starts as zeros instead of what it holds. */
  readonly fresh?: boolean;
}

/** Both operands packed in panels of the tile's size. */
export const panelAccess = ({ rows, columns }: Tile): TileAccess => ({ aRow: 4, aStep: rows * 4, bStep: columns * 4 });

/** C[rows, columns] += A x B over k > 0 steps: (a, b, c, k, c stride in bytes). All accumulators live in registers. */
export function microKernel(
  m: ModuleBuilder,
  features: Features,
  tile: Tile,
  access: TileAccess = panelAccess(tile),
): FunctionRef {
  const madd = maddFor(features);
  const vectors = tile.columns / 4;
  return m.function(undefined, ['i32', 'i32', 'i32', 'i32', 'i32'], [], (f) => {
    const [a, b, c, k, stride] = f.params as [Local<'i32'>, Local<'i32'>, Local<'i32'>, Local<'i32'>, Local<'i32'>];
    const acc = Array.from({ length: tile.rows }, () => Array.from({ length: vectors }, () => f.vector()));
    const row = f.int(c);
    if (!access.fresh) {
      for (const vectorsOfRow of acc) {
        for (const [j, accumulator] of vectorsOfRow.entries()) f.set(accumulator, v128.load(row, 16 * j));
        f.increase(row, stride);
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

/** The micro-kernel on a copy of C's corner: (a, b, c, k, c stride, rows, columns, tile buffer). */
export function edgeKernel(m: ModuleBuilder, tile: Tile, micro: FunctionRef): FunctionRef {
  return m.function(undefined, new Array(8).fill('i32'), [], (f) => {
    const [a, b, c, k, stride, rows, columns, buffer] = f.params as Local<'i32'>[];
    const rowBytes = f.int(i32.shl(columns!, 2));
    const line = (i: Local<'i32'>) =>
      [i32.add(buffer!, i32.mul(i, tile.columns * 4)), i32.add(c!, i32.mul(i, stride!))] as const;
    const copyRows = (into: boolean) =>
      f.for(0, rows!, 1, (i) => {
        const [inBuffer, inC] = line(i);
        if (into) f.copy(inBuffer, inC, rowBytes);
        else f.copy(inC, inBuffer, rowBytes);
      });
    copyRows(true);
    f.call(micro, a!, b!, buffer!, k!, tile.columns * 4);
    copyRows(false);
  });
}
