/** Kernels of products write f32 and read an f32 bias; other dtypes pass through borrowed memory. */
import { type Call, type ElementwiseProgram, input, type Operand, sizeOf } from '@lorikeet/tensor';
import { CpuBuffer } from '../buffer.ts';
import type { KernelHost } from '../kernel.ts';

/** `run` for calls of any float dtypes, from one that takes an f32 bias at input `biasIndex` and an f32 output. */
export function throughFloats(
  { team, elementwise }: KernelHost,
  biasIndex: number,
  runFloats: (call: Call) => void,
): (call: Call) => void {
  /** Copies between dtypes. */
  const convert = (op: Call['op'], from: Operand, to: Operand): void => {
    const program: ElementwiseProgram = { name: `${op.name}.narrow`, inputs: 1, parameters: 0, outputs: [input(0)] };
    elementwise.run({ op, inputs: [from], outputs: [to], attributes: {}, program, parameters: [] });
  };
  /** A dense f32 operand in borrowed memory. */
  const withFloats = (shape: readonly number[], use: (floats: Operand) => void): void => {
    const bytes = sizeOf(shape) * 4;
    const address = team.memory.allocate(bytes);
    try {
      const rowStride = sizeOf(shape.slice(1));
      use({ buffer: new CpuBuffer(address, bytes), dtype: 'f32', shape, offset: 0, rowStride });
    } finally {
      team.memory.release(address);
    }
  };
  const run = (call: Call): void => {
    const out = call.outputs[0]!;
    const bias = call.inputs[biasIndex];
    if (out.dtype !== 'f32') {
      withFloats(out.shape, (floats) => {
        run({ ...call, outputs: [floats] });
        convert(call.op, floats, out);
      });
    } else if (bias && bias.dtype !== 'f32') {
      withFloats(bias.shape, (floats) => {
        convert(call.op, bias, floats);
        runFloats({ ...call, inputs: call.inputs.with(biasIndex, floats) });
      });
    } else runFloats(call);
  };
  return run;
}
