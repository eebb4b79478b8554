/** A linear layer with a low-rank update (LoRA) as one op, so that its backward has the forward's fused products. */

import { isFloat, promote } from '../dtype.ts';
import { DTypeError, ShapeError } from '../errors.ts';
import { defineOp, type RuleContext } from '../op.ts';
import { type Shape, sameShape, showShape } from '../shape.ts';
import type { Tensor } from '../tensor.ts';
import { matmul } from './matmul.ts';

interface Scaling {
  readonly scaling: number;
}

type Names = 'x' | 'weight' | 'a' | 'b' | 'bias';

/** s grad b [t, r], what flows into x a^T. */
const gradU = ({ once, grad, saved, attributes: { scaling } }: RuleContext<Scaling>): Tensor =>
  once(() => grad.matmul(saved.b!).mul(scaling));

const shapes = (t: number, d: number, n: number, r: number): Readonly<Record<'x' | 'weight' | 'a' | 'b', { shape: Shape }>> => ({
  x: { shape: [t, d] }, weight: { shape: [n, d] }, a: { shape: [r, d] }, b: { shape: [n, r] },
}); // biome-ignore format: one object

/**
 * y = x weight^T + u b^T (+ bias) with u = s x a^T: x [t, d], weight [n, d], a [r, d], b [n, r], bias [n]. Output 1 is u
 * [t, r], for the backward. Both products of y, and both of the gradient of x, are summed in one pass over the output.
 */
export const lowRankMatmulOp = defineOp<Names, Scaling>({
  name: 'lowRankMatmul',
  inputs: ['x', 'weight', 'a', 'b', 'bias'],
  optional: ['bias'],
  columnBlocks: ['x'],
  shape: ({ x, weight, a, b, bias }) => {
    const given = [x, weight, a, b];
    const [t, d] = x.shape as [number, number];
    const [n, r] = b.shape as [number, number];
    if (
      given.some(({ shape }) => shape.length !== 2) ||
      !sameShape(weight.shape, [n, d]) ||
      !sameShape(a.shape, [r, d]) ||
      (bias && !sameShape(bias.shape, [n]))
    )
      throw new ShapeError(
        `lowRankMatmul: x must be [t, d], weight [n, d], a [r, d], b [n, r] and bias [n]: got ${[...given, ...(bias ? [bias] : [])].map(({ shape }) => showShape(shape)).join(', ')}. Use reshape().`,
      );
    const dtypes = given.map(({ dtype }) => dtype);
    if (!dtypes.every(isFloat))
      throw new DTypeError(`lowRankMatmul: operands must be floats: got ${dtypes.join(', ')}. Use cast('f32').`);
    const dtype = dtypes.reduce(promote);
    return [
      { shape: [t, n], dtype },
      { shape: [t, r], dtype: promote(x.dtype, a.dtype) },
    ];
  },
  compose: ({ x, weight, a, b, bias }, { scaling }) => {
    const u = matmul(x, a, { transposeB: true }).mul(scaling);
    return [matmul(x, weight, { transposeB: true, add: [u, b], ...(bias && { bias }) }), u];
  },
  gradient: {
    x: {
      saves: ['weight', 'a', 'b'],
      rule: (c) => matmul(c.grad, c.saved.weight!, { add: [gradU(c), c.saved.a!] }),
    },
    weight: { saves: ['x'], rule: ({ grad, saved }) => matmul(grad, saved.x!, { transposeA: true }) },
    a: { saves: ['x', 'b'], rule: (c) => matmul(gradU(c), c.saved.x!, { transposeA: true }) },
    b: { saves: ['out1'], rule: ({ grad, saved }) => matmul(grad, saved.out1!, { transposeA: true }) },
    bias: { rule: ({ grad }) => grad },
  },
  samples: [
    { inputs: shapes(5, 8, 6, 3), attributes: { scaling: 2 } },
    { inputs: { ...shapes(7, 13, 9, 2), bias: { shape: [9] } }, attributes: { scaling: 0.5 } },
    { inputs: { ...shapes(3, 16, 17, 4), weight: { shape: [17, 16], dtype: 'bf16' } }, attributes: { scaling: 1 } },
    { inputs: shapes(0, 4, 3, 2), attributes: { scaling: 1 } },
  ],
  errors: [
    { inputs: { ...shapes(3, 4, 5, 2), a: { shape: [2, 5] } }, attributes: { scaling: 1 }, message: 'a [r, d]' },
    {
      inputs: { ...shapes(3, 4, 5, 2), x: { shape: [3, 4], dtype: 'i32' } },
      attributes: { scaling: 1 },
      message: 'must be floats',
    },
  ],
});

export interface LowRankMatmulOptions {
  /** Multiplies the update. Default 1. */
  readonly scaling?: number;
  /** [n], added to every row. */
  readonly bias?: Tensor;
}

/** x weight^T + scaling (x a^T) b^T (+ bias), a linear layer with LoRA: x [t, d] -> [t, n]; see lowRankMatmulOp. */
export function lowRankMatmul(
  x: Tensor,
  weight: Tensor,
  [a, b]: readonly [a: Tensor, b: Tensor],
  { scaling = 1, bias }: LowRankMatmulOptions = {},
): Tensor {
  const [y, u] = lowRankMatmulOp.apply({ x, weight, a, b, bias: bias ?? null }, { scaling });
  u!.dispose();
  return y!;
}
