/** The op `matmul` on the packed product: batches, column blocks, a second pair, bias, and 16-bit operands and results. */
import { broadcastStrides, type Call, type Operand } from '@lorikeet/tensor';
import { addressOf, inStore } from '../buffer.ts';
import { type Kernel, type KernelHost, lazyTasks } from '../kernel.ts';
import { type FloatType, isFloatType } from './lanes.ts';
import { matmulModule } from './matmul.ts';
import { Matmul } from './matmul-plan.ts';
import type { Pair, Product, Operand as Side } from './matmul-product.ts';
import type { Tile } from './micro.ts';
import { throughFloats } from './through-floats.ts';

/** Matrices of a batch that lie at one step from each other; null where they do not. */
function batchStep(operand: Operand, batch: readonly number[]): number | null {
  const { shape, rowStride } = operand;
  const own = shape.slice(0, -2);
  const matrix = shape.length > 2 ? shape.at(-2)! * shape.at(-1)! : 0;
  const strides = broadcastStrides(own, batch).map((s) => s * matrix);
  if (own.length > 0 && own[0] !== 1) strides[batch.length - own.length] = rowStride;
  let step: number | null = null;
  let size = 1;
  for (let axis = batch.length - 1; axis >= 0; axis--) {
    if (batch[axis] === 1) continue;
    if (step === null) step = strides[axis]!;
    else if (strides[axis] !== step * size) return null;
    size *= batch[axis]!;
  }
  return step ?? 0;
}

/** The stored matrix as the product sees it. */
export function side(operand: Operand, transposed: boolean, batchStride: number): Side {
  const { shape, rowStride, dtype } = operand;
  return {
    address: addressOf(operand),
    inStore: inStore(operand),
    dtype: dtype as FloatType,
    rowStride: shape.length === 2 ? rowStride : shape.at(-1)!,
    batchStride,
    transposed,
  };
}

interface Flags {
  readonly transposeA: boolean;
  readonly transposeB: boolean;
}

const matmulOp = { name: 'matmul' };

/** The product for other kernels that hold one. */
export type Multiply = (product: Product) => void;

export function matmulKernel(host: KernelHost, tile: Tile): Kernel & { readonly multiply: Multiply } {
  const { team, features, parameters } = host;
  const tasks = lazyTasks(team, () => matmulModule(team.memory.shape, features, tile, parameters));
  let matmul: Matmul | undefined;
  const multiply = (product: Product) => {
    matmul ??= new Matmul(team, tasks(), tile, parameters);
    matmul.run(product);
  };

  const fits = ({ inputs, outputs }: Call): boolean => {
    const given = inputs.filter((x) => x !== null);
    return [...given, outputs[0]!].every(({ dtype }) => isFloatType(dtype));
  };

  const runFloats = ({ inputs, outputs, attributes }: Call): void => {
    const [a, b, u, v, bias] = inputs;
    const out = outputs[0]!;
    const { transposeA, transposeB } = attributes as unknown as Flags;
    const batch = out.shape.slice(0, -2);
    const [m, n] = out.shape.slice(-2) as [number, number];
    const pairOf = (left: Operand, right: Operand, aStep: number, bStep: number): Pair => ({
      a: side(left, transposeA, aStep),
      b: side(right, transposeB, bStep),
      k: left.shape.at(transposeA ? -2 : -1)!,
    });
    const common = { m, n, bias: bias ? addressOf(bias) : 0 };
    const c = {
      address: addressOf(out),
      rowStride: batch.length === 0 ? out.rowStride : n,
      batchStride: m * n,
    };
    const [aStep, bStep] = [batchStep(a!, batch), batchStep(b!, batch)];
    if (aStep !== null && bStep !== null) {
      const pairs = [pairOf(a!, b!, aStep, bStep)];
      if (u && v) pairs.push(pairOf(u, v, 0, 0));
      multiply({ ...common, batch: batch.reduce((x, y) => x * y, 1), pairs, c });
      return;
    }
    // Batch axes that repeat in the middle: one product for each index of the first axis.
    for (let i = 0; i < batch[0]!; i++) runFloats({ ...part(a!, b!, out, batch, i), attributes });
  };

  /** The call with the first batch axis fixed. */
  const part = (
    a: Operand,
    b: Operand,
    out: Operand,
    batch: readonly number[],
    index: number,
  ): Omit<Call, 'attributes'> => {
    const fixed = (operand: Operand): Operand => {
      const hasAxis = operand.shape.length - 2 === batch.length;
      if (!hasAxis) return operand;
      const offset = operand.shape[0] === 1 ? operand.offset : operand.offset + index * operand.rowStride;
      const shape = operand.shape.slice(1);
      return { ...operand, shape, offset, rowStride: shape.slice(1).reduce((x, y) => x * y, 1) };
    };
    return { op: matmulOp, inputs: [fixed(a), fixed(b), null, null, null], outputs: [fixed(out)] };
  };

  return { readsStore: [1], fits, run: throughFloats(host, 4, runFloats), multiply };
}
