/** Ops that move elements without looking at them: bits are copied, so every value survives, NaN payloads included. */
import { type Call, type Operand, sizeOf } from '@lorikeet/tensor';
import type { Stream } from '../stream.ts';
import { Uniforms } from '../uniforms.ts';
import { collapse, nestWgsl, operandStrides } from './indexing.ts';
import { runMap } from './map.ts';

/** Copies x with one stride an output axis, beginning `skip` elements into it. */
function copyStrided(
  stream: Stream,
  kernel: string,
  x: Operand,
  strides: readonly number[],
  out: Operand,
  skip = 0,
): void {
  const uniforms = new Uniforms();
  const nest = collapse({ shape: out.shape, strides: [strides] });
  const { statements, offsets } = nestWgsl(nest, uniforms, 'nest', 'e');
  runMap(stream, {
    kernel,
    key: `strided ${nest.shape.length}`,
    inputs: [{ operand: { ...x, offset: x.offset + skip }, type: 'raw' }],
    outputs: [out],
    outputType: 'raw',
    uniforms,
    body: () => `${statements}\n    let out0 = x0(${offsets[0]});`,
  });
}

export const contiguous = (stream: Stream, { inputs: [x], outputs: [out] }: Call): void =>
  copyStrided(stream, 'contiguous', x!, operandStrides(x!), out!);

export function permute(stream: Stream, { inputs: [x], outputs: [out], attributes }: Call): void {
  const strides = operandStrides(x!);
  const axes = attributes.axes as readonly number[];
  copyStrided(
    stream,
    'permute',
    x!,
    axes.map((a) => strides[a]!),
    out!,
  );
}

export function slice(stream: Stream, { inputs: [x], outputs: [out], attributes }: Call): void {
  const { axis, start } = attributes as { axis: number; start: number };
  const strides = operandStrides(x!);
  copyStrided(stream, 'slice', x!, strides, out!, start * strides[axis]!);
}

/** One tensor placed along an axis of the output, from index `start` on. */
interface Part {
  readonly operand: Operand;
  readonly start: number;
}

/** Joins parts along an axis; places that no part covers become zero. */
function join(stream: Stream, kernel: string, parts: readonly Part[], axis: number, out: Operand): void {
  const uniforms = new Uniforms();
  const inner = sizeOf(out.shape.slice(axis + 1));
  const names = {
    inner: uniforms.u32('inner', inner),
    total: uniforms.u32('total', out.shape[axis]!),
    // Outer indices a row of axis 0: a column block's rows lie rowStride apart.
    middle: uniforms.u32('middle', sizeOf(out.shape.slice(1, axis))),
  };
  const places = parts.map(({ operand, start }, k) => ({
    start: uniforms.u32(`start${k}`, start),
    size: uniforms.u32(`size${k}`, operand.shape[axis]!),
    row: uniforms.u32(`row${k}`, operand.rowStride),
  }));
  const address = (k: number): string =>
    axis === 0
      ? `(c - ${places[k]!.start}) * ${places[k]!.row} + i`
      : `(o / ${names.middle}) * ${places[k]!.row} + ((o % ${names.middle}) * ${places[k]!.size} + c - ${places[k]!.start}) * ${names.inner} + i`;
  runMap(stream, {
    kernel,
    key: `join ${parts.length} ${axis === 0 ? 'rows' : 'inside'}`,
    inputs: parts.map(({ operand }) => ({ operand, type: 'raw' })),
    outputs: [out],
    outputType: 'raw',
    uniforms,
    body: () =>
      [
        `let i = e % ${names.inner};`,
        `let c = (e / ${names.inner}) % ${names.total};`,
        `let o = e / (${names.inner} * ${names.total});`,
        'var out0 = 0u;',
        ...places.map((p, k) => `if (c >= ${p.start} && c - ${p.start} < ${p.size}) { out0 = x${k}(${address(k)}); }`),
      ].join('\n    '),
  });
}

export function pad(stream: Stream, { inputs: [x], outputs: [out], attributes }: Call): void {
  const { axis, before } = attributes as { axis: number; before: number };
  join(stream, 'pad', [{ operand: x!, start: before }], axis, out!);
}

export function concat(stream: Stream, { inputs, outputs: [out], attributes }: Call): void {
  const axis = attributes.axis as number;
  const parts: Part[] = [];
  let start = 0;
  for (const operand of inputs) {
    if (!operand) continue;
    if (sizeOf(operand.shape) > 0) parts.push({ operand, start });
    start += operand.shape[axis]!;
  }
  join(stream, 'concat', parts, axis, out!);
}

/** Copies bytes into the middle of a buffer: what a write that does not begin at a word needs. */
export function copyBytes(stream: Stream, source: Operand, target: Operand): void {
  copyStrided(stream, 'copyBytes', source, [1], target);
}
