/** Every op that chains: `x.matmul(w).silu()`. One line here makes a function a method. */
import { backward, type Gradients } from './autograd.ts';
import type { DType } from './dtype.ts';
import { type AttentionOptions, attention } from './ops/attention.ts';
import { dropout } from './ops/dropout.ts';
import * as e from './ops/elementwise.ts';
import { gather, indexSelect, scatterAdd, topk } from './ops/index-select.ts';
import {
  cast,
  concat,
  contiguous,
  expand,
  pad,
  permute,
  reshape,
  slice,
  split,
  stack,
  transpose,
} from './ops/layout.ts';
import { type CrossEntropyOptions, crossEntropy } from './ops/loss.ts';
import { type MatmulOptions, matmul } from './ops/matmul.ts';
import { layerNorm, logSoftmax, rmsNorm, softmax } from './ops/normalize.ts';
import { argmax, cumsum, max, mean, type ReduceOptions, sum } from './ops/reduce.ts';
import { rope } from './ops/rope.ts';
import type { RandomKey } from './random.ts';
import type { Shape } from './shape.ts';
import { Tensor } from './tensor.ts';

type Operand = Tensor | number;
type Axes = number | readonly number[];

/** The op methods of Tensor; each is the function of the same name with the tensor as its first argument. */
export interface TensorMethods {
  neg(): Tensor;
  abs(): Tensor;
  exp(): Tensor;
  log(): Tensor;
  sqrt(): Tensor;
  rsqrt(): Tensor;
  sin(): Tensor;
  cos(): Tensor;
  tanh(): Tensor;
  sigmoid(): Tensor;
  silu(): Tensor;
  relu(): Tensor;
  gelu(options?: { readonly approximate?: 'none' | 'tanh' }): Tensor;
  add(b: Operand): Tensor;
  sub(b: Operand): Tensor;
  mul(b: Operand): Tensor;
  div(b: Operand): Tensor;
  pow(b: Operand): Tensor;
  maximum(b: Operand): Tensor;
  minimum(b: Operand): Tensor;
  eq(b: Operand): Tensor;
  ne(b: Operand): Tensor;
  lt(b: Operand): Tensor;
  le(b: Operand): Tensor;
  gt(b: Operand): Tensor;
  ge(b: Operand): Tensor;
  /** condition.where(a, b): a where the condition is not 0, else b. */
  where(a: Operand, b: Operand): Tensor;
  /** gate.swiglu(up) = silu(gate) * up */
  swiglu(up: Tensor): Tensor;
  concat(others: readonly Tensor[], axis?: number): Tensor;
  stack(others: readonly Tensor[], axis?: number): Tensor;
  cast(dtype: DType): Tensor;
  contiguous(): Tensor;
  expand(shape: Shape): Tensor;
  pad(axis: number, before: number, after: number): Tensor;
  permute(axes: readonly number[]): Tensor;
  reshape(shape: Shape): Tensor;
  slice(axis: number, start: number, end?: number): Tensor;
  split(sizes: readonly number[], axis?: number): Tensor[];
  transpose(axis0?: number, axis1?: number): Tensor;
  sum(axes?: Axes, options?: ReduceOptions): Tensor;
  mean(axes?: Axes, options?: ReduceOptions): Tensor;
  max(axes?: Axes, options?: ReduceOptions): Tensor;
  argmax(axis?: number, options?: ReduceOptions): Tensor;
  cumsum(axis?: number): Tensor;
  softmax(axis?: number): Tensor;
  logSoftmax(axis?: number): Tensor;
  matmul(b: Tensor, options?: MatmulOptions): Tensor;
  rmsNorm(weight: Tensor, eps: number): Tensor;
  layerNorm(weight: Tensor, bias: Tensor, eps?: number): Tensor;
  rope(cos: Tensor, sin: Tensor): Tensor;
  attention(k: Tensor, v: Tensor, options: AttentionOptions): Tensor;
  dropout(p: number, key: RandomKey): Tensor;
  indexSelect(indices: Tensor, axis?: number): Tensor;
  gather(indices: Tensor, axis: number): Tensor;
  scatterAdd(indices: Tensor, source: Tensor, axis: number): Tensor;
  topk(k: number): { values: Tensor; indices: Tensor };
  crossEntropy(labels: Tensor, options?: CrossEntropyOptions): Tensor;
  /** Gradients of every trainable leaf this tensor depends on. */
  backward(seed?: Tensor): Gradients;
}

