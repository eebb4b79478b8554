/** Cuts a matrix product into tasks by shape alone and runs them: packing of A first, then blocks of C. */
import type { Task, Team } from '../team.ts';
import type { KernelParameters } from '../tuning.ts';
import { bytesPerElement } from './lanes.ts';
import { kind4bit, maxBlockColumns, maxOwnBytes, packedForm, pairWord, productWord } from './matmul.ts';
import { operandForm, packWord, storeForm } from './matmul-pack.ts';
import type { Pair, Product } from './matmul-product.ts';
import { SmallRows } from './matmul-small-plan.ts';
import type { Tile } from './micro.ts';
import { form4bit } from './pack-4bit.ts';
import { putWeight } from './weight-4bit.ts';

const roundUp = (value: number, to: number) => Math.ceil(value / to) * to;
/** Columns of B up to which it takes A's place: A is then read where it lies, by the task that needs it. */
const fewColumns = 64;

/** A product that C takes as it is, or transposed. */
interface Oriented extends Product {
  readonly transposed: boolean;
}

/** (B^T x A^T)^T for a B of few columns: what is packed by all and read by all is then small. */
function oriented(product: Product): Oriented {
  const { m, n, batch, pairs, bias, keep } = product;
  const asIs = { ...product, transposed: false };
  const swaps = batch === 1 && n <= fewColumns && m >= 4 * n && !bias && !keep;
  if (!swaps) return asIs;
  const turned: Pair[] = [];
  for (const { a, b, k } of pairs) {
    if ('weight' in b || b.inStore) return asIs;
    turned.push({ a: { ...b, transposed: !b.transposed }, b: { ...a, transposed: !a.transposed }, k });
  }
  return { ...product, m: n, n: m, pairs: turned, transposed: true };
}

interface Cut {
  readonly rows: number;
  readonly columns: number;
}

/** Rows and columns of C a task computes; by shape alone. */
function cut({ m, n, batch, transposed }: Oriented, k: number, parameters: KernelParameters): Cut {
  const { 'matmul.taskRows': maxRows, 'matmul.taskColumns': wide, 'matmul.enoughTasks': enough } = parameters;
  // 12 and 16 are multiples of every tile's sides.
  let rows = roundUp(Math.min(m, maxRows), 12);
  let columns = n >= 2048 ? wide : n >= 1024 ? Math.max(16, wide / 2) : Math.max(16, wide / 4);
  if (n <= 16) columns = 16;
  // Where the batch alone makes enough tasks, and for tiny products, a task takes all columns, so that it can pack A itself.
  if (m * n * k <= parameters['matmul.oneTaskWork'] || batch >= enough)
    columns = Math.min(roundUp(n, 16), maxBlockColumns);
  else while (rows > 48 && batch * Math.ceil(m / rows) * Math.ceil(n / columns) < enough) rows = roundUp(rows / 2, 12);
  // A block in scratch has its own room.
  while (transposed && rows * columns * 4 > maxOwnBytes) rows = roundUp(rows / 2, 12);
  return { rows, columns };
}

/** Products of matrices through the packed kernels and, for few rows, the row kernels. */
export class Matmul {
  readonly #team: Team;
  readonly #tasks: Record<string, Task>;
  readonly #tile: Tile;
  readonly #parameters: KernelParameters;
  readonly #small: SmallRows;
  /** Argument blocks, written anew for each task. */
  readonly #packWords: number[] = [];
  readonly #words: number[] = [];

  constructor(team: Team, tasks: Record<string, Task>, tile: Tile, parameters: KernelParameters) {
    this.#team = team;
    this.#tasks = tasks;
    this.#tile = tile;
    this.#parameters = parameters;
    this.#small = new SmallRows(team, tasks, parameters);
  }

