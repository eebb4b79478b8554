/** The op `matmul4bit`: the row kernels for a few rows, else the packed product from a weight in 4 bits, in both directions, with a second pair and a bias. */
import type { Call, Layout4bit, Matmul4bitAttributes, Operand } from '@lorikeet/tensor';
import { addressOf } from '../buffer.ts';
import { type Kernel, type KernelHost, lazyTasks } from '../kernel.ts';
import { bytesPerElement, type FloatType } from './lanes.ts';
import { isFloatType, type Multiply, side } from './matmul-kernel.ts';
import type { Pair } from './matmul-plan.ts';
import { arrangeTask, maxRows, rows4bitModule, rowsTask, rowsWord } from './rows-4bit.ts';
import { throughFloats } from './through-floats.ts';
import { fitsWeight, type PlacedWeight4bit, placedWeight, putWeight } from './weight-4bit.ts';

/** Places of the op's inputs. */
const at = { packed: 1, absmax: 2, end: 5, v: 6, bias: 7 } as const;
/** Bytes of W that a chunk of the row kernel reads. */
const bytesPerChunk = 128 * 1024;
/** Rows of whole groups whose scales fit the scratch. */
const fitsRows = ({ shape: [, k] }: Layout4bit): boolean => k % 32 === 0 && k > 0 && k <= 2 ** 20;

export function matmul4bitKernel(host: KernelHost, multiply: Multiply): Kernel {
  const { team, features } = host;
  const fits = ({ inputs, outputs, attributes }: Call): boolean => {
    const [a, , , , , u, v, bias] = inputs;
    const floats = [a, u, v, bias, outputs[0]].filter((x) => x !== null && x !== undefined);
    return floats.every(({ dtype }) => isFloatType(dtype)) && fitsWeight(attributes as unknown as Matmul4bitAttributes);
  };
  const tasks = lazyTasks(team, () => rows4bitModule(team.memory.shape, features));

  /** C = A x W^T (+ bias) for a few rows of A. */
  const runRows = (a: Operand, weight: PlacedWeight4bit, out: Operand, bias: number): void => {
    const { dtype, shape } = weight.layout;
    const [[m], [n, k]] = [a.shape as [number], shape];
    const arranged = team.memory.allocate(m * k * 4);
    try {
      const size = bytesPerElement[a.dtype as FloatType];
      const arrange = tasks()[arrangeTask(a.dtype as FloatType, dtype)]!;
      team.run(arrange, [addressOf(a), a.rowStride * size, arranged, m, k], 1);
      const rowsPerChunk = Math.max(1, Math.floor(bytesPerChunk / (k / 2)));
      const words: number[] = [];
      words[rowsWord.c] = addressOf(out);
      words[rowsWord.cStride] = out.rowStride * 4;
      words[rowsWord.m] = m;
      words[rowsWord.n] = n;
      words[rowsWord.rowsPerChunk] = rowsPerChunk;
      words[rowsWord.bias] = bias;
      words[rowsWord.a] = arranged;
      words[rowsWord.aStride] = k * 4;
      putWeight(words, rowsWord.weight, weight);
      team.run(tasks()[rowsTask(dtype)]!, words, Math.ceil(n / rowsPerChunk));
    } finally {
      team.memory.release(arranged);
    }
  };

  const run = ({ inputs, outputs, attributes }: Call): void => {
    const [a, , , , , u, v, bias] = inputs;
    const layout = attributes as unknown as Matmul4bitAttributes;
    const { transposeB } = layout;
    const out = outputs[0]!;
    const [m, n] = out.shape as [number, number];
    const weight = placedWeight(inputs.slice(at.packed, at.end), layout);
    const biasAddress = bias ? addressOf(bias) : 0;
    const second: Pair[] = u && v ? [{ a: side(u, false, 0), b: side(v, transposeB, 0), k: u.shape[1]! }] : [];
    const c = { address: addressOf(out), rowStride: out.rowStride, batchStride: 0 };
    if (m <= maxRows && transposeB && fitsRows(layout)) {
      runRows(a!, weight, out, biasAddress);
      if (second.length > 0) multiply({ m, n, batch: 1, pairs: second, c, keep: true });
      return;
    }
    const first: Pair = { a: side(a!, false, 0), b: { weight, transposed: transposeB }, k: a!.shape[1]! };
    multiply({ m, n, batch: 1, pairs: [first, ...second], c, bias: biasAddress });
  };
  return { readsStore: [at.packed, at.absmax, at.v], fits, run: throughFloats(host, at.bias, run) };
}