type Functions = {
  readonly [K in keyof TensorMethods]: (
    x: Tensor,
    ...rest: Parameters<TensorMethods[K]>
  ) => ReturnType<TensorMethods[K]>;
};

const unary =
  (op: { apply(x: readonly Tensor[]): Tensor }) =>
  (x: Tensor): Tensor =>
    op.apply([x]);
const binary =
  (op: { apply(x: readonly Operand[]): Tensor }) =>
  (a: Tensor, b: Operand): Tensor =>
    op.apply([a, b]);

const gelus = { none: e.gelu, tanh: e.geluTanh } as const;
function geluBy(x: Tensor, { approximate = 'none' }: { readonly approximate?: keyof typeof gelus } = {}): Tensor {
  if (!Object.hasOwn(gelus, approximate))
    throw new RangeError(`gelu: approximate must be 'none' or 'tanh': got '${approximate}'. Leave it out for 'none'.`);
  return gelus[approximate].apply([x]);
}

/** Functions whose first argument is the tensor they become a method of. */
const functions: Functions = {
  neg: unary(e.neg), abs: unary(e.abs), exp: unary(e.exp), log: unary(e.log), sqrt: unary(e.sqrt), rsqrt: unary(e.rsqrt),
  sin: unary(e.sin), cos: unary(e.cos), tanh: unary(e.tanh), sigmoid: unary(e.sigmoid), silu: unary(e.silu), relu: unary(e.relu),
  gelu: geluBy,
  add: binary(e.add), sub: binary(e.sub), mul: binary(e.mul), div: binary(e.div), pow: binary(e.pow),
  maximum: binary(e.maximum), minimum: binary(e.minimum),
  eq: binary(e.eq), ne: binary(e.ne), lt: binary(e.lt), le: binary(e.le), gt: binary(e.gt), ge: binary(e.ge),
  /** condition.where(a, b): a where the condition is not 0, else b. */
  where: (condition: Tensor, a: Operand, b: Operand): Tensor => e.where.apply([condition, a, b]),
  /** gate.swiglu(up) = silu(gate) * up */
  swiglu: (gate: Tensor, up: Tensor): Tensor => e.swiglu.apply([gate, up]),
  concat: (x: Tensor, others: readonly Tensor[], axis = 0): Tensor => concat([x, ...others], axis),
  stack: (x: Tensor, others: readonly Tensor[], axis = 0): Tensor => stack([x, ...others], axis),
  cast, contiguous, expand, pad, permute, reshape, slice, split, transpose,
  sum, mean, max, argmax, cumsum, softmax, logSoftmax, matmul, rmsNorm, layerNorm, rope, attention, dropout,
  indexSelect, gather, scatterAdd, topk, crossEntropy,
  /** Gradients of every trainable leaf this tensor depends on. */
  backward: (loss: Tensor, seed?: Tensor): Gradients => backward(loss, seed),
}; // biome-ignore format: a table

for (const [name, fn] of Object.entries(functions))
  Object.defineProperty(Tensor.prototype, name, {
    value(this: Tensor, ...rest: unknown[]) {
      return (fn as (...all: unknown[]) => unknown)(this, ...rest);
    },
    writable: true,
    configurable: true,
  });

/** The same ops as functions. */
export const {
  neg, abs, exp, log, sqrt, rsqrt, sin, cos, tanh, sigmoid, silu, relu, gelu,
  add, sub, mul, div, pow, maximum, minimum, eq, ne, lt, le, gt, ge, where, swiglu,
} = functions; // biome-ignore format: a table
