import { type Backend, type DType, ones, type Tensor, zeros } from '@lorikeet/tensor';
import { Module } from './module.ts';

/** How RMSNorm.init and LayerNorm.init make their tensors. */
export interface NormOptions {
  readonly backend: Backend;
  /** Added to the mean square or variance. */
  readonly eps?: number;
  /** Default f32. */
  readonly dtype?: DType;
  /** Default true. */
  readonly requiresGrad?: boolean;
}

/** x * rsqrt(mean(x^2) + eps) * weight over the last axis (torch.nn.RMSNorm, Phi3RMSNorm). */
export class RMSNorm extends Module {
  weight: Tensor;
  readonly eps: number;

  constructor(weight: Tensor, eps = 1e-5) {
    super();
    this.weight = weight;
    this.eps = eps;
  }
  /** weight [width] of ones. */
  static init(width: number, { backend, eps, dtype = 'f32', requiresGrad = true }: NormOptions): RMSNorm {
    return new RMSNorm(ones([width], { backend, dtype, requiresGrad }), eps);
  }
  /** x [..., width] -> the same shape; the mean is taken in f32 or better. */
  forward(x: Tensor): Tensor {
    return x.rmsNorm(this.weight, this.eps);
  }
}

/** (x - mean) * rsqrt(variance + eps) * weight + bias over the last axis (torch.nn.LayerNorm). */
export class LayerNorm extends Module {
  weight: Tensor;
  bias: Tensor;
  readonly eps: number;

  constructor(weight: Tensor, bias: Tensor, eps = 1e-5) {
    super();
    this.weight = weight;
    this.bias = bias;
    this.eps = eps;
  }
  /** weight [width] of ones, bias [width] of zeros. */
  static init(width: number, { backend, eps, dtype = 'f32', requiresGrad = true }: NormOptions): LayerNorm {
    const options = { backend, dtype, requiresGrad };
    return new LayerNorm(ones([width], options), zeros([width], options), eps);
  }
  /** x [..., width] -> the same shape; mean and variance are taken in f32 or better. */
  forward(x: Tensor): Tensor {
    return x.layerNorm(this.weight, this.bias, this.eps);
  }
}
