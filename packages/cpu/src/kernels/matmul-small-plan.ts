/** When one operand of a product has few rows, and how the kernels of matmul-small.ts then run. */
import type { Task, Team } from '../team.ts';
import type { KernelParameters } from '../tuning.ts';
import { dotStep } from './dots.ts';
import { bytesPerElement, elementShift } from './lanes.ts';
import type { Operand, Pair, Product } from './matmul-product.ts';
import {
  arrangeTask,
  arrangeWord,
  dotsTask,
  dotsWord,
  maxCopiedBytes,
  maxGroupProducts,
  type Place,
} from './matmul-small.ts';

/** Up to so many rows dot products pay for any k, and beyond for `longK` only: combining sums costs as much as 64 steps. */
const alwaysRows = 4;
const longK = 192;
const stepsPerChunk = 256;
const farBytes = 2 ** 32;

/** Rows of the smaller operand up to which the packed product is the exception. */
export const maxSmallRows = (parameters: KernelParameters): number => parameters['dots.rows'];

/** The few rows and the many: A and B, or B and A where B has few columns. */
interface Roles {
  readonly few: Operand;
  readonly many: Operand;
  readonly k: number;
}

/** Products of few rows. */
export class SmallRows {
  readonly #team: Team;
  readonly #tasks: Record<string, Task>;
  readonly #parameters: KernelParameters;

  constructor(team: Team, tasks: Record<string, Task>, parameters: KernelParameters) {
    this.#team = team;
    this.#tasks = tasks;
    this.#parameters = parameters;
  }

  /** The pairs' roles, null where the packed product is the better way. */
  roles({ m, n, batch }: Product, pairs: readonly Pair[]): readonly Roles[] | null {
    if (batch !== 1) return null;
    const [rows, swapped] = m <= n ? [m, false] : [n, true];
    if (rows > maxSmallRows(this.#parameters)) return null;
    if (rows > alwaysRows && pairs[0]!.k < longK) return null;
    const roles: Roles[] = [];
    for (const { a, b, k } of pairs) {
      if ('weight' in b) return null;
      // The many rows are read as they lie, so k must run along memory there; the few are copied where it does not.
      const role = swapped
        ? { few: { ...b, transposed: !b.transposed }, many: { ...a, transposed: !a.transposed }, k }
        : { few: a, many: b, k };
      if (!role.many.transposed || role.few.inStore) return null;
      if (
        this.#placeOf(role, rows, Math.max(m, n)) === 'copied' &&
        (4 * k) << elementShift(role.many.dtype) > maxCopiedBytes
      )
        return null;
      roles.push(role);
    }
    return roles;
  }

  run(product: Product, roles: readonly Roles[]): void {
    const swapped = product.m > product.n;
    for (const [i, role] of roles.entries()) {
      const { few, k } = role;
      const rows = swapped ? product.n : product.m;
      if (few.dtype === 'f32' && !few.transposed) {
        this.#multiply(product, role, i, few.address, few.rowStride * 4);
        continue;
      }
      const address = this.#team.memory.allocate(rows * k * 4);
      try {
        this.#arrange(few, rows, k, address);
        this.#multiply(product, role, i, address, k * 4);
      } finally {
        this.#team.memory.release(address);
      }
    }
  }

  /** Copies the few rows to f32 [rows, k]. */
  #arrange(few: Operand, rows: number, k: number, to: number): void {
    const words: number[] = [];
    words[arrangeWord.from] = few.address;
    words[arrangeWord.stride] = few.rowStride * bytesPerElement[few.dtype];
    words[arrangeWord.to] = to;
    words[arrangeWord.rows] = rows;
    words[arrangeWord.k] = k;
    words[arrangeWord.stepsPerChunk] = stepsPerChunk;
    this.#team.run(this.#tasks[arrangeTask(few.dtype, few.transposed)]!, words, Math.ceil(k / stepsPerChunk));
  }

  #multiply({ m, n, c, bias = 0, keep }: Product, role: Roles, index: number, a: number, aStride: number): void {
    const { many, k } = role;
    const swapped = m > n;
    const [rows, count] = swapped ? [n, m] : [m, n];
    const rowBytes = k << elementShift(many.dtype);
    const place = this.#placeOf(role, rows, count);
    const wantedRows = Math.min(this.#parameters['dots.groupRows'], Math.floor(maxGroupProducts / rows / 4) * 4);
    const groupRows =
      place === 'copied' ? Math.min(wantedRows, Math.floor(maxCopiedBytes / rowBytes / 4) * 4) : wantedRows;
    const perChunk = Math.max(1, Math.floor(this.#parameters['dots.bytesPerChunk'] / rowBytes / groupRows)) * groupRows;
    const blockK = Math.max(64, Math.floor(this.#parameters['dots.blockBytes'] / (rows * 4) / 64) * 64);
    const words: number[] = [];
    words[dotsWord.c] = c.address;
    words[dotsWord.cStrideA] = swapped ? 4 : c.rowStride * 4;
    words[dotsWord.cStrideW] = swapped ? c.rowStride * 4 : 4;
    words[dotsWord.rows] = rows;
    words[dotsWord.n] = count;
    words[dotsWord.rowsPerChunk] = perChunk;
    words[dotsWord.bias] = index === 0 ? bias : 0;
    words[dotsWord.biasStrideA] = swapped ? 4 : 0;
    words[dotsWord.biasStrideW] = swapped ? 0 : 4;
    words[dotsWord.keep] = index > 0 || keep ? 1 : 0;
    words[dotsWord.a] = a;
    words[dotsWord.aStride] = aStride;
    words[dotsWord.w] = many.address % 2 ** 32;
    words[dotsWord.w + 1] = Math.floor(many.address / 2 ** 32);
    words[dotsWord.wStride] = many.rowStride * bytesPerElement[many.dtype];
    words[dotsWord.k] = k;
    words[dotsWord.blockK] = blockK - (blockK % dotStep);
    words[dotsWord.groupRows] = groupRows;
    this.#team.run(this.#tasks[dotsTask(many.dtype, place)]!, words, Math.ceil(count / perChunk));
  }

  /** Loads from the store are not paired: for more than some rows of the few, copying rows of W costs less. */
  #placeOf({ many }: Roles, rows: number, count: number): Place {
    if (!many.inStore) return 'near';
    const end = many.address + count * many.rowStride * bytesPerElement[many.dtype];
    return rows <= this.#parameters['dots.farRows'] && end <= farBytes ? 'far' : 'copied';
  }
}
