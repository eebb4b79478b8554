/** The ops `quantizeBlockwise` and `dequantizeBlockwise`. */
import { type Operand, sizeOf } from '@lorikeet/tensor';
import { addressOf } from '../buffer.ts';
import { type Kernel, type KernelHost, lazyTasks } from '../kernel.ts';
import { blockWord, blockwiseModule, dequantizeBlockTask, quantizeBlockTask } from './blockwise-8bit.ts';
import { type FloatType, isFloatType } from './lanes.ts';
import type { MapTables } from './map-tables.ts';

const elementsPerChunk = 32 * 1024;
/** Elements are counted in 31 bits, the end of a chunk's last block included. */
const maxBlocksize = 65536;
const maxElements = 2 ** 31 - maxBlocksize - elementsPerChunk;
export function blockwiseKernels(
  { team }: KernelHost,
  tables: MapTables,
): Record<'quantizeBlockwise' | 'dequantizeBlockwise', Kernel> {
  const tasks = lazyTasks(team, () => blockwiseModule(team.memory.shape));
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
        const table = tables.of(code!);
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
