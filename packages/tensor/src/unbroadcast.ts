import { ShapeError } from './errors.ts';
import { type Shape, sameShape, showShape, sizeOf } from './shape.ts';
import type { Tensor } from './tensor.ts';

/** Sums a gradient over the axes along which an input was broadcast, so that no rule has to. */
export function sumTo(gradient: Tensor, shape: Shape, op: string): Tensor {
  if (sameShape(gradient.shape, shape)) return gradient;
  const lead = gradient.rank - shape.length;
  const axes = gradient.shape.flatMap((n, i) => (i < lead || (shape[i - lead] === 1 && n !== 1) ? [i] : []));
  const summed = axes.length ? gradient.sum(axes, { keepDims: true }) : gradient;
  if (summed.size !== sizeOf(shape))
    throw new ShapeError(
      `${op}: its gradient rule gave ${showShape(gradient.shape)} for an input of ${showShape(shape)}.`,
    );
  return summed.reshape(shape);
}
