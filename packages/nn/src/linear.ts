import {
  type Backend,
  type DType,
  isFloat,
  type RandomKey,
  ShapeError,
  showShape,
  type Tensor,
} from '@lorikeet/tensor';
import { kaimingUniform, uniformBias } from './initialize.ts';
import { Module } from './module.ts';
import type { ModuleLike, StateEntry } from './module-tree.ts';

/**
 * What an adapter, a quantizer and a model need of a linear layer. Never test for a class: anything that passes the suite
 * in linear-contract.ts is one.
 */
export interface LinearLike extends ModuleLike {
  readonly inFeatures: number;
  readonly outFeatures: number;
  /** [out]; absent when the layer has none. */
  readonly bias?: Tensor | undefined;
  /** x [..., in] -> x W^T (+ u b^T) (+ bias) [..., out]. `add` is a second product in the same pass: u [..., r], b [out, r]. */
  forward(x: Tensor, add?: readonly [u: Tensor, b: Tensor]): Tensor;
  /** The weight [out, in] as floats, or its rows start .. end: a new handle that the caller (or its scope) frees. */
  denseWeight(rows?: readonly [start: number, end: number]): Tensor;
  /** Paths relative to the layer: 'weight', 'bias', ... A wrapper passes its base's entries on unmoved and adds its own. */
  stateEntries(): Iterable<StateEntry>;
}

/** Whether a module satisfies the linear contract by its form. */
export function isLinearLike(module: ModuleLike): module is LinearLike {
  const m = module as Partial<LinearLike>;
  return (
    typeof m.forward === 'function' &&
    typeof m.denseWeight === 'function' &&
    typeof m.inFeatures === 'number' &&
    typeof m.outFeatures === 'number'
  );
}

/** The float matrix that is all a linear layer multiplies by, or null if it does more (an adapter, a quantized weight, a bias). */
export function plainWeightOf(linear: LinearLike): Tensor | null {
  const [first, ...more] = linear.stateEntries();
  if (!first || more.length > 0 || first[0] !== 'weight') return null;
  const weight = first[1];
  const whole = weight.rank === 2 && weight.shape[0] === linear.outFeatures && weight.shape[1] === linear.inFeatures;
  return whole && isFloat(weight.dtype) ? weight : null;
}

/** x [..., in] as rows [t, in], with the op-named error every linear layer gives for a wrong width. */
export function asRows(op: string, x: Tensor, inFeatures: number): Tensor {
  if (x.rank < 1 || x.shape.at(-1) !== inFeatures)
    throw new ShapeError(
      `${op}: the last axis of x must be inFeatures ${inFeatures}: got ${showShape(x.shape)}. Check the layer before.`,
    );
  return x.rank === 2 ? x : x.reshape([x.size / inFeatures, inFeatures]);
}

/** How Linear.init makes its tensors. */
export interface LinearOptions {
  readonly backend: Backend;
  /** Source of the initial weights. */
  readonly key: RandomKey;
  /** Default true. */
  readonly bias?: boolean;
  /** Default f32. */
  readonly dtype?: DType;
  /** Default true. */
  readonly requiresGrad?: boolean;
}

/** y = x W^T + b with W [out, in] (torch.nn.Linear). Weights may be stored in f32, f16 or bf16. */
export class Linear extends Module implements LinearLike {
  weight: Tensor;
  bias?: Tensor | undefined;

  /** From existing tensors: weight [out, in], bias [out]. */
  constructor(weight: Tensor, bias?: Tensor) {
    super();
    if (weight.rank !== 2 || !isFloat(weight.dtype))
      throw new ShapeError(
        `Linear: weight must be [out, in] of floats: got ${showShape(weight.shape)} ${weight.dtype}. A quantized weight needs its own class.`,
      );
    if (bias && showShape(bias.shape) !== showShape(weight.shape.slice(0, 1)))
      throw new ShapeError(`Linear: bias must be [${weight.shape[0]}]: got ${showShape(bias.shape)}.`);
    this.weight = weight;
    if (bias) this.bias = bias;
  }

  /** Initialised as torch.nn.Linear: weight and bias uniform on +-1/sqrt(inFeatures). */
  static init(inFeatures: number, outFeatures: number, options: LinearOptions): Linear {
    const { key, bias = true, backend, dtype = 'f32', requiresGrad = true } = options;
    const made = { backend, dtype, requiresGrad };
    return new Linear(
      kaimingUniform([outFeatures, inFeatures], { ...made, key: key.fold('weight') }),
      bias ? uniformBias([outFeatures], inFeatures, { ...made, key: key.fold('bias') }) : undefined,
    );
  }

  get outFeatures(): number {
    return this.weight.shape[0]!;
  }
  get inFeatures(): number {
    return this.weight.shape[1]!;
  }

  /** x [..., in] -> [..., out]; see LinearLike. @throws ShapeError for another width */
  forward(x: Tensor, add?: readonly [u: Tensor, b: Tensor]): Tensor {
    const rows = asRows('Linear', x, this.inFeatures);
    const pair = add && ([asRows('Linear: add', add[0], add[1].shape[1]!), add[1]] as const);
    const { bias } = this;
    const y = rows.matmul(this.weight, { transposeB: true, ...(bias && { bias }), ...(pair && { add: pair }) });
    return x.rank === 2 ? y : y.reshape([...x.shape.slice(0, -1), this.outFeatures]);
  }

  /** The weight itself as a new handle, or a view of rows start .. end. */
  denseWeight(rows?: readonly [start: number, end: number]): Tensor {
    return rows ? this.weight.slice(0, rows[0], rows[1]) : this.weight.alias();
  }
}
