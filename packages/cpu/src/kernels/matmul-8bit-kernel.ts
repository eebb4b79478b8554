/** The ops `quantizeRowwise` and `matmul8bit`. */
import type { Call, Operand } from '@lorikeet/tensor';
import { ModuleBuilder } from '../assembler.ts';
import { addressOf, inStore } from '../buffer.ts';
import { type Kernel, type KernelHost, lazyTasks } from '../kernel.ts';
import { floatWord } from '../team.ts';
import { type FloatType, isFloatType } from './lanes.ts';
import { addProduct, groupRows, maxFarColumns, productTask, productWord, turn } from './product-8bit.ts';
import { addRowwise, keepRowsTask, quantizeRowsTask, rowsWord } from './rowwise-8bit.ts';

const elementsPerChunk = 32 * 1024;
const bytesPerChunk = 256 * 1024;

interface Rows {
  readonly x: number;
  readonly out: number;
  readonly outStride: number;
  readonly extra: number;
  readonly rows: number;
  readonly k: number;
  readonly threshold?: number;
}

export function matmul8bitKernels({ team }: KernelHost): Record<'quantizeRowwise' | 'matmul8bit', Kernel> {
  const { memory } = team;
  const tasks = lazyTasks(team, () => {
    const m = new ModuleBuilder(memory.shape);
    if (memory.shape.storePages) m.importStore();
    addRowwise(m);
    addProduct(m, Boolean(memory.shape.storePages));
    return m;
  });
  const overRows = (task: string, { threshold = 0, ...given }: Rows): void => {
    const perChunk = Math.max(1, Math.floor(elementsPerChunk / Math.max(1, given.k)));
    const words: number[] = [];
    for (const [name, value] of Object.entries(given)) words[rowsWord[name as keyof typeof rowsWord]] = value;
    words[rowsWord.rowsPerChunk] = perChunk;
    words[rowsWord.threshold] = floatWord(threshold);
    team.run(tasks()[task]!, words, Math.ceil(given.rows / perChunk));
  };
  /** Work memory for a call, given back after it. */
  const borrowing = (body: (borrow: (bytes: number) => number) => void): void => {
    const borrowed: number[] = [];
    const borrow = (bytes: number): number => {
      borrowed.push(memory.allocate(bytes));
      return borrowed.at(-1)!;
    };
    try {
      body(borrow);
    } finally {
      for (const address of borrowed) memory.release(address);
    }
  };

  /** The columns of a with outliers, in order; `kept` gets the rest, rounded to f16. */
  const outliersOf = (a: Operand, kept: number, flags: number, threshold: number): number[] => {
    const [m, k] = a.shape as [number, number];
    memory.bytes.fill(0, flags, flags + k);
    // Without a threshold nothing is as large as infinity and a bit: NaN compares with nothing.
    const limit = threshold > 0 ? threshold : Number.NaN;
    overRows(keepRowsTask, {
      x: addressOf(a),
      out: kept,
      outStride: k * 4,
      extra: flags,
      rows: m,
      k,
      threshold: limit,
    });
    const marks = memory.bytes.subarray(flags, flags + k);
    return Array.from({ length: k }, (_, i) => i).filter((i) => marks[i]);
  };

  const multiply = ({ inputs: [a, w, wScale, bias], outputs: [out], attributes }: Call): void => {
    const [m, k] = a!.shape as [number, number];
    const n = w!.shape[0]!;
    const stride = Math.ceil(k / turn) * turn;
    borrowing((borrow) => {
      const [kept, integers, scale, flags] = [borrow(m * k * 4), borrow(m * stride), borrow(m * 4), borrow(k)];
      const outliers = outliersOf(a!, kept, flags, attributes.threshold as number);
      const columns = borrow(Math.max(1, outliers.length) * 4);
      memory.bytes.fill(0, integers, integers + m * stride);
      overRows(quantizeRowsTask('f32'), { x: kept, out: integers, outStride: stride, extra: scale, rows: m, k });
      for (const column of outliers)
        for (let row = 0; row < m; row++) memory.bytes[integers + row * stride + column] = 0;
      new Int32Array(memory.bytes.buffer, columns, outliers.length).set(outliers);
      const rowsPerChunk = Math.max(1, Math.floor(bytesPerChunk / k / groupRows)) * groupRows;
      const words: number[] = [];
      const put = (name: keyof typeof productWord, value: number) => {
        words[productWord[name]] = value;
      };
      put('a', integers);
      put('aStride', stride);
      put('aScale', scale);
      put('w', addressOf(w!) % 2 ** 32);
      words[productWord.w + 1] = Math.floor(addressOf(w!) / 2 ** 32);
      put('wScale', addressOf(wScale!));
      put('out', addressOf(out!));
      put('m', m);
      put('n', n);
      put('k', k);
      put('bias', bias ? addressOf(bias) : 0);
      put('rowsPerChunk', rowsPerChunk);
      put('full', addressOf(a!));
      put('columns', columns);
      put('columnCount', outliers.length);
      team.run(tasks()[productTask(inStore(w!))]!, words, Math.ceil(n / rowsPerChunk));
    });
  };

  return {
    quantizeRowwise: {
      fits: ({ inputs }) => isFloatType(inputs[0]!.dtype),
      run: ({ inputs: [x], outputs: [quantized, absmax] }) => {
        const [rows, k] = x!.shape as [number, number];
        const [out, extra] = [addressOf(quantized!), addressOf(absmax!)];
        overRows(quantizeRowsTask(x!.dtype as FloatType), { x: addressOf(x!), out, outStride: k, extra, rows, k });
      },
    },
    matmul8bit: {
      readsStore: [1],
      fits: ({ inputs: [a, w, wScale, bias] }) =>
        [a, wScale, ...(bias ? [bias] : [])].every((x) => x!.dtype === 'f32') &&
        w!.shape[1]! > 0 &&
        w!.shape[1]! <= maxFarColumns,
      run: multiply,
    },
  };
}
