import { ShapeError } from './errors.ts';

export type Shape = readonly number[];

/** Elements of a shape, or of its axes from `first` on. */
export function sizeOf(shape: Shape, first = 0): number {
  let product = 1;
  for (let i = first; i < shape.length; i++) product *= shape[i]!;
  return product;
}

export const showShape = (shape: Shape): string => `[${shape.join(', ')}]`;

export function sameShape(a: Shape, b: Shape): boolean {
  if (a === b) return true;
  if (a.length !== b.length) return false;
  for (let i = 0; i < a.length; i++) if (a[i] !== b[i]) return false;
  return true;
}

/** The shape both operands broadcast to, as NumPy and PyTorch do; throws with both shapes. */
export function broadcastShapes(op: string, ...shapes: Shape[]): Shape {
  const [first] = shapes;
  if (first && shapes.every((s) => sameShape(s, first))) return first;
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
  if (rank === 0) throw new ShapeError(`${op}: the tensor must have an axis ${axis}: got a scalar of shape [].`);
  const normal = axis < 0 ? axis + rank : axis;
  if (!Number.isInteger(axis) || normal < 0 || normal >= rank)
    throw new ShapeError(`${op}: axis must be an integer in ${-rank} .. ${rank - 1}: got ${axis}.`);
  return normal;
}

export function checkShape(op: string, shape: Shape): Shape {
  for (const n of shape)
    if (!Number.isSafeInteger(n) || n < 0)
      throw new ShapeError(
        `${op}: sizes must be integers of at least 0: got ${showShape(shape)}. Only reshape takes -1.`,
      );
  return [...shape];
}
