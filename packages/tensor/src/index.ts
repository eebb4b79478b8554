/** Tensors with autograd over interchangeable backends. */
export { backward, Gradients, type Leaf, noGrad } from './autograd.ts';
export type { Attributes, Backend, BufferHandle, Call, Dense, KernelOp, Operand } from './backend.ts';
export { checkpoint, checkpointIn } from './checkpoint.ts';
export {
  arange,
  type CreationOptions,
  fromBytes,
  full,
  type NestedNumbers,
  normal,
  ones,
  permutation,
  tensor,
  uniform,
  zeros,
} from './creation.ts';
export { dryRunBackend } from './dry-run-backend.ts';
export { bytesPerElement, type DType, decode, encode, isFloat, promote, type TensorData } from './dtype.ts';
export { defineElementwise, defineUpdate, type ElementwiseOp } from './elementwise.ts';
export {
  DeviceLostError,
  DTypeError,
  NonFiniteError,
  OutOfMemoryError,
  ShapeError,
  UseAfterFreeError,
} from './errors.ts';
export * from './expression.ts';
export { type Leak, reportLeaks } from './leaks.ts';
export { type QrOptions, qr } from './linalg/qr.ts';
export { type Svd, type SvdLowrankOptions, svd, svdLowrank } from './linalg/svd.ts';
export { type TruncatedSvdOptions, truncatedSvd } from './linalg/truncated-svd.ts';
export { type MemoryUse, memory, pageOut } from './memory.ts';
export * from './methods.ts';
export { defineOp, type Op, type OpOptions, type Sample, type Spec } from './op.ts';
export { type AttentionAttributes, type AttentionOptions, attention, eachVisibleRange } from './ops/attention.ts';
export { code4bit, type Decision4bit, decision4bit, fp4Code, nf4Code, type QuantType4bit } from './ops/code-4bit.ts';
export { type ConvOptions, conv1d, conv2d } from './ops/conv.ts';
export { dropout } from './ops/dropout.ts';
export { embedding, gather, indexSelect, scatterAdd, topk } from './ops/index-select.ts';
export {
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
export {
  type CrossEntropyOptions,
  crossEntropy,
  type LinearCrossEntropyOptions,
  linearCrossEntropy,
} from './ops/loss.ts';
export { type LowRankMatmulOptions, lowRankMatmul } from './ops/low-rank-matmul.ts';
export { type MatmulAttributes, type MatmulOptions, matmul } from './ops/matmul.ts';
export { type Matmul4bitAttributes, type Matmul4bitOptions, matmul4bit } from './ops/matmul-4bit.ts';
export {
  dequantizeRowwise,
  type Matmul8bitOptions,
  matmul8bit,
  quantizeRowwise,
  type Weight8bit,
} from './ops/matmul-8bit.ts';
export { layerNorm, logSoftmax, rmsNorm, softmax } from './ops/normalize.ts';
export {
  type Dequantize4bitAttributes,
  dequantize4bit,
  type Layout4bit,
  type NestedAbsmax,
  type Packed4bit,
  type Quantize4bitOptions,
  quantize4bit,
  type Weight4bit,
} from './ops/quantize-4bit.ts';
export {
  createDynamicMap,
  dequantizeBlockwise,
  placesOf,
  type QuantizedBlocks,
  quantizeBlockwise,
} from './ops/quantize-8bit.ts';
export { argmax, cumsum, max, mean, sum, sumSquares } from './ops/reduce.ts';
export { elementwiseOps, ops, updates } from './ops/registry.ts';
export { rope } from './ops/rope.ts';
export { adamwUpdate, lionUpdate, sgdUpdate, writeRows } from './ops/update.ts';
export {
  type AdamW8bitRates,
  adamw8bitUpdate,
  type Lion8bitRates,
  lion8bitUpdate,
  type Moment8bit,
  stateBlocksize,
} from './ops/update-8bit.ts';
export { normalsOf, permutationOf, RandomKey, randomKey, threefry2x32 } from './random.ts';
export { nextKey, withRandom } from './random-context.ts';
export { bytesBuffer, referenceBackend, runReference } from './reference-backend.ts';
export { OpenScope, openScope, scope } from './scope.ts';
export { broadcastShapes, broadcastStrides, type Shape, sameShape, showShape, sizeOf, stridesOf } from './shape.ts';
export { Tensor } from './tensor.ts';
