/**
 * Elementwise kernels, compiled from the scalar expression language: one kernel for each (program, dtypes, inner strides).
 * Shapes, strides, addresses and parameters are run-time arguments, so a new batch length compiles nothing.
 */
import { type ElementwiseProgram, nodesOf, type Scalar } from '@lorikeet/tensor';
import { argument, type FunctionBuilder, type Local, type MemoryShape, ModuleBuilder } from '../assembler.ts';
import { type I32, i32 } from '../instructions.ts';
import { bytesPerElement, type Features, loadLanes, type StorageType, storeLanes } from './lanes.ts';
import { type ElementwiseClass, Lowering } from './lowering.ts';

/** Rows are counted as multiples of so many elements when work is cut into chunks. */
export const elementsPerTurn = 8;

/** Words of the argument block; `operands` blocks of four words follow, then float parameters, then integer ones. */
export const elementwiseWord = {
  rowsPerChunk: 0,
  block: 1,
  blocksPerRow: 2,
  rows: 3,
  inner: 4,
  size1: 5,
  size2: 6,
  operands: 7,
} as const;
export const operandWords = 4;

/** A module with the task `run`. */
export function elementwiseModule(memory: MemoryShape, features: Features, kind: ElementwiseClass): ModuleBuilder {
  const m = new ModuleBuilder(memory);
  const operandCount = kind.inputs.length + kind.outputs.length;
  const parameterBase = elementwiseWord.operands + operandCount * operandWords;
  m.task('run', (f, args, chunk, scratch) => {
    const word = (name: keyof typeof elementwiseWord) => f.int(argument(args, elementwiseWord[name]));
    const [perChunk, block, blocks, rows, inner] = [
      word('rowsPerChunk'),
      word('block'),
      word('blocksPerRow'),
      word('rows'),
      word('inner'),
    ];
    const [size1, size2] = [word('size1'), word('size2')];
    const row = f.int(i32.mul(i32.divU(chunk, blocks), perChunk));
    const rowEnd = f.int(i32.min(rows, i32.add(row, perChunk)));
    const start = f.int(i32.mul(i32.remU(chunk, blocks), block));
    const end = f.int(i32.min(inner, i32.add(start, block)));
    const lower = new Lowering(f, features, kind, args, parameterBase);
    const vectors = vectorsPerTurn(kind.program);
    f.while(row, rowEnd, 1, () => {
      const outer = f.int(i32.divU(row, size2));
      const [i2, i1, i0] = [f.int(i32.remU(row, size2)), f.int(i32.remU(outer, size1)), f.int(i32.divU(outer, size1))];
      const place = (i: number): Local<'i32'> => {
        const at = elementwiseWord.operands + i * operandWords;
        const stride = (axis: number, index: I32) => i32.mul(index, argument(args, at + 1 + axis));
        const offset = i32.add(i32.add(stride(0, i0), stride(1, i1)), stride(2, i2));
        const along = kind.repeats[i] ? 0 : i32.mul(start, bytesPerElement[dtypeOf(kind, i)]);
        return f.int(i32.add(i32.add(argument(args, at), offset), along));
      };
      const inputs = kind.inputs.map((dtype, i): Source => {
        const pointer = place(i);
        if (!kind.repeats[i]) return { pointer, dtype };
        return { repeated: f.vector(loadLanes(f, dtype, pointer, { offset: 0, repeat: true, integer: kind.integer })) };
      });
      const outputs = kind.outputs.map((dtype, o) => ({ pointer: place(kind.inputs.length + o), dtype }));
      const index = usesIndex(kind.program) ? f.int(i32.add(i32.mul(row, inner), start)) : undefined;
      alongRow({ f, start, end, scratch, elements: vectors * 4, outputs }, () => {
        turn(f, kind, lower, inputs, outputs, index, vectors);
        const elements = vectors * 4;
        for (const place of [...inputs, ...outputs])
          if ('pointer' in place) f.increase(place.pointer, elements * bytesPerElement[place.dtype]);
        if (index) f.increase(index, elements);
      });
    });
  });
  return m;
}

