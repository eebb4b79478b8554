import { type Call, sizeOf } from '@lorikeet/tensor';
import { Bindings } from '../bindings.ts';
import type { Stream } from '../stream.ts';
import { Uniforms } from '../uniforms.ts';
import { storedBits } from '../wgsl/dtypes.wgsl.ts';
import { mainWgsl, preludeWgsl } from '../wgsl/prelude.wgsl.ts';
import { declareLoad } from './map.ts';
import { withWideOutput } from './reduce.ts';

const workgroupSize = 64;

/** Folds `mine` of all lanes into `name`. */
const across = (name: string, fold: (a: string, b: string) => string): string => `  shared_values[lane] = mine;
  workgroupBarrier();
  for (var half = ${workgroupSize / 2}u; half > 0u; half /= 2u) {
    if (lane < half) { shared_values[lane] = ${fold('shared_values[lane]', 'shared_values[lane + half]')}; }
    workgroupBarrier();
  }
  let ${name} = shared_values[0];
  workgroupBarrier();`;

/** exp(x - max) / sum along the last axis, a workgroup a row. */
export function softmax(stream: Stream, { inputs, outputs: [out] }: Call): void {
  const x = inputs[0]!;
  withWideOutput(stream, out!, (target) => {
    const uniforms = new Uniforms();
    const bindings = new Bindings();
    const load = declareLoad('x', x, 'f32', bindings, uniforms);
    const n = x.shape.at(-1) ?? 1;
    const rows = sizeOf(x.shape) / n;
    const [width, count, at] = [
      uniforms.u32('n', n),
      uniforms.u32('rows', rows),
      uniforms.u32('out_offset', target.offset),
    ];
    const buffer = bindings.write(target);
    const each = (statement: string): string =>
      `  for (var i = lane; i < ${width}; i += ${workgroupSize}u) { ${statement} }`;
    const body = `  if (linear >= ${count}) { return; }
  let row = linear * ${width};
  var mine = x(row);
${each('mine = max_nan(mine, x(row + i));')}
${across('top', (a, b) => `max_nan(${a}, ${b})`)}
  mine = 0.0;
${each('mine += exp_f32(x(row + i) - top);')}
${across('total', (a, b) => `${a} + ${b}`)}
${each(`${buffer}[${at} + row + i] = ${storedBits('f32', 'f32', 'exp_f32(x(row + i) - top) / total')};`)}`;
    stream.dispatch({
      kernel: 'softmax',
      key: `softmax/${x.dtype}`,
      source: () =>
        [
          preludeWgsl,
          load(),
          `var<workgroup> shared_values: array<f32, ${workgroupSize}>;`,
          mainWgsl(workgroupSize, body),
        ].join('\n'),
      bindings,
      uniforms,
      workgroups: rows,
      work: sizeOf(x.shape) * 16,
    });
  });
}
