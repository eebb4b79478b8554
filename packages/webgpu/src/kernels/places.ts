/** Ops that read or add at given places. Sums run in order of the sources, one destination an invocation: no atomics. */
import { type Call, type DType, isFloat, type Operand } from '@lorikeet/tensor';
import type { Stream } from '../stream.ts';
import { Uniforms } from '../uniforms.ts';
import { convert, temporary } from './elementwise.ts';
import { runMap } from './map.ts';

/** The bits of a quiet NaN; what a float becomes that is read from outside of its tensor. Integers become 0. */
const outside: Partial<Record<DType, string>> = { f32: '0x7fc00000u', f16: '0x7e00u', bf16: '0x7fc0u' };

function threeSizes(uniforms: Uniforms, [, n, inner]: readonly number[], m: number) {
  return { n: uniforms.u32('axis', n!), inner: uniforms.u32('inner', inner!), m: uniforms.u32('picks', m) };
}

/** out[o, j, i] = x[o, indices[...], i], where `pick` is the WGSL address of the index. */
function read(stream: Stream, { op, inputs, outputs }: Call, pick: (inner: string, m: string) => string): void {
  const [x, indices] = inputs as [Operand, Operand];
  const uniforms = new Uniforms();
  const { n, inner, m } = threeSizes(uniforms, x.shape, outputs[0]!.shape[1]!);
  runMap(stream, {
    kernel: op.name,
    key: '',
    inputs: [
      { operand: x, type: 'raw' },
      { operand: indices, type: 'i32' },
    ],
    outputs,
    outputType: 'raw',
    uniforms,
    body: () =>
      [
        `let i = e % ${inner};`,
        `let j = (e / ${inner}) % ${m};`,
        `let o = e / (${inner} * ${m});`,
        `let picked = x1(${pick(inner, m)});`,
        `var out0 = ${outside[x.dtype] ?? '0u'};`,
        `if (picked >= 0 && u32(picked) < ${n}) { out0 = x0((o * ${n} + u32(picked)) * ${inner} + i); }`,
      ].join('\n    '),
  });
}

export const indexSelect = (stream: Stream, call: Call): void => read(stream, call, () => 'j');
export const gather = (stream: Stream, call: Call): void => read(stream, call, () => 'e');

/** out[o, p, i] = the sum of source[o, j, i] over the j whose index is p. */
function add(stream: Stream, { op, inputs, outputs: [out] }: Call, pick: (inner: string, m: string) => string): void {
  const [source, indices] = inputs as [Operand, Operand];
  const uniforms = new Uniforms();
  const { n, inner, m } = threeSizes(uniforms, out!.shape, source.shape[1]!);
  const type = isFloat(source.dtype) ? 'f32' : 'i32';
  runMap(stream, {
    kernel: op.name,
    key: '',
    inputs: [
      { operand: source, type },
      { operand: indices, type: 'i32' },
    ],
    outputs: [out!],
    outputType: type,
    uniforms,
    body: () =>
      [
        `let i = e % ${inner};`,
        `let p = (e / ${inner}) % ${n};`,
        `let o = e / (${inner} * ${n});`,
        `var out0 = ${type}(0);`,
        `for (var j = 0u; j < ${m}; j++) {`,
        `  if (x1(${pick(inner, m)}) == i32(p)) { out0 += x0((o * ${m} + j) * ${inner} + i); }`,
        '}',
      ].join('\n    '),
    cost: source.shape[1]!,
  });
}

export const indexAdd = (stream: Stream, call: Call): void => add(stream, call, () => 'j');
export const scatterAdd = (stream: Stream, call: Call): void =>
  add(stream, call, (inner, m) => `(o * ${m} + j) * ${inner} + i`);

/** Overwrites rows of the target in place, converted to its dtype. */
export function writeRows(stream: Stream, { inputs, outputs: [out], attributes }: Call): void {
  const rows = inputs[1]!;
  const at = attributes.at as number;
  const target: Operand = { ...out!, shape: rows.shape, offset: out!.offset + at * out!.rowStride };
  if (rows.buffer !== target.buffer) {
    convert(stream, rows, target);
    return;
  }
  // Rows of the same tensor may overlap their destination: copied first.
  const copy = temporary(stream, rows.shape, rows.dtype);
  convert(stream, rows, copy);
  convert(stream, copy, target);
  stream.pool.give(copy.buffer as Parameters<typeof stream.pool.give>[0]);
}