/** An operand along the innermost axis: a walking pointer, or one element in all lanes. */
type Place = { readonly pointer: Local<'i32'>; readonly dtype: StorageType };
type Source = Place | { readonly repeated: Local<'v128'> };

const dtypeOf = ({ inputs, outputs }: ElementwiseClass, i: number): StorageType =>
  inputs[i] ?? outputs[i - inputs.length]!;

const usesIndex = (program: ElementwiseProgram) => nodesOf(program.outputs).some(({ node }) => node.kind === 'uniform');

/** Nodes that are a polynomial or more. */
const isLong = ({ node }: Scalar) =>
  node.kind === 'uniform' ||
  (node.kind === 'unary' && longUnary.has(node.op)) ||
  (node.kind === 'binary' && node.op === 'pow');
const longUnary: ReadonlySet<string> = new Set(['exp', 'log', 'sin', 'cos', 'tanh', 'sigmoid', 'erf']);

/** Short programs share a turn's bookkeeping between four vectors; long ones hide it, and would run out of registers. */
function vectorsPerTurn({ outputs }: ElementwiseProgram): 2 | 4 {
  const nodes = nodesOf(outputs);
  return nodes.length > 12 || nodes.some(isLong) ? 2 : 4;
}

interface Row {
  readonly f: FunctionBuilder;
  readonly start: I32;
  readonly end: I32;
  readonly scratch: I32;
  readonly elements: number;
  readonly outputs: readonly Place[];
}

/**
 * Runs `body` for each turn of `elements`. A short last turn reads past the row, which memory allows, and writes to
 * scratch, from where its elements are copied. It goes through the same loop, so that full turns have no branch for it.
 */
function alongRow({ f, start, end, scratch, elements, outputs }: Row, body: () => void): void {
  const position = f.int(start);
  const count = f.int(i32.and(i32.sub(end, start), elements - 1));
  const stop = f.int(i32.sub(end, count));
  const targets = outputs.map(({ pointer }) => f.int(pointer));
  f.loop((again) => {
    f.while(position, stop, elements, body);
    f.if(i32.ltS(position, end), () => {
      f.increase(stop, elements);
      for (const [o, { pointer }] of outputs.entries()) {
        f.set(targets[o]!, pointer);
        f.set(pointer, i32.add(scratch, o * elements * 4));
      }
      f.branch(again);
    });
  });
  f.if(count, () => {
    for (const [o, { dtype }] of outputs.entries())
      f.copy(targets[o]!, i32.add(scratch, o * elements * 4), i32.mul(count, bytesPerElement[dtype]));
  });
}

/** A few adjacent vectors: all loads, then arithmetic, then stores. */
function turn(
  f: FunctionBuilder,
  kind: ElementwiseClass,
  lower: Lowering,
  inputs: readonly Source[],
  outputs: readonly Place[],
  index: I32 | undefined,
  vectors: number,
): void {
  const parts = Array.from({ length: vectors }, (_, part) => part);
  const { integer } = kind;
  const loaded = inputs.map((source) =>
    parts.map((part) => {
      if ('repeated' in source) return source.repeated;
      const offset = part * 4 * bytesPerElement[source.dtype];
      return f.vector(loadLanes(f, source.dtype, source.pointer, { offset, repeat: false, integer }));
    }),
  );
  const results = parts.map((part) =>
    lower.compute(
      loaded.map((lanes) => lanes[part]!),
      index,
      part,
    ),
  );
  for (const [o, { pointer, dtype }] of outputs.entries()) {
    const values = results.map((all) => f.vector(all[o]!));
    for (const part of parts)
      storeLanes(f, dtype, pointer, values[part]!, { offset: part * 4 * bytesPerElement[dtype], integer });
  }
}
