/** Initial values of weights, drawn from a RandomKey: equal keys give equal bits on every backend. */
import {
  type CreationOptions,
  normal,
  type RandomKey,
  type Shape,
  sizeOf,
  type Tensor,
  uniform,
} from '@lorikeet/tensor';

type Options = CreationOptions & { readonly key: RandomKey };

/** Inputs that feed one output: the product of all axes but the first (torch's fan_in of a weight [out, ...in]). */
export const fanIn = (shape: Shape): number => sizeOf(shape.slice(1));

/**
 * Uniform on +-sqrt(6 / ((1 + a^2) fanIn)) (He et al. 2015; torch.nn.init.kaiming_uniform_ for leaky_relu of slope a).
 * The default a = sqrt(5), which torch's Linear and Conv and loralib's lora_A use, makes that +-1/sqrt(fanIn).
 */
export function kaimingUniform(shape: Shape, options: Options & { readonly a?: number }): Tensor {
  const { a = Math.sqrt(5) } = options;
  const bound = Math.sqrt(6 / ((1 + a * a) * Math.max(1, fanIn(shape))));
  return uniform(shape, { ...options, low: -bound, high: bound });
}

/** Uniform on +-1/sqrt(fanIn): the bias of torch's Linear and Conv, `fanIn` being the weight's. */
export function uniformBias(shape: Shape, fanIn: number, options: Options): Tensor {
  const bound = 1 / Math.sqrt(Math.max(1, fanIn));
  return uniform(shape, { ...options, low: -bound, high: bound });
}

/** N(0, std^2) (torch.nn.init.normal_). */
export const normalInit = (shape: Shape, options: Options & { readonly std: number }): Tensor => normal(shape, options);
