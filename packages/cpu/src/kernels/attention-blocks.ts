/** Small dense products inside attention: packing of row and column blocks in scratch, and C += A x B over register tiles. */

import type { FunctionRef, Local, ModuleBuilder } from '../assembler.ts';
import { type I32, i32 } from '../instructions.ts';
import type { Features } from './lanes.ts';
import { edgeKernel, microKernel, type Tile } from './micro.ts';
import { type PackLayout, packFunctions } from './pack.ts';

export interface Blocks {
  /** (source, stride, rows, k, to): rows of A, k along memory. */
  readonly packRows: FunctionRef;
  /** (source, stride, columns, k, to): columns of B that are rows in memory. */
  readonly packColumnsAsRows: FunctionRef;
  /** (source, stride, columns, k, to): B as it lies, k rows of columns. */
  readonly packColumns: FunctionRef;
  /** (a, b, c, c stride, rows, columns, k, tile buffer): C += A x B. */
  readonly multiply: FunctionRef;
}

export function addBlocks(m: ModuleBuilder, features: Features, tile: Tile): Blocks {
  const rows = packFunctions(m, tile.rows).f32;
  const columns = packFunctions(m, tile.columns).f32;
  const micro = microKernel(m, features, tile);
  return {
    packRows: packAll(m, rows.lanes, tile.rows, 'lanes'),
    packColumnsAsRows: packAll(m, columns.lanes, tile.columns, 'lanes'),
    packColumns: packAll(m, columns.steps, tile.columns, 'steps'),
    multiply: multiplyBlocks(m, tile, micro, edgeKernel(m, tile, micro)),
  };
}

function packAll(m: ModuleBuilder, pack: FunctionRef, width: number, layout: PackLayout): FunctionRef {
  return m.function(undefined, new Array(5).fill('i32'), [], (f) => {
    const [source, stride, count, k, to] = f.params as [
      Local<'i32'>,
      Local<'i32'>,
      Local<'i32'>,
      Local<'i32'>,
      Local<'i32'>,
    ];
    f.for(0, count, width, (first) => {
      const at = layout === 'lanes' ? i32.mul(first, stride) : i32.shl(first, 2);
      const panel = i32.add(to, i32.shl(i32.mul(first, k), 2));
      f.call(pack, i32.add(source, at), panel, k, i32.min(width, i32.sub(count, first)), stride);
    });
  });
}

function multiplyBlocks(m: ModuleBuilder, tile: Tile, micro: FunctionRef, edge: FunctionRef): FunctionRef {
  return m.function(undefined, new Array(8).fill('i32'), [], (f) => {
    const [a, b, c, stride, rows, columns, k, buffer] = f.params as Local<'i32'>[] & Record<number, Local<'i32'>>;
    const panelOf = (base: I32, first: I32) => i32.add(base, i32.shl(i32.mul(first, k!), 2));
    f.for(0, columns!, tile.columns, (j) => {
      const columnsLeft = f.int(i32.min(tile.columns, i32.sub(columns!, j)));
      const panelB = f.int(panelOf(b!, j));
      f.for(0, rows!, tile.rows, (i) => {
        const rowsLeft = f.int(i32.min(tile.rows, i32.sub(rows!, i)));
        const at = f.int(i32.add(i32.add(c!, i32.mul(i, stride!)), i32.shl(j, 2)));
        const whole = i32.and(i32.eq(rowsLeft, tile.rows), i32.eq(columnsLeft, tile.columns));
        f.if(
          whole,
          () => f.call(micro, panelOf(a!, i), panelB, at, k!, stride!),
          () => f.call(edge, panelOf(a!, i), panelB, at, k!, stride!, rowsLeft, columnsLeft, buffer!),
        );
      });
    });
  });
}
