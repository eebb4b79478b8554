/** contiguous, slice, pad, concat, permute and writeRows as kernels. */
import type { Call, Operand } from '@lorikeet/tensor';
import { addressOf, widthOf } from '../buffer.ts';
import { type Kernel, type KernelHost, lazyTasks } from '../kernel.ts';
import { copyModule, copyWord } from './copy.ts';
import { fold } from './elementwise-plan.ts';

const bytesPerChunk = 128 * 1024;
const product = (sizes: readonly number[]) => sizes.reduce((a, b) => a * b, 1);

/** Element strides of an operand, its row stride included. */
function stridesOf({ shape, rowStride }: Operand): number[] {
  return shape.map((_, axis) => (axis === 0 ? rowStride : product(shape.slice(axis + 1))));
}

/** Addresses in bytes, strides in elements of `width` bytes, along the axes of `shape`. */
interface Move {
  readonly shape: readonly number[];
  readonly width: number;
  readonly from: number;
  readonly fromStrides: readonly number[];
  readonly to: number;
  readonly toStrides: readonly number[];
}

export function copyKernels({ team }: KernelHost): Record<string, Kernel> {
  const tasks = lazyTasks(team, () => copyModule(team.memory.shape));

  const move = ({ shape, width, from, fromStrides, to, toStrides }: Move): void => {
    if (product(shape) === 0) return;
    const folded = fold(shape, [fromStrides, toStrides]);
    if (!folded) {
      // More axes than the kernel takes: one move for each index of the first.
      for (let i = 0; i < shape[0]!; i++)
        move({
          shape: shape.slice(1),
          width,
          from: from + i * fromStrides[0]! * width,
          fromStrides: fromStrides.slice(1),
          to: to + i * toStrides[0]! * width,
          toStrides: toStrides.slice(1),
        });
      return;
    }
    const [fromFolded, toFolded] = folded.strides as [number[], number[]];
    const count = folded.sizes.at(-1)!;
    const outer = [1, 1, 1, ...folded.sizes.slice(0, -1)].slice(-3);
    const rows = product(outer);
    const [fromStep, toStep] = [fromFolded.at(-1)!, toFolded.at(-1)!];
    const words = new Array<number>(16).fill(0);
    words[copyWord.from] = from;
    words[copyWord.to] = to;
    words[copyWord.rows] = rows;
    words[copyWord.size1] = outer[1]!;
    words[copyWord.size2] = outer[2]!;
    const bytes = count * width;
    const perChunk = Math.max(1, Math.floor(bytesPerChunk / bytes));
    words[copyWord.rowsPerChunk] = perChunk;
    for (let axis = 0; axis < 3; axis++) {
      words[copyWord.fromStride + axis] = ([0, 0, 0, ...fromFolded.slice(0, -1)].slice(-3)[axis] ?? 0) * width;
      words[copyWord.toStride + axis] = ([0, 0, 0, ...toFolded.slice(0, -1)].slice(-3)[axis] ?? 0) * width;
    }
    words[copyWord.bytes] = bytes;
    words[copyWord.count] = count;
    words[copyWord.fromStep] = fromStep * width;
    words[copyWord.toStep] = toStep * width;
    const task = fromStep === 1 && toStep === 1 ? 'copyRuns' : `copyElements${width}`;
    team.run(tasks()[task]!, words, Math.ceil(rows / perChunk));
  };

  /** Copies all of x to a place in `out` that starts `offset` elements in. */
  const place = (x: Operand, out: Operand, offset: number): void =>
    move({
      shape: x.shape,
      width: widthOf(x),
      from: addressOf(x),
      fromStrides: stridesOf(x),
      to: addressOf(out) + offset * widthOf(out),
      toStrides: stridesOf(out),
    });
  const sameType = ({ inputs, outputs }: Call) => inputs.every((x) => !x || x.dtype === outputs[0]!.dtype);
  const after = (shape: readonly number[], axis: number) => product(shape.slice(axis + 1));

  return {
    contiguous: { fits: sameType, run: ({ inputs, outputs }) => place(inputs[0]!, outputs[0]!, 0) },
    slice: {
      fits: sameType,
      run: ({ inputs, outputs, attributes }) => {
        const [x, out] = [inputs[0]!, outputs[0]!];
        const { axis, start } = attributes as { axis: number; start: number };
        const from = addressOf(x) + start * stridesOf(x)[axis]! * widthOf(x);
        move({
          shape: out.shape,
          width: widthOf(x),
          from,
          fromStrides: stridesOf(x),
          to: addressOf(out),
          toStrides: stridesOf(out),
        });
      },
    },
    pad: {
      fits: sameType,
      run: ({ inputs, outputs, attributes }) => {
        const [x, out] = [inputs[0]!, outputs[0]!];
        const { axis, before } = attributes as { axis: number; before: number };
        const start = addressOf(out);
        team.memory.bytes.fill(0, start, start + product(out.shape) * widthOf(out));
        place(x, out, before * after(out.shape, axis));
      },
    },
    concat: {
      fits: sameType,
      run: ({ inputs, outputs, attributes }) => {
        const axis = attributes.axis as number;
        let start = 0;
        for (const x of inputs) {
          if (!x) continue;
          place(x, outputs[0]!, start * after(outputs[0]!.shape, axis));
          start += x.shape[axis]!;
        }
      },
    },
    permute: {
      fits: sameType,
      run: ({ inputs, outputs, attributes }) => {
        const [x, out] = [inputs[0]!, outputs[0]!];
        const strides = stridesOf(x);
        const fromStrides = (attributes.axes as number[]).map((axis) => strides[axis]!);
        move({
          shape: out.shape,
          width: widthOf(x),
          from: addressOf(x),
          fromStrides,
          to: addressOf(out),
          toStrides: stridesOf(out),
        });
      },
    },
    writeRows: {
      fits: sameType,
      run: ({ inputs, outputs, attributes }) => {
        const out = outputs[0]!;
        place(inputs[1]!, out, (attributes.at as number) * stridesOf(out)[0]!);
      },
    },
  };
}
