/** Convolutions by gathering patches (im2col) and one matmul. */
import { tensor } from '../creation.ts';
import { ShapeError } from '../errors.ts';
import { scope } from '../scope.ts';
import { showShape } from '../shape.ts';
import type { Tensor } from '../tensor.ts';

export interface ConvOptions {
  /** Default 1. One number for both axes of conv2d. */
  readonly stride?: number | readonly [number, number];
  /** Zeros on both sides. Default 0. */
  readonly padding?: number | readonly [number, number];
  /** Default 1. */
  readonly dilation?: number | readonly [number, number];
  /** Channels are cut into this many independent groups. Default 1. */
  readonly groups?: number;
  /** [out channels] */
  readonly bias?: Tensor;
}

const pair = (v: number | readonly [number, number] | undefined, or: number): readonly [number, number] =>
  v === undefined ? [or, or] : typeof v === 'number' ? [v, v] : v;

/** x [b, c, h, w] with weight [o, c / groups, kh, kw] -> [b, o, h', w'] (torch.nn.functional.conv2d). */
export function conv2d(x: Tensor, weight: Tensor, options: ConvOptions = {}): Tensor {
  const { groups = 1 } = options;
  const [stride, padding, dilation] = [pair(options.stride, 1), pair(options.padding, 0), pair(options.dilation, 1)];
  if (x.rank !== 4 || weight.rank !== 4 || x.shape[1] !== weight.shape[1]! * groups || weight.shape[0]! % groups !== 0)
    throw new ShapeError(
      `conv2d: x must be [b, c, h, w] and weight [o, c / groups, kh, kw]: got ${showShape(x.shape)}, ${showShape(weight.shape)}, groups ${groups}. Sizes must divide by groups.`,
    );
  return scope(() => convolve(x, weight, { stride, padding, dilation, groups, bias: options.bias }));
}

interface Plan {
  readonly stride: readonly [number, number];
  readonly padding: readonly [number, number];
  readonly dilation: readonly [number, number];
  readonly groups: number;
  readonly bias: Tensor | undefined;
}

function convolve(x: Tensor, weight: Tensor, { stride, padding, dilation, groups, bias }: Plan): Tensor {
  const [b, c] = x.shape as [number, number];
  const [o, cg, kh, kw] = weight.shape as [number, number, number, number];
  const padded = x.pad(2, padding[0], padding[0]).pad(3, padding[1], padding[1]);
  const [h, w] = padded.shape.slice(2) as [number, number];
  const [oh, ow] = [outSize(h, kh, stride[0], dilation[0]), outSize(w, kw, stride[1], dilation[1])];
  const places = new Int32Array(oh * ow * kh * kw);
  let at = 0;
  for (let y = 0; y < kh; y++)
    for (let z = 0; z < kw; z++)
      for (let i = 0; i < oh; i++)
        for (let j = 0; j < ow; j++)
          places[at++] = (i * stride[0] + y * dilation[0]) * w + j * stride[1] + z * dilation[1];
  const indices = tensor(places, { backend: x.backend, dtype: 'i32' });
  const patches = padded
    .reshape([b, c, h * w])
    .indexSelect(indices, 2)
    .reshape([b, groups, cg * kh * kw, oh * ow]);
  const out = weight
    .reshape([1, groups, o / groups, cg * kh * kw])
    .matmul(patches)
    .reshape([b, o, oh, ow]);
  return bias ? out.add(bias.reshape([o, 1, 1])) : out;
}

function outSize(n: number, k: number, stride: number, dilation: number): number {
  const size = Math.floor((n - dilation * (k - 1) - 1) / stride) + 1;
  if (size < 1)
    throw new ShapeError(
      `conv: the padded input must cover the kernel: got ${n} for a kernel of ${k} with dilation ${dilation}. Add padding.`,
    );
  return size;
}

/** x [b, c, l] with weight [o, c / groups, k] -> [b, o, l'] (torch.nn.functional.conv1d). */
export function conv1d(
  x: Tensor,
  weight: Tensor,
  options: Omit<ConvOptions, 'stride' | 'padding' | 'dilation'> & {
    readonly stride?: number;
    readonly padding?: number;
    readonly dilation?: number;
  } = {},
): Tensor {
  if (x.rank !== 3 || weight.rank !== 3)
    throw new ShapeError(
      `conv1d: x must be [b, c, l] and weight [o, c / groups, k]: got ${showShape(x.shape)}, ${showShape(weight.shape)}.`,
    );
  const { stride = 1, padding = 0, dilation = 1 } = options;
  const insert = (t: Tensor): Tensor => t.reshape([t.shape[0]!, t.shape[1]!, 1, t.shape[2]!]);
  return scope(() => {
    const out = conv2d(insert(x), insert(weight), {
      ...options,
      stride: [1, stride],
      padding: [0, padding],
      dilation: [1, dilation],
    });
    return out.reshape([out.shape[0]!, out.shape[1]!, out.shape[3]!]);
  });
}
