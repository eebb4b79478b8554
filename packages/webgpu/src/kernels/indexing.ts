/** Index arithmetic shared by kernels: which elements of an operand belong to an output element. */
import { type Operand, type Shape, sizeOf, stridesOf } from '@lorikeet/tensor';
import type { Uniforms } from '../uniforms.ts';

export const isContiguous = ({ shape, rowStride }: Operand): boolean =>
  (shape[0] ?? 1) <= 1 || rowStride === sizeOf(shape.slice(1));

/** Element strides of an operand; axis 0 may be a column block's. */
export function operandStrides({ shape, rowStride }: Operand): number[] {
  const strides = stridesOf(shape);
  if (strides.length > 0) strides[0] = rowStride;
  return strides;
}

/** Strides that read axes of these sizes as if they were expanded to `target`: 0 along broadcast axes. */
function expand(shape: Shape, own: readonly number[], target: Shape): number[] {
  return target.map((_, i) => {
    const axis = i - target.length + shape.length;
    return axis < 0 || shape[axis] === 1 ? 0 : own[axis]!;
  });
}

export const expandedStrides = (operand: Operand, target: Shape): number[] =>
  expand(operand.shape, operandStrides(operand), target);

/** The same for all axes but the last two: where each matrix of a batch begins. */
export const batchStrides = (operand: Operand, batch: Shape): number[] =>
  expand(operand.shape.slice(0, -2), operandStrides(operand).slice(0, -2), batch);

/** A loop nest: sizes of the axes, and the strides of each operand along them. */
export interface Nest {
  readonly shape: readonly number[];
  readonly strides: readonly (readonly number[])[];
}

/** The same nest with as few axes as can be: axes of size 1 dropped, neighbours joined that every operand walks evenly. */
export function collapse({ shape, strides }: Nest): Nest {
  const sizes: number[] = [];
  const steps: number[][] = strides.map(() => []);
  shape.forEach((size, axis) => {
    if (size === 1) return;
    const joins = sizes.length > 0 && strides.every((s, k) => steps[k]!.at(-1) === s[axis]! * size);
    if (joins) {
      sizes[sizes.length - 1]! *= size;
      strides.forEach((s, k) => {
        steps[k]![steps[k]!.length - 1] = s[axis]!;
      });
    } else {
      sizes.push(size);
      strides.forEach((s, k) => {
        steps[k]!.push(s[axis]!);
      });
    }
  });
  return { shape: sizes, strides: steps };
}

/** Puts a nest into the uniforms; returns WGSL statements that split `index`, and each operand's offset as an expression. */
export function nestWgsl(
  nest: Nest,
  uniforms: Uniforms,
  prefix: string,
  index: string,
): { readonly statements: string; readonly offsets: readonly string[] } {
  const rank = nest.shape.length;
  const sizes = nest.shape.map((n, axis) => uniforms.u32(`${prefix}_size${axis}`, n));
  const strides = nest.strides.map((list, k) => list.map((s, axis) => uniforms.u32(`${prefix}_step${k}_${axis}`, s)));
  const lines: string[] = rank > 1 ? [`var ${prefix}_rest = ${index};`] : [];
  for (let axis = rank - 1; axis > 0; axis--) {
    lines.push(`let ${prefix}_i${axis} = ${prefix}_rest % ${sizes[axis]};`);
    lines.push(`${prefix}_rest = ${prefix}_rest / ${sizes[axis]};`);
  }
  const part = (axis: number): string => (rank === 1 ? index : axis === 0 ? `${prefix}_rest` : `${prefix}_i${axis}`);
  const offsets = strides.map((list) => list.map((s, axis) => `${part(axis)} * ${s}`).join(' + ') || '0u');
  return { statements: lines.join('\n    '), offsets };
}
