/** Cuts a matrix product into tasks by shape alone and runs them: packing of A first, then blocks of C. */
import type { Task, Team } from '../team.ts';
import { bytesPerElement, type FloatType } from './lanes.ts';
import {
  kind4bit,
  maxBlockColumns,
  operandKind,
  packTaskName,
  packWord,
  pairWord,
  productWord,
  storeKind,
} from './matmul.ts';
import { smallRows } from './matmul-small.ts';
import type { Tile } from './micro.ts';
import { form4bit } from './pack-4bit.ts';
import { type PlacedWeight4bit, putWeight } from './weight-4bit.ts';

/** One matrix operand in memory. */
export interface Operand {
  /** Byte address of the first element. */
  readonly address: number;
  /** It lies in the store: for B only. */
  readonly inStore?: boolean;
  readonly dtype: FloatType;
  /** Elements between two rows of the stored matrix. */
  readonly rowStride: number;
  /** Elements between two matrices of a batch; 0 repeats one. */
  readonly batchStride: number;
  /** The stored matrix is the transpose of the operand. */
  readonly transposed: boolean;
}

/** B in 4 bits: one matrix for the whole batch. */
export interface Operand4bit {
  readonly weight: PlacedWeight4bit;
  /** The stored matrix is the transpose of the operand. */
  readonly transposed: boolean;
}

export interface Pair {
  readonly a: Operand;
  readonly b: Operand | Operand4bit;
  readonly k: number;
}

/** C [batch, m, n] in f32 = sum over pairs of A [batch, m, k] x B [batch, k, n] (+ bias). */
export interface Product {
  readonly m: number;
  readonly n: number;
  readonly batch: number;
  readonly pairs: readonly Pair[];
  /** Elements between rows and between matrices. */
  readonly c: { readonly address: number; readonly rowStride: number; readonly batchStride: number };
  /** Address of n f32 values, 0 without. */
  readonly bias?: number;
  /** Adds to what C holds. */
  readonly keep?: boolean;
}

/** Below so many multiply-adds one thread is faster than waking another. */
const oneTaskWork = 64 * 1024;
const maxBlockRows = 768;
const enoughTasks = 16;
const packElementsPerChunk = 64 * 1024;

/** Rows and columns of C a task computes; by shape alone. */
export function cut(m: number, n: number, k: number, batch: number): { rows: number; columns: number } {
  const round = (value: number, to: number) => Math.ceil(value / to) * to;
  // 12 and 16 are multiples of every tile's sides.
  if (m * n * k <= oneTaskWork)
    return { rows: round(Math.min(m, maxBlockRows), 12), columns: Math.min(round(n, 16), maxBlockColumns) };
  let columns = n >= 2048 ? 128 : n >= 1024 ? 64 : 32;
  if (n <= 16) columns = 16;
  let rows = round(Math.min(m, maxBlockRows), 12);
  while (rows > 48 && batch * Math.ceil(m / rows) * Math.ceil(n / columns) < enoughTasks) rows = round(rows / 2, 12);
  columns = Math.min(columns, maxBlockColumns);
  return { rows, columns };
}

/** Products of matrices through the packed kernels and, for few rows, the row kernels. */
export class Matmul {
  readonly #team: Team;
  readonly #tasks: Record<string, Task>;
  readonly #tile: Tile;

  constructor(team: Team, tasks: Record<string, Task>, tile: Tile) {
    this.#team = team;
    this.#tasks = tasks;
    this.#tile = tile;
  }

  run(product: Product): void {
    if (product.m === 0 || product.n === 0 || product.batch === 0) return;
    const pairs = product.pairs.filter((pair) => pair.k > 0);
    if (smallRows.fits(product, pairs)) {
      smallRows.run(this.#team, this.#tasks, product, pairs);
      return;
    }
    const packed: number[] = [];
    try {
      for (const pair of pairs) packed.push(this.#packA(product, pair));
      this.#multiply(product, pairs, packed);
    } finally {
      for (const address of packed) this.#team.memory.release(address);
    }
  }

  #packedBatchBytes(m: number, k: number): number {
    return Math.ceil(m / this.#tile.rows) * this.#tile.rows * k * 4;
  }

  #packA(product: Product, { a, k }: Pair): number {
    const { m } = product;
    const batch = a.batchStride === 0 ? 1 : product.batch;
    const panels = Math.ceil(m / this.#tile.rows);
    const perChunk = Math.max(1, Math.floor(packElementsPerChunk / (this.#tile.rows * k)));
    const chunks = Math.ceil(panels / perChunk);
    const size = bytesPerElement[a.dtype];
    const to = this.#team.memory.allocate(batch * this.#packedBatchBytes(m, k));
    const words: number[] = [];
    words[packWord.source] = a.address;
    words[packWord.stride] = a.rowStride * size;
    words[packWord.batch] = a.batchStride * size;
    words[packWord.to] = to;
    words[packWord.m] = m;
    words[packWord.k] = k;
    words[packWord.panelsPerChunk] = perChunk;
    words[packWord.chunksPerBatch] = chunks;
    this.#team.run(this.#tasks[packTaskName(operandKind(a.dtype, !a.transposed))]!, words, chunks * batch);
    return to;
  }

  #multiply(product: Product, pairs: readonly Pair[], packed: readonly number[]): void {
    const { m, n, batch, c } = product;
    const depth = pairs.reduce((sum, pair) => sum + pair.k, 0);
    const block = cut(m, n, depth, batch);
    const rowBlocks = Math.ceil(m / block.rows);
    const columnBlocks = Math.ceil(n / block.columns);
    const words: number[] = [];
    words[productWord.c] = c.address;
    words[productWord.cStride] = c.rowStride * 4;
    words[productWord.cBatch] = c.batchStride * 4;
    words[productWord.m] = m;
    words[productWord.n] = n;
    words[productWord.rowsPerBlock] = block.rows;
    words[productWord.columnsPerBlock] = block.columns;
    words[productWord.rowBlocks] = rowBlocks;
    words[productWord.columnBlocks] = columnBlocks;
    words[productWord.bias] = product.bias ?? 0;
    words[productWord.pairCount] = pairs.length;
    words[productWord.keep] = product.keep ? 1 : 0;
    for (const [i, { a, b, k }] of pairs.entries()) {
      const at = productWord.pairs + i * pairWord.size;
      words[at + pairWord.a] = packed[i]!;
      words[at + pairWord.aBatch] = a.batchStride === 0 ? 0 : this.#packedBatchBytes(m, k);
      words[at + pairWord.k] = k;
      if ('weight' in b) {
        words[at + pairWord.kind] = form4bit(b.weight.layout.dtype, b.transposed) + kind4bit;
        putWeight(words, at + pairWord.weight, b.weight);
        continue;
      }
      const size = bytesPerElement[b.dtype];
      words[at + pairWord.b] = b.address % 2 ** 32;
      words[at + pairWord.b + 1] = Math.floor(b.address / 2 ** 32);
      words[at + pairWord.bStride] = b.rowStride * size;
      words[at + pairWord.bBatch] = b.batchStride * size;
      words[at + pairWord.kind] = operandKind(b.dtype, b.transposed) + (b.inStore ? storeKind : 0);
    }
    this.#team.run(this.#tasks.product!, words, rowBlocks * columnBlocks * batch);
  }
}
