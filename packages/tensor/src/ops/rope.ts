import { ShapeError } from '../errors.ts';
import { defineOp } from '../op.ts';
import { showShape } from '../shape.ts';
import type { Tensor } from '../tensor.ts';

interface Direction {
  /** True rotates back: the gradient. */
  readonly inverse: boolean;
}

/**
 * Rotary position embedding in the rotate-half form (Su et al. 2021; transformers' apply_rotary_pos_emb): the first
 * 2p features of each head are rotated by the angles whose cosines and sines are given, the rest pass through.
 */
export const ropeOp = defineOp<'x' | 'cos' | 'sin', Direction>({
  name: 'rope',
  inputs: ['x', 'cos', 'sin'],
  columnBlocks: ['x'],
  shape: ({ x, cos, sin }) => {
    const [t, , e] = x.shape;
    const pairs = cos.shape[1] ?? 0;
    if (
      x.shape.length !== 3 ||
      cos.shape.length !== 2 ||
      cos.shape[0] !== t ||
      showShape(cos.shape) !== showShape(sin.shape) ||
      2 * pairs > e!
    )
      throw new ShapeError(
        `rope: x must be [t, h, e], cos and sin [t, p] with 2p <= e: got ${showShape(x.shape)}, ${showShape(cos.shape)}, ${showShape(sin.shape)}.`,
      );
    return { shape: x.shape, dtype: x.dtype };
  },
  compose: ({ x, cos, sin }, { inverse }) => {
    const [t, , e] = x.shape as [number, number, number];
    const p = cos.shape[1]!;
    const c = cos.reshape([t, 1, p]);
    const s = (inverse ? sin.neg() : sin).reshape([t, 1, p]);
    const [first, second] = [x.slice(-1, 0, p), x.slice(-1, p, 2 * p)];
    const turned = [first.mul(c).sub(second.mul(s)), second.mul(c).add(first.mul(s))];
    if (2 * p < e) turned.push(x.slice(-1, 2 * p, e));
    return turned[0]!.concat(turned.slice(1), -1);
  },
  gradient: {
    x: {
      saves: ['cos', 'sin'],
      rule: ({ grad, saved, attributes: { inverse } }): Tensor =>
        ropeOp.apply({ x: grad, cos: saved.cos!, sin: saved.sin! }, { inverse: !inverse })[0]!,
    },
  },
  samples: [
    {
      inputs: {
        x: { shape: [3, 2, 8] },
        cos: { shape: [3, 4], differentiable: false },
        sin: { shape: [3, 4], differentiable: false },
      },
      attributes: { inverse: false },
    },
    {
      inputs: {
        x: { shape: [5, 1, 16] },
        cos: { shape: [5, 6], differentiable: false },
        sin: { shape: [5, 6], differentiable: false },
      },
      attributes: { inverse: false },
    },
    {
      inputs: {
        x: { shape: [2, 3, 6] },
        cos: { shape: [2, 3], differentiable: false },
        sin: { shape: [2, 3], differentiable: false },
      },
      attributes: { inverse: true },
    },
  ],
  errors: [
    {
      inputs: { x: { shape: [3, 2, 8] }, cos: { shape: [2, 4] }, sin: { shape: [2, 4] } },
      attributes: { inverse: false },
      message: 'x must be [t, h, e]',
    },
  ],
});

/** x [t, h, e] rotated by cos and sin [t, p]; see ropeOp. */
export const rope = (x: Tensor, cos: Tensor, sin: Tensor): Tensor =>
  ropeOp.apply({ x, cos, sin }, { inverse: false })[0]!;
