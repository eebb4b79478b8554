/** The ops `quantizeBlockwise` and `dequantizeBlockwise`. */
import { type Operand, placesOf, sizeOf } from '@lorikeet/tensor';
import { addressOf } from '../buffer.ts';
import { type Kernel, type KernelHost, lazyTasks } from '../kernel.ts';
import { blockWord, blockwiseModule, dequantizeBlockTask, quantizeBlockTask } from './blockwise-8bit.ts';
import type { FloatType } from './lanes.ts';
import { isFloatType } from './matmul-kernel.ts';

const elementsPerChunk = 32 * 1024;
/** Elements are counted in 31 bits, the end of a chunk's last block included. */
const maxBlocksize = 65536;
const maxElements = 2 ** 31 - maxBlocksize - elementsPerChunk;
/** Optimizers and double quantization use two maps; a program has no use for many. */
const keptTables = 4;

export function blockwiseKernels({ team }: KernelHost): Record<'quantizeBlockwise' | 'dequantizeBlockwise', Kernel> {
  const tasks = lazyTasks(team, () => blockwiseModule(team.memory.shape));
  /** Addresses of tables in work memory, by the bytes of the map. */
  const tables = new Map<string, number>();

  const tableOf = (code: Operand): number => {
    const at = addressOf(code);
    const bytes = team.memory.bytes.slice(at, at + 1024);
    const key = String.fromCharCode(...bytes);
    const known = tables.get(key);
    if (known !== undefined) return known;
    if (tables.size === keptTables) {
      const [oldest, address] = tables.entries().next().value!;
      tables.delete(oldest);
      team.memory.release(address);
    }
    const made = placesOf(new Float32Array(bytes.buffer));
    const address = team.memory.allocate(made.length);
    team.memory.bytes.set(made, address);
    tables.set(key, address);
    return address;
  };

  const run = (
    task: string,
    operands: { readonly x: Operand; readonly out: Operand; readonly absmax: Operand; readonly table: number },
    blocksize: number,
  ): void => {
    const n = sizeOf(operands.x.shape);
    const perChunk = Math.max(1, Math.floor(elementsPerChunk / blocksize));
    const words: number[] = [];
    words[blockWord.x] = addressOf(operands.x);
    words[blockWord.out] = addressOf(operands.out);
    words[blockWord.absmax] = addressOf(operands.absmax);
    words[blockWord.table] = operands.table;
    words[blockWord.n] = n;
    words[blockWord.blocksize] = blocksize;
    words[blockWord.blocksPerChunk] = perChunk;
    team.run(tasks()[task]!, words, Math.ceil(n / (perChunk * blocksize)));
  };
  const fitsSize = (x: Operand, blocksize: unknown): boolean =>
    sizeOf(x.shape) < maxElements && (blocksize as number) <= maxBlocksize;

  return {
    quantizeBlockwise: {
      fits: ({ inputs, attributes }) => isFloatType(inputs[0]!.dtype) && fitsSize(inputs[0]!, attributes.blocksize),
      run: ({ inputs: [x, code], outputs: [quantized, absmax], attributes }) => {
        // The table first: making it may grow the memory.
        const table = tableOf(code!);
        const task = quantizeBlockTask(x!.dtype as FloatType);
        run(task, { x: x!, out: quantized!, absmax: absmax!, table }, attributes.blocksize as number);
      },
    },
    dequantizeBlockwise: {
      fits: ({ inputs, attributes }) =>
        isFloatType(attributes.dtype as FloatType) && fitsSize(inputs[0]!, attributes.blocksize),
      run: ({ inputs: [x, absmax, code], outputs: [out], attributes }) =>
        run(
          dequantizeBlockTask(out!.dtype as FloatType),
          { x: x!, out: out!, absmax: absmax!, table: addressOf(code!) },
          attributes.blocksize as number,
        ),
    },
  };
}
