/** How each recorded op is called: one row an op. Input names are the recording's. */
import * as t from '@lorikeet/tensor';
import { type DType, randomKey, type Tensor } from '@lorikeet/tensor';
import { moduleCalls } from './nn-modules.ts';

type Inputs = Readonly<Record<string, Tensor>>;
// Attributes come from a JSON file that our own generator wrote for exactly these calls.
// biome-ignore lint/suspicious/noExplicitAny: see above
type Attributes = Readonly<Record<string, any>>;
type Outputs = Readonly<Record<string, Tensor>>;
export type OpCall = (inputs: Inputs, attributes: Attributes, host: Host) => Tensor | Outputs;

/** Values that a call takes on the host: numbers in place of tensors, and the recorded integers. */
export interface Host {
  readonly numbers: Readonly<Record<string, number>>;
  readonly integers: Readonly<Record<string, Int32Array>>;
}

const unaryNames = [
  'neg', 'abs', 'exp', 'log', 'sqrt', 'rsqrt', 'sin', 'cos', 'tanh', 'sigmoid', 'silu', 'relu',
] as const; // biome-ignore format: a list
const binaryNames = [
  'add', 'sub', 'mul', 'div', 'pow', 'maximum', 'minimum', 'eq', 'ne', 'lt', 'le', 'gt', 'ge',
] as const; // biome-ignore format: a list

const numbered = (parts: readonly Tensor[]): Outputs => Object.fromEntries(parts.map((p, i) => [`out${i}`, p]));

const calls: Readonly<Record<string, OpCall>> = {
  ...Object.fromEntries(unaryNames.map((name): [string, OpCall] => [name, ({ x }) => x![name]()])),
  ...Object.fromEntries(
    binaryNames.map((name): [string, OpCall] => [name, ({ a, b }, _, { numbers }) => a![name](b ?? numbers.b!)]),
  ),
  gelu: ({ x }, a) => t.gelu(x!, a),
  where: ({ condition, a, b }) => t.where(condition!, a!, b!),
  swiglu: ({ gate, up }) => t.swiglu(gate!, up!),
  cast: ({ x }, { dtype }) => t.cast(x!, dtype as DType),
  sum: ({ x }, { axes, ...o }) => t.sum(x!, axes, o),
  mean: ({ x }, { axes, ...o }) => t.mean(x!, axes, o),
  max: ({ x }, { axes, ...o }) => t.max(x!, axes, o),
  argmax: ({ x }, { axis, ...o }) => t.argmax(x!, axis, o),
  softmax: ({ x }, { axis }) => t.softmax(x!, axis),
  logSoftmax: ({ x }, { axis }) => t.logSoftmax(x!, axis),
  cumsum: ({ x }, { axis }) => t.cumsum(x!, axis),
  topk: ({ x }, { k }) => t.topk(x!, k),
  reshape: ({ x }, { shape }) => t.reshape(x!, shape),
  transpose: ({ x }, { axis0, axis1 }) => t.transpose(x!, axis0, axis1),
  permute: ({ x }, { axes }) => t.permute(x!, axes),
  slice: ({ x }, { axis, start, end }) => t.slice(x!, axis, start, end),
  pad: ({ x }, { axis, before, after }) => t.pad(x!, axis, before, after),
  expand: ({ x }, { shape }) => t.expand(x!, shape),
  split: ({ x }, { sizes, axis }) => numbered(t.split(x!, sizes, axis)),
  concat: (parts, { axis }) => t.concat(Object.values(parts), axis),
  stack: (parts, { axis }) => t.stack(Object.values(parts), axis),
  indexSelect: ({ x, indices }, { axis }) => t.indexSelect(x!, indices!, axis),
  gather: ({ x, indices }, { axis }) => t.gather(x!, indices!, axis),
  scatterAdd: ({ x, indices, source }, { axis }) => t.scatterAdd(x!, indices!, source!, axis),
  embedding: ({ ids, table }) => t.embedding(ids!, table!),
  dropout: ({ x }, { p, seed }) => t.dropout(x!, p, randomKey(seed)),
  matmul: ({ a, b, u, v, bias }, flags) =>
    t.matmul(a!, b!, { ...flags, ...(u && v ? { add: [u, v] as const } : {}), ...(bias ? { bias } : {}) }),
  rmsNorm: ({ x, weight }, { eps }) => t.rmsNorm(x!, weight!, eps),
  layerNorm: ({ x, weight, bias }, { eps }) => t.layerNorm(x!, weight!, bias!, eps),
  rope: ({ x, cos, sin }) => t.rope(x!, cos!, sin!),
  attention: ({ q, k, v }, a) => t.attention(q!, k!, v!, a as t.AttentionOptions),
  crossEntropy: ({ logits, labels }, a) => t.crossEntropy(logits!, labels!, a),
  linearCrossEntropy: ({ hidden, weight }, a, { integers }) =>
    t.linearCrossEntropy(hidden!, weight!, integers.labels!, a),
  conv1d: ({ x, weight, bias }, a) => t.conv1d(x!, weight!, { ...a, ...(bias ? { bias } : {}) }),
  conv2d: ({ x, weight, bias }, a) => t.conv2d(x!, weight!, { ...a, ...(bias ? { bias } : {}) }),
};

/** The call of a recorded op; throws for one that has no row. */
export function opCall(op: string): OpCall {
  const call = calls[op] ?? moduleCalls[op];
  if (!call) throw new TypeError(`conformance: op ${op} must have a row in conformance/ops.ts: it has none.`);
  return call;
}

/**
 * Registered ops that a recording reaches under another name, or that have no counterpart in PyTorch:
 * every other registered op must be recorded under its own.
 */
export const reachedThrough: Readonly<Record<string, string>> = {
  geluTanh: 'gelu with approximate tanh',
  identity: 'cast and expand',
  contiguous: 'split',
  indexAdd: 'the gradient of indexSelect',
  softmaxGrad: 'the gradient of softmax',
  sumSquares: 'clipping in family nn',
  lowRankMatmul: 'adapted linears in family lora',
  rmsNormGrad: 'the gradient of rmsNorm',
  rmsNormWeightGrad: 'the gradient of rmsNorm',
  layerNormGrad: 'the gradient of layerNorm',
  layerNormWeightGrad: 'the gradient of layerNorm',
  attentionGrad: 'the gradient of attention',
  crossEntropyGrad: 'the gradient of crossEntropy',
  crossEntropyWithGrad: 'the loss of families phi3 and trainer',
  adamw: 'family nn',
  sgd: 'family nn',
  lion: 'family nn',
  adamw8bit: 'family quantization',
  lion8bit: 'family quantization',
  dequantize4bit: 'the weights of matmul4bit in family quantization',
  quantizeBlockwise: 'family quantization',
  dequantizeBlockwise: 'family quantization',
  quantizeRowwise: 'family quantization',
  matmul8bit: 'family quantization',
  writeRows: 'the cached attention of family phi3',
};

/** Registered ops that nothing recorded and no entry above explains. */
export function unrecordedOps(recorded: ReadonlySet<string>): string[] {
  const registered = [...t.elementwiseOps, ...t.ops, ...t.updates].map((op) => op.name);
  return registered.filter((name) => !recorded.has(name) && !(name in reachedThrough));
}
