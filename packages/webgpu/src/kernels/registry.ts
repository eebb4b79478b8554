import type { Call } from '@lorikeet/tensor';
import type { Stream } from '../stream.ts';
import { runElementwise } from './elementwise.ts';
import { matmul } from './matmul.ts';
import { concat, contiguous, pad, permute, slice } from './moves.ts';
import { gather, indexAdd, indexSelect, scatterAdd, writeRows } from './places.ts';
import { dequantize4bit, matmul4bit, quantize4bit } from './quantize-4bit.ts';
import { reduce } from './reduce.ts';
import { softmax } from './softmax.ts';

type Kernel = (stream: Stream, call: Call) => void;

/** Kernels by op name; an op that is not here is composed of others. */
const kernels: ReadonlyMap<string, Kernel> = new Map<string, Kernel>([
  ['contiguous', contiguous],
  ['permute', permute],
  ['slice', slice],
  ['pad', pad],
  ['concat', concat],
  ['sum', reduce('sum')],
  ['max', reduce('max')],
  ['argmax', reduce('argmax')],
  ['matmul', matmul],
  ['indexSelect', indexSelect],
  ['indexAdd', indexAdd],
  ['gather', gather],
  ['scatterAdd', scatterAdd],
  ['softmax', softmax],
  ['writeRows', writeRows],
  ['quantize4bit', quantize4bit],
  ['dequantize4bit', dequantize4bit],
  ['matmul4bit', matmul4bit],
]);

/** The names of all kernels; elementwise programs are generated beside them. */
export const kernelNames: readonly string[] = [...kernels.keys()];

/** The kernel of a call, if there is one. */
export const kernelOf = ({ op, program }: Call): Kernel | undefined =>
  program ? runElementwise : kernels.get(op.name);
