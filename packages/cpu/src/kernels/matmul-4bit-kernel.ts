/** The op `matmul4bit`: the row kernels for a few rows, else the packed product from a weight in 4 bits, in both directions, with a second pair and a bias. */
import type { Call, Layout4bit, Matmul4bitAttributes, Operand } from '@lorikeet/tensor';
import { type MemoryShape, ModuleBuilder } from '../assembler.ts';
import { addressOf } from '../buffer.ts';
import { type Kernel, type KernelHost, lazyTasks } from '../kernel.ts';
import { bytesPerElement, type Features, type FloatType, isFloatType } from './lanes.ts';
import { type Multiply, side } from './matmul-kernel.ts';
import type { Pair } from './matmul-product.ts';
import { addRows, arrangeTask, maxRowLength, rowsTask } from './rows-4bit.ts';
import {
  addRowsInt8,
  arrangeInt8Task,
  arrangeInt8Word,
  codePlanes,
  int8BlockShift,
  int8Word,
  rowsInt8Task,
} from './rows-4bit-int8.ts';
import { group, maxRows, rowGroup, rowsWord } from './rows-frame-4bit.ts';
import { throughFloats } from './through-floats.ts';
import { absmaxFunction, fitsWeight, type PlacedWeight4bit, placedWeight, putWeight } from './weight-4bit.ts';

/** Places of the op's inputs. */
const at = { packed: 1, absmax: 2, end: 5, v: 6, bias: 7 } as const;
/** Bytes of W that a chunk of the row kernels reads at least. */
const bytesPerChunk = 128 * 1024;
/** Rows of whole groups whose scales fit the scratch. */
const fitsRows = ({ shape: [, k] }: Layout4bit): boolean => k % group === 0 && k > 0 && k <= maxRowLength;

/** Both kinds of row kernels. */
function rowsModule(memory: MemoryShape, features: Features): ModuleBuilder {
  const m = new ModuleBuilder(memory);
  if (memory.storePages) m.importStore();
  const absmax = absmaxFunction(m, Boolean(memory.storePages));
  addRows(m, memory, features, absmax);
  addRowsInt8(m, memory, features, absmax);
  return m;
}

/** What both row kernels are told; `a` is arranged. */
function rowsWords(out: Operand, weight: PlacedWeight4bit, a: number, bias: number): number[] {
  const [m, n] = out.shape as [number, number];
  const k = weight.layout.shape[1];
  const words: number[] = [];
  words[rowsWord.c] = addressOf(out);
  words[rowsWord.cStride] = out.rowStride * 4;
  words[rowsWord.m] = m;
  words[rowsWord.n] = n;
  words[rowsWord.rowsPerChunk] = Math.ceil(bytesPerChunk / (k / 2) / rowGroup) * rowGroup;
  words[rowsWord.bias] = bias;
  words[rowsWord.a] = a;
  words[rowsWord.aStride] = k * 4;
  putWeight(words, rowsWord.weight, weight);
  return words;
}

export function matmul4bitKernel(host: KernelHost, multiply: Multiply): Kernel {
  const { team, features } = host;
  const fits = ({ inputs, outputs, attributes }: Call): boolean => {
    const [a, , , , , u, v, bias] = inputs;
    const floats = [a, u, v, bias, outputs[0]].filter((x) => x !== null && x !== undefined);
    return floats.every(({ dtype }) => isFloatType(dtype)) && fitsWeight(attributes as unknown as Matmul4bitAttributes);
  };
  const tasks = lazyTasks(team, () => rowsModule(team.memory.shape, features));

  /** C = A x W^T (+ bias) for a few rows of A. */
  const runRows = (a: Operand, weight: PlacedWeight4bit, out: Operand, bias: number): void => {
    const { dtype } = weight.layout;
    const [m, k] = a.shape as [number, number];
    const arranged = team.memory.allocate(m * k * 4);
    try {
      const arrange = tasks()[arrangeTask(a.dtype as FloatType, dtype)]!;
      team.run(arrange, [addressOf(a), a.rowStride * bytesPerElement[a.dtype as FloatType], arranged, m, k], 1);
      const words = rowsWords(out, weight, arranged, bias);
      team.run(tasks()[rowsTask(dtype)]!, words, Math.ceil(out.shape[1]! / words[rowsWord.rowsPerChunk]!));
    } finally {
      team.memory.release(arranged);
    }
  };

  /** As runRows with A in signed bytes. */
  const runInt8 = (a: Operand, weight: PlacedWeight4bit, out: Operand, bias: number): void => {
    const { quantType, blocksize } = weight.layout;
    const [m, k] = a.shape as [number, number];
    const blockShift = int8BlockShift(k, blocksize);
    const blocks = (m * k) >> blockShift;
    const starts = team.memory.allocate(blocks * 20 + m * k);
    const [scales, bytes] = [starts + blocks * 16, starts + blocks * 20];
    try {
      const given: number[] = [];
      given[arrangeInt8Word.from] = addressOf(a);
      given[arrangeInt8Word.fromStride] = a.rowStride * bytesPerElement[a.dtype as FloatType];
      given[arrangeInt8Word.bytes] = bytes;
      given[arrangeInt8Word.scales] = scales;
      given[arrangeInt8Word.starts] = starts;
      given[arrangeInt8Word.rows] = m;
      given[arrangeInt8Word.k] = k;
      given[arrangeInt8Word.blockShift] = blockShift;
      team.run(tasks()[arrangeInt8Task(a.dtype as FloatType)]!, given, 1);
      const words = rowsWords(out, weight, bytes, bias);
      words[int8Word.scales] = scales;
      words[int8Word.starts] = starts;
      words[int8Word.blockShift] = blockShift;
      for (const [i, word] of codePlanes(quantType).entries()) words[int8Word.planes + i] = word;
      team.run(tasks()[rowsInt8Task]!, words, Math.ceil(out.shape[1]! / words[rowsWord.rowsPerChunk]!));
    } finally {
      team.memory.release(starts);
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
      const runFew = layout.computeDtype === 'int8' ? runInt8 : runRows;
      runFew(a!, weight, out, biasAddress);
      if (second.length > 0) multiply({ m, n, batch: 1, pairs: second, c, keep: true });
      return;
    }
    const first: Pair = { a: side(a!, false, 0), b: { weight, transposed: transposeB }, k: a!.shape[1]! };
    multiply({ m, n, batch: 1, pairs: [first, ...second], c, bias: biasAddress });
  };
  return { readsStore: [at.packed, at.absmax, at.v], fits, run: throughFloats(host, at.bias, run) };
}
