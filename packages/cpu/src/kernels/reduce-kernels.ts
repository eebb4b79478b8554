/** sum, sumSquares, max and argmax as kernels. */
import type { Call, Operand } from '@lorikeet/tensor';
import { addressOf } from '../buffer.ts';
import { type Kernel, type KernelHost, lazyTasks } from '../kernel.ts';
import { blockElements, columnsPerBlock, reduceModule, reduceWord, rowsPerColumnBlock } from './reduce.ts';

const isDense = ({ shape, rowStride }: Operand) => shape[0]! <= 1 || rowStride === shape[1]! * shape[2]!;

interface Reduction {
  readonly x: number;
  readonly out: number;
  readonly outer: number;
  readonly n: number;
  readonly inner: number;
}

export function reduceKernels({ team }: KernelHost): Record<string, Kernel> {
  const tasks = lazyTasks(team, () => reduceModule(team.memory.shape));
  const wordsOf = ({ x, out, outer, n, inner }: Reduction, blocks: number, perChunk: number): number[] => {
    const words: number[] = [];
    words[reduceWord.x] = x;
    words[reduceWord.out] = out;
    words[reduceWord.n] = n;
    words[reduceWord.inner] = inner;
    words[reduceWord.blocks] = blocks;
    words[reduceWord.rows] = outer;
    words[reduceWord.rowsPerChunk] = perChunk;
    return words;
  };

  /** Rows in blocks; where a row has several, their results are reduced again. */
  const overRows = (name: string, r: Reduction, again = name): void => {
    const blocks = Math.max(1, Math.ceil(r.n / blockElements));
    const perChunk = Math.max(1, Math.floor(blockElements / Math.max(1, Math.min(r.n, blockElements))));
    const partial = blocks === 1 ? r.out : team.memory.allocate(r.outer * blocks * 4);
    try {
      team.run(
        tasks()[name]!,
        wordsOf({ ...r, out: partial }, blocks, perChunk),
        Math.ceil((r.outer * blocks) / perChunk),
      );
      if (blocks > 1) overRows(again, { ...r, x: partial, n: blocks });
    } finally {
      if (blocks > 1) team.memory.release(partial);
    }
  };

  const reductionOf = ({ inputs, outputs }: Call): Reduction => {
    const [outer, n, inner] = inputs[0]!.shape as [number, number, number];
    return { x: addressOf(inputs[0]!), out: addressOf(outputs[0]!), outer, n, inner };
  };

  /** Columns in blocks of rows; where there are several, their results are reduced again. */
  const overColumns = (name: string, r: Reduction): void => {
    const perBlock = rowsPerColumnBlock(r.inner);
    const rowBlocks = Math.max(1, Math.ceil(r.n / perBlock));
    const columnBlocks = Math.ceil(r.inner / columnsPerBlock);
    const partial = rowBlocks === 1 ? r.out : team.memory.allocate(r.outer * rowBlocks * r.inner * 4);
    try {
      const words = wordsOf({ ...r, out: partial, outer: rowBlocks }, columnBlocks, perBlock);
      team.run(tasks()[name]!, words, r.outer * rowBlocks * columnBlocks);
      if (rowBlocks > 1) overColumns(name, { ...r, x: partial, n: rowBlocks });
    } finally {
      if (rowBlocks > 1) team.memory.release(partial);
    }
  };

  const kernel = (rows: string, columns: string): Kernel => ({
    fits: ({ inputs }) => inputs[0]!.dtype === 'f32' && isDense(inputs[0]!),
    run: (call) => {
      const reduction = reductionOf(call);
      if (reduction.inner === 1) overRows(rows, reduction);
      else overColumns(columns, reduction);
    },
  });
  const sum = kernel('sumRows', 'sumColumns');
  return {
    max: kernel('maxRows', 'maxColumns'),
    sum: {
      fits: (call) => sum.fits(call) || (call.inputs[0]!.dtype === 'i32' && isDense(call.inputs[0]!)),
      run: (call) => {
        if (call.inputs[0]!.dtype === 'i32') overColumns('sumColumnsInteger', reductionOf(call));
        else sum.run(call);
      },
    },
    sumSquares: {
      fits: ({ inputs, outputs }) => inputs[0]!.dtype === 'f32' && outputs[0]!.dtype === 'f32',
      run: ({ inputs, outputs }) => {
        const n = inputs[0]!.shape.reduce((a, b) => a * b, 1);
        const whole = { x: addressOf(inputs[0]!), out: addressOf(outputs[0]!), outer: 1, n, inner: 1 };
        overRows('squareRows', whole, 'sumRows');
      },
    },
    argmax: {
      fits: ({ inputs }) => inputs[0]!.dtype === 'f32' && inputs[0]!.shape[2] === 1 && isDense(inputs[0]!),
      run: (call) => {
        const reduction = reductionOf(call);
        const perChunk = Math.max(1, Math.floor(blockElements / reduction.n));
        team.run(tasks().argmaxRows!, wordsOf(reduction, 1, perChunk), Math.ceil(reduction.outer / perChunk));
      },
    },
  };
}
