/** The op `matmul4bit`: the packed product from a weight in 4 bits, in both directions, with a second pair and a bias. */
import type { Call, Matmul4bitAttributes } from '@lorikeet/tensor';
import { addressOf } from '../buffer.ts';
import type { Kernel, KernelHost } from '../kernel.ts';
import { isFloatType, type Multiply, side } from './matmul-kernel.ts';
import type { Pair } from './matmul-plan.ts';
import { throughFloats } from './through-floats.ts';
import { fitsWeight, placedWeight } from './weight-4bit.ts';

/** Places of the op's inputs. */
const at = { packed: 1, absmax: 2, end: 5, bias: 7 } as const;

export function matmul4bitKernel(host: KernelHost, multiply: Multiply): Kernel {
  const fits = ({ inputs, outputs, attributes }: Call): boolean => {
    const [a, , , , , u, v, bias] = inputs;
    const floats = [a, u, v, bias, outputs[0]].filter((x) => x !== null && x !== undefined);
    return floats.every(({ dtype }) => isFloatType(dtype)) && fitsWeight(attributes as unknown as Matmul4bitAttributes);
  };
  const run = ({ inputs, outputs, attributes }: Call): void => {
    const [a, , , , , u, v, bias] = inputs;
    const layout = attributes as unknown as Matmul4bitAttributes;
    const { transposeB } = layout;
    const out = outputs[0]!;
    const weight = placedWeight(inputs.slice(at.packed, at.end), layout);
    const pairs: Pair[] = [{ a: side(a!, false, 0), b: { weight, transposed: transposeB }, k: a!.shape[1]! }];
    if (u && v) pairs.push({ a: side(u, false, 0), b: side(v, transposeB, 0), k: u.shape[1]! });
    multiply({
      m: out.shape[0]!,
      n: out.shape[1]!,
      batch: 1,
      pairs,
      c: { address: addressOf(out), rowStride: out.rowStride, batchStride: 0 },
      bias: bias ? addressOf(bias) : 0,
    });
  };
  return { readsStore: [at.packed, at.absmax, at.bias - 1], fits, run: throughFloats(host, at.bias, run) };
}
