import {
  type Call,
  type DType,
  type ElementwiseProgram,
  input,
  isFloat,
  type Operand,
  type Shape,
  sizeOf,
  stridesOf,
} from '@lorikeet/tensor';
import type { Stream } from '../stream.ts';
import { Uniforms } from '../uniforms.ts';
import { keyParameters, lowerProgram } from '../wgsl/expression.wgsl.ts';
import { collapse, expandedStrides, isContiguous, nestWgsl } from './indexing.ts';
import { runMap } from './map.ts';

/** A program as the reference computes it: with 32-bit integers if no operand is a float. */
export function runProgram(
  stream: Stream,
  program: ElementwiseProgram,
  inputs: readonly Operand[],
  outputs: readonly Operand[],
  parameters: readonly number[],
): void {
  const shape = outputs[0]!.shape;
  const integer = !isFloat(outputs[0]!.dtype) && inputs.every((x) => !isFloat(x.dtype));
  const type = integer ? 'i32' : 'f32';
  const uniforms = new Uniforms();
  const nest = collapse({ shape, strides: inputs.map((x) => stridesFor(x, shape)) });
  const { statements, offsets } = nestWgsl(nest, uniforms, 'nest', 'e');
  const numbers = parameters.map((p, i) => (integer ? uniforms.i32(`p${i}`, p) : uniforms.f32(`p${i}`, p)));
  const keys = new Map(keyParameters(program).map((i) => [i, uniforms.u32(`key${i}`, parameters[i]!)]));
  runMap(stream, {
    kernel: program.name,
    key: `program ${nest.shape.length}`,
    inputs: inputs.map((operand) => ({ operand, type })),
    outputs,
    outputType: type,
    uniforms,
    body: () => {
      const lowered = lowerProgram(program, integer, {
        input: (i) => `x${i}(${offsets[i]})`,
        parameter: (i) => numbers[i]!,
        key: (i) => keys.get(i)!,
        index: 'e',
      });
      const results = lowered.outputs.map((name, i) => `let out${i} = ${name};`);
      return [statements, lowered.statements, ...results].join('\n    ');
    },
    cost: 8,
  });
}

/** Contiguous operands of the output's size are walked as one run, whatever their shape. */
const stridesFor = (x: Operand, shape: Shape): number[] =>
  isContiguous(x) && sizeOf(x.shape) === sizeOf(shape) ? stridesOf(shape) : expandedStrides(x, shape);

/** An elementwise call: the programs of the op table, gradients and optimizer updates alike. */
export const runElementwise = (stream: Stream, { program, inputs, outputs, parameters = [] }: Call): void =>
  runProgram(stream, program!, inputs as Operand[], outputs, parameters);

const identity: ElementwiseProgram = {
  name: 'convert',
  inputs: 1,
  parameters: 0,
  outputs: [input(0)],
};

/** Copies elements into another dtype. */
export const convert = (stream: Stream, source: Operand, target: Operand): void =>
  runProgram(stream, identity, [source], [target], []);

/** An operand for a temporary buffer. */
export function temporary(stream: Stream, shape: readonly number[], dtype: DType): Operand {
  const size = shape.reduce((product, n) => product * n, 1);
  const rowStride = shape.slice(1).reduce((product, n) => product * n, 1);
  return { buffer: stream.pool.take(size * 4), dtype, shape, offset: 0, rowStride };
}