  run(given: Product): void {
    if (given.m === 0 || given.n === 0 || given.batch === 0) return;
    const pairs = given.pairs.filter((pair) => pair.k > 0);
    const asked = { ...given, pairs };
    if (pairs.length === 0) {
      this.#start(asked);
      return;
    }
    const roles = this.#small.roles(asked, pairs);
    if (roles) {
      this.#small.run(asked, roles);
      return;
    }
    const product = oriented(asked);
    const block = cut(
      product,
      pairs.reduce((sum, pair) => sum + pair.k, 0),
      this.#parameters,
    );
    const alone = product.n <= block.columns;
    const packed: number[] = [];
    try {
      const addresses = product.pairs.map((pair) => {
        if (alone && Math.min(block.rows, roundUp(product.m, this.#tile.rows)) * pair.k * 4 <= maxOwnBytes) return 0;
        packed.push(this.#packA(product, pair));
        return packed.at(-1)!;
      });
      this.#multiply(product, block, addresses);
    } finally {
      for (const address of packed) this.#team.memory.release(address);
    }
  }

  /** C as it starts, where nothing is added: zeros or the bias. */
  #start({ m, n, batch, c, bias, keep }: Product): void {
    if (keep) return;
    const { bytes } = this.#team.memory;
    for (let i = 0; i < batch * m; i++) {
      const at = c.address + (Math.floor(i / m) * c.batchStride + (i % m) * c.rowStride) * 4;
      if (bias) bytes.copyWithin(at, bias, bias + n * 4);
      else bytes.fill(0, at, at + n * 4);
    }
  }

  #packedBatchBytes(m: number, k: number): number {
    return Math.ceil(m / this.#tile.rows) * this.#tile.rows * k * 4;
  }

  #packA(product: Product, { a, k }: Pair): number {
    const { m } = product;
    const batch = a.batchStride === 0 ? 1 : product.batch;
    const panels = Math.ceil(m / this.#tile.rows);
    const wanted = this.#parameters['matmul.packElementsPerChunk'];
    const perChunk = Math.max(1, Math.floor(wanted / (this.#tile.rows * k)));
    const chunks = Math.ceil(panels / perChunk);
    const size = bytesPerElement[a.dtype];
    const to = this.#team.memory.allocate(batch * this.#packedBatchBytes(m, k));
    const words = this.#packWords;
    words[packWord.source] = a.address;
    words[packWord.stride] = a.rowStride * size;
    words[packWord.batch] = a.batchStride * size;
    words[packWord.to] = to;
    words[packWord.m] = m;
    words[packWord.k] = k;
    words[packWord.panelsPerChunk] = perChunk;
    words[packWord.chunksPerBatch] = chunks;
    words[packWord.form] = operandForm(a.dtype, !a.transposed);
    this.#team.run(this.#tasks.packA!, words, chunks * batch);
    return to;
  }

  /** `packed`: addresses of A's panels, 0 where tasks pack their own. */
  #multiply(product: Oriented, block: Cut, packed: readonly number[]): void {
    const { m, n, batch, c, transposed, pairs, bias = 0, keep } = product;
    const rowBlocks = Math.ceil(m / block.rows);
    const columnBlocks = Math.ceil(n / block.columns);
    const words = this.#words;
    words.length = productWord.pairs;
    words[productWord.c] = c.address;
    words[productWord.cStride] = c.rowStride * 4;
    words[productWord.cBatch] = c.batchStride * 4;
    words[productWord.m] = m;
    words[productWord.n] = n;
    words[productWord.rowsPerBlock] = block.rows;
    words[productWord.columnsPerBlock] = block.columns;
    words[productWord.rowBlocks] = rowBlocks;
    words[productWord.columnBlocks] = columnBlocks;
    words[productWord.from] = keep ? c.address : bias;
    words[productWord.fromStride] = keep ? c.rowStride * 4 : 0;
    words[productWord.fromBatch] = keep ? c.batchStride * 4 : 0;
    words[productWord.pairCount] = pairs.length;
    words[productWord.transposed] = transposed ? 1 : 0;
    for (const [i, pair] of pairs.entries()) this.#putPair(productWord.pairs + i * pairWord.size, pair, m, packed[i]!);
    this.#team.run(this.#tasks.product!, words, rowBlocks * columnBlocks * batch);
  }

  #putPair(at: number, { a, b, k }: Pair, m: number, packed: number): void {
    const words = this.#words;
    const sizeA = bytesPerElement[a.dtype];
    const aBatch = packed ? this.#packedBatchBytes(m, k) : a.batchStride * sizeA;
    for (let i = 0; i < pairWord.size; i++) words[at + i] = 0;
    words[at + pairWord.a] = packed || a.address;
    words[at + pairWord.aStride] = a.rowStride * sizeA;
    words[at + pairWord.aBatch] = a.batchStride === 0 ? 0 : aBatch;
    words[at + pairWord.aForm] = packed ? packedForm : operandForm(a.dtype, !a.transposed);
    words[at + pairWord.k] = k;
    if ('weight' in b) {
      words[at + pairWord.bForm] = form4bit(b.weight.layout.dtype, b.transposed) + kind4bit;
      putWeight(words, at + pairWord.weight, b.weight);
      return;
    }
    const size = bytesPerElement[b.dtype];
    words[at + pairWord.b] = b.address % 2 ** 32;
    words[at + pairWord.b + 1] = Math.floor(b.address / 2 ** 32);
    words[at + pairWord.bStride] = b.rowStride * size;
    words[at + pairWord.bBatch] = b.batchStride * size;
    words[at + pairWord.bForm] = operandForm(b.dtype, b.transposed) + (b.inStore ? storeForm : 0);
  }
}
