/** The ops `quantize4bit` and `dequantize4bit`. */
import {
  type Call,
  type Dequantize4bitAttributes,
  decision4bit,
  type Quantize4bitOptions,
  sizeOf,
} from '@lorikeet/tensor';
import { addressOf, inStore } from '../buffer.ts';
import { type Kernel, type KernelHost, lazyTasks } from '../kernel.ts';
import { type FloatType, isFloatType } from './lanes.ts';
import {
  chunkElements,
  dequantizeTask,
  dequantizeWord,
  quantize4bitModule,
  quantizeTask,
  quantizeWord,
} from './quantize-4bit.ts';
import { fitsWeight, placedWeight, putWeight } from './weight-4bit.ts';

/** Kernels count elements in 31 bits. */
const maxElements = 2 ** 31 - chunkElements;

export function quantize4bitKernels({ team, features }: KernelHost): Record<'quantize4bit' | 'dequantize4bit', Kernel> {
  const tasks = lazyTasks(team, () => quantize4bitModule(team.memory.shape, features));

  const quantize = ({ inputs, outputs, attributes }: Call): void => {
    const [x, packed, absmax] = [inputs[0]!, outputs[0]!, outputs[1]!];
    const { quantType, blocksize } = attributes as unknown as Quantize4bitOptions;
    const { borders, order } = decision4bit(quantType);
    const n = sizeOf(x.shape);
    const words = new Array<number>(quantizeWord.size).fill(0);
    words[quantizeWord.x] = addressOf(x) % 2 ** 32;
    words[quantizeWord.x + 1] = Math.floor(addressOf(x) / 2 ** 32);
    words[quantizeWord.n] = n;
    words[quantizeWord.packed] = addressOf(packed);
    words[quantizeWord.absmax] = addressOf(absmax);
    words[quantizeWord.blocksize] = blocksize;
    words.splice(quantizeWord.borders, borders.length, ...new Uint32Array(borders.slice().buffer));
    words.splice(quantizeWord.order, 4, ...new Uint32Array(order.slice().buffer));
    const task = quantizeTask(x.dtype as FloatType, inStore(x));
    team.run(tasks()[task]!, words, Math.ceil(n / chunkElements));
  };

  const dequantize = ({ inputs, outputs, attributes }: Call): void => {
    const layout = attributes as unknown as Dequantize4bitAttributes;
    const out = outputs[0]!;
    const count = sizeOf(out.shape);
    const words: number[] = [];
    words[dequantizeWord.first] = layout.rows[0] * layout.shape[1];
    words[dequantizeWord.count] = count;
    words[dequantizeWord.out] = addressOf(out);
    putWeight(words, dequantizeWord.weight, placedWeight(inputs, layout));
    team.run(tasks()[dequantizeTask(layout.dtype)]!, words, Math.ceil(count / chunkElements));
  };

  return {
    quantize4bit: {
      readsStore: [0],
      fits: ({ inputs }) => isFloatType(inputs[0]!.dtype) && sizeOf(inputs[0]!.shape) < maxElements,
      run: quantize,
    },
    dequantize4bit: {
      readsStore: [0, 1],
      fits: ({ attributes }) => fitsWeight(attributes as unknown as Dequantize4bitAttributes),
      run: dequantize,
    },
  };
}
