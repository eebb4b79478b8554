/** sum, max and argmax over [outer, n, inner] -> [outer, inner]. */
import { type Call, isFloat, type Operand, sizeOf } from '@lorikeet/tensor';
import { Bindings } from '../bindings.ts';
import type { Stream } from '../stream.ts';
import { Uniforms } from '../uniforms.ts';
import { perWord, storedBits, type ValueType } from '../wgsl/dtypes.wgsl.ts';
import { mainWgsl, preludeWgsl } from '../wgsl/prelude.wgsl.ts';
import { convert, temporary } from './elementwise.ts';
import { declareLoad } from './map.ts';

export type Reduction = 'sum' | 'max' | 'argmax';

const workgroupSize = 64;
/** Longer reductions are cut into segments of this size, whose results are reduced again. */
const segmentLength = 4096;

/** How a running (value, place) takes in another one, in WGSL. */
function combine(reduction: Reduction, type: ValueType): string {
  if (reduction === 'sum') return 'value += v;';
  const isFloatType = type === 'f32';
  if (reduction === 'max') return isFloatType ? 'value = max_nan(value, v);' : 'value = max(value, v);';
  // The first largest; a NaN is larger than any number, the first NaN wins.
  const beats = isFloatType ? '((is_nan(v) && !is_nan(value)) || (ordered(v, value) && v > value))' : '(v > value)';
  const ties = isFloatType ? '((is_nan(v) && is_nan(value)) || (ordered(v, value) && v == value))' : '(v == value)';
  return `if (${beats} || (${ties} && p < place)) { value = v; place = p; }`;
}

interface Plan {
  readonly reduction: Reduction;
  readonly type: ValueType;
  readonly x: Operand;
  readonly out: Operand;
  readonly segments: number;
}

/** One pass: [outer, n, inner] -> [outer, segments, inner]. Rows (inner = 1) take a workgroup each, columns an invocation. */
function pass(stream: Stream, { reduction, type, x, out, segments }: Plan): void {
  const [outer, n, inner] = x.shape as [number, number, number];
  const byRows = inner === 1 && n >= workgroupSize / 2;
  const uniforms = new Uniforms();
  const bindings = new Bindings();
  const load = declareLoad('x', x, type, bindings, uniforms);
  const u = {
    n: uniforms.u32('n', n),
    inner: uniforms.u32('inner', inner),
    segments: uniforms.u32('segments', segments),
    length: uniforms.u32('len', Math.ceil(n / segments)),
    count: uniforms.u32('count', outer * segments * inner),
    at: uniforms.u32('out_offset', out.offset),
  };
  const buffer = bindings.write(out);
  const result = reduction === 'argmax' ? 'bitcast<u32>(i32(place))' : storedBits(out.dtype, type, 'value');
  const start = reduction === 'sum' ? `var value = ${type}(0);` : `var value = x(base + first * ${u.inner});`;
  // Starting twice at the same element changes neither a maximum nor its place, so lanes without work start at the first.
  const [from, step] = byRows ? ['first + lane', `${workgroupSize}u`] : ['first', '1u'];
  const body = `  let job = ${byRows ? 'linear' : `linear * ${workgroupSize}u + lane`};
  if (job >= ${u.count}) { return; }
  let i = job % ${u.inner};
  let first = ((job / ${u.inner}) % ${u.segments}) * ${u.length};
  let base = (job / (${u.inner} * ${u.segments})) * ${u.n} * ${u.inner} + i;
  let last = min(${u.n}, first + ${u.length});
  ${start}
  var place = first;
  for (var p = ${from}; p < last; p += ${step}) {
    let v = x(base + p * ${u.inner});
    ${combine(reduction, type)}
  }
${byRows ? fold(reduction, type) : ''}
  ${byRows ? 'if (lane == 0u) ' : ''}{ ${buffer}[${u.at} + job] = ${result}; }`;
  stream.dispatch({
    kernel: reduction,
    key: `reduce/${reduction}/${type}/${x.dtype}/${out.dtype}/${byRows}`,
    source: () =>
      [
        preludeWgsl,
        load(),
        byRows
          ? `var<workgroup> values: array<${type}, ${workgroupSize}>;\nvar<workgroup> places: array<u32, ${workgroupSize}>;`
          : '',
        mainWgsl(workgroupSize, body),
      ].join('\n'),
    bindings,
    uniforms,
    workgroups: byRows ? outer * segments : Math.ceil((outer * segments * inner) / workgroupSize),
    work: sizeOf(x.shape),
  });
}

/** A tree over the lanes of a workgroup. */
const fold = (reduction: Reduction, type: ValueType): string => `  values[lane] = value;
  places[lane] = place;
  for (var half = ${workgroupSize / 2}u; half > 0u; half /= 2u) {
    workgroupBarrier();
    if (lane < half) {
      let v = values[lane + half];
      let p = places[lane + half];
      ${combine(reduction, type)}
      values[lane] = value;
      places[lane] = place;
    }
  }`;

/** Runs `compute` with an output of 32-bit elements, converted at the end if the real one is packed. */
export function withWideOutput(stream: Stream, out: Operand, compute: (out: Operand) => void): void {
  if (perWord(out.dtype) === 1) {
    compute(out);
    return;
  }
  const wide = temporary(stream, out.shape, isFloat(out.dtype) ? 'f32' : 'i32');
  compute(wide);
  convert(stream, wide, out);
  release(stream, wide);
}

export const release = (stream: Stream, operand: Operand): void =>
  stream.pool.give(operand.buffer as Parameters<typeof stream.pool.give>[0]);

export const reduce =
  (reduction: Reduction) =>
  (stream: Stream, { inputs, outputs: [out] }: Call): void => {
    const x = inputs[0]!;
    const [outer, n, inner] = x.shape as [number, number, number];
    const type = isFloat(x.dtype) ? 'f32' : x.dtype === 'u32' ? 'u32' : 'i32';
    withWideOutput(stream, out!, (target) => {
      const segments = reduction === 'argmax' ? 1 : Math.ceil(n / segmentLength);
      if (segments <= 1) {
        pass(stream, { reduction, type, x, out: target, segments: 1 });
        return;
      }
      const partial = temporary(stream, [outer, segments, inner], type);
      pass(stream, { reduction, type, x, out: partial, segments });
      pass(stream, { reduction, type, x: partial, out: target, segments: 1 });
      release(stream, partial);
    });
  };
