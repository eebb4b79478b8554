import { ShapeError } from './errors.ts';

export type Shape = readonly number[];

export const sizeOf = (shape: Shape): number => shape.reduce((product, n) => product * n, 1);

export const showShape = (shape: Shape): string => `[${shape.join(', ')}]`;

export const sameShape = (a: Shape, b: Shape): boolean => a.length === b.length && a.every((n, i) => n === b[i]);

/** The shape both operands broadcast to, as NumPy and PyTorch do; throws with both shapes. */
export function broadcastShapes(op: string, ...shapes: Shape[]): Shape {
  const rank = Math.max(0, ...shapes.map((s) => s.length));
  return Array.from({ length: rank }, (_, i) => {
    let size = 1;
    for (const shape of shapes) {
      const n = shape[i - rank + shape.length] ?? 1;
      if (n === 1 || n === size) continue;
      if (size !== 1)
        throw new ShapeError(
          `${op}: shapes must broadcast: got ${shapes.map(showShape).join(' and ')}. Make sizes equal or 1, counted from the last axis.`,
        );
      size = n;
    }
    return size;
  });
}

/** Row-major strides in elements. */
export function stridesOf(shape: Shape): number[] {
  const strides = new Array<number>(shape.length);
  let step = 1;
  for (let i = shape.length - 1; i >= 0; i--) {
    strides[i] = step;
    step *= shape[i]!;
  }
  return strides;
}

/** Strides that read `shape` as if it were expanded to `target`: 0 along broadcast axes. */
export function broadcastStrides(shape: Shape, target: Shape): number[] {
  const own = stridesOf(shape);
  return target.map((_, i) => {
    const axis = i - target.length + shape.length;
    return axis < 0 || shape[axis] === 1 ? 0 : own[axis]!;
  });
}

/** An axis in 0 .. rank-1, negatives counted from the end. */
export function normalizeAxis(op: string, axis: number, rank: number): number {
  const normal = axis < 0 ? axis + rank : axis;
  if (!Number.isInteger(axis) || normal < 0 || normal >= rank)
    throw new ShapeError(`${op}: axis must be an integer in ${-rank} .. ${rank - 1}: got ${axis}.`);
  return normal;
}

export function checkShape(op: string, shape: Shape): Shape {
  for (const n of shape)
    if (!Number.isSafeInteger(n) || n < 0)
      throw new ShapeError(`${op}: sizes must be integers of at least 0: got ${showShape(shape)}.`);
  return [...shape];
}
