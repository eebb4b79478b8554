import {
  type Backend,
  type ConvOptions,
  conv1d,
  conv2d,
  type DType,
  type RandomKey,
  ShapeError,
  showShape,
  type Tensor,
} from '@lorikeet/tensor';
import { fanIn, kaimingUniform, uniformBias } from './initialize.ts';
import { Module } from './module.ts';

interface InitOptions {
  readonly backend: Backend;
  readonly key: RandomKey;
  /** Default true. */
  readonly bias?: boolean;
  /** Default f32. */
  readonly dtype?: DType;
  /** Default true. */
  readonly requiresGrad?: boolean;
}

type Geometry1d = {
  readonly stride?: number;
  readonly padding?: number;
  readonly dilation?: number;
  readonly groups?: number;
};
type Geometry2d = Omit<ConvOptions, 'bias'>;

/** weight [out, in / groups, ...kernel] and bias [out], as torch initialises its convolutions. */
function initial(shape: readonly number[], options: InitOptions): [weight: Tensor, bias?: Tensor] {
  const { backend, key, bias = true, dtype = 'f32', requiresGrad = true } = options;
  const made = { backend, dtype, requiresGrad };
  const weight = kaimingUniform(shape, { ...made, key: key.fold('weight') });
  return bias ? [weight, uniformBias(shape.slice(0, 1), fanIn(shape), { ...made, key: key.fold('bias') })] : [weight];
}

function check(op: string, weight: Tensor, rank: number): Tensor {
  if (weight.rank !== rank)
    throw new ShapeError(
      `${op}: weight must have ${rank} axes, [out, in / groups, ...kernel]: got ${showShape(weight.shape)}.`,
    );
  return weight;
}

/** torch.nn.Conv2d over [b, c, h, w]; weight [out, in / groups, kh, kw]. */
export class Conv2d extends Module {
  weight: Tensor;
  bias?: Tensor;
  readonly geometry: Geometry2d;

  constructor(weight: Tensor, bias?: Tensor, geometry: Geometry2d = {}) {
    super();
    this.weight = check('Conv2d', weight, 4);
    if (bias) this.bias = bias;
    this.geometry = geometry;
  }
  /** Initialised as torch.nn.Conv2d: weight and bias uniform on +-1/sqrt(fanIn). */
  static init(
    inChannels: number,
    outChannels: number,
    kernelSize: number | readonly [number, number],
    options: InitOptions & Geometry2d,
  ): Conv2d {
    const [kh, kw] = typeof kernelSize === 'number' ? [kernelSize, kernelSize] : kernelSize;
    const { stride = 1, padding = 0, dilation = 1, groups = 1 } = options;
    const [weight, bias] = initial([outChannels, inChannels / groups, kh, kw], options);
    return new Conv2d(weight, bias, { stride, padding, dilation, groups });
  }
  /** x [b, in, h, w] -> [b, out, h', w']; `weight` may stand in for the layer's own (an adapter's sum). */
  forward(x: Tensor, weight = this.weight): Tensor {
    return conv2d(x, weight, { ...this.geometry, ...(this.bias && { bias: this.bias }) });
  }
}

/** torch.nn.Conv1d over [b, c, l]; weight [out, in / groups, k]. */
export class Conv1d extends Module {
  weight: Tensor;
  bias?: Tensor;
  readonly geometry: Geometry1d;

  constructor(weight: Tensor, bias?: Tensor, geometry: Geometry1d = {}) {
    super();
    this.weight = check('Conv1d', weight, 3);
    if (bias) this.bias = bias;
    this.geometry = geometry;
  }
  /** Initialised as torch.nn.Conv1d: weight and bias uniform on +-1/sqrt(fanIn). */
  static init(inChannels: number, outChannels: number, kernelSize: number, options: InitOptions & Geometry1d): Conv1d {
    const { stride = 1, padding = 0, dilation = 1, groups = 1 } = options;
    const [weight, bias] = initial([outChannels, inChannels / groups, kernelSize], options);
    return new Conv1d(weight, bias, { stride, padding, dilation, groups });
  }
  /** x [b, in, l] -> [b, out, l']; `weight` may stand in for the layer's own. */
  forward(x: Tensor, weight = this.weight): Tensor {
    return conv1d(x, weight, { ...this.geometry, ...(this.bias && { bias: this.bias }) });
  }
}
