import { type Call, type Operand, type Shape, sizeOf } from '@lorikeet/tensor';
import { Bindings } from '../bindings.ts';
import type { Stream } from '../stream.ts';
import { Uniforms } from '../uniforms.ts';
import { storedBits } from '../wgsl/dtypes.wgsl.ts';
import { mainWgsl, preludeWgsl } from '../wgsl/prelude.wgsl.ts';
import { batchStrides, collapse, nestWgsl, operandStrides } from './indexing.ts';
import { declareLoad } from './map.ts';
import { withWideOutput } from './reduce.ts';

/** An output tile is 32 x 32, an invocation computes 4 x 4 of it; operands pass through workgroup memory 16 steps of k at a time. */
const tile = 32;
const depth = 16;
const workgroupSize = 64;
const quad = [0, 1, 2, 3];

/** One operand as the kernel reads it. */
export interface Factor {
  readonly name: string;
  readonly operand: Operand;
  /** What its load is made for: a dtype, or a form of quantization. */
  readonly kind: string;
  /** Binds it and gives it a function `name(i)`. */
  declare(bindings: Bindings, uniforms: Uniforms): () => string;
  /** Element steps along the axis that the output keeps (m or n), and along k. */
  readonly outer: number;
  readonly k: number;
}

/** A product that is summed into the tile. */
export interface Pair {
  readonly left: Factor;
  readonly right: Factor;
  readonly k: number;
}

export function factor(name: string, operand: Operand, kIsLast: boolean): Factor {
  const [r, c] = operandStrides(operand).slice(-2) as [number, number];
  return {
    ...{ name, operand, kind: operand.dtype },
    declare: (bindings, uniforms) => declareLoad(name, operand, 'f32', bindings, uniforms),
    ...(kIsLast ? { outer: r, k: c } : { outer: c, k: r }),
  };
}

function pairsOf({ inputs, attributes }: Call): Pair[] {
  const [a, b, u, v] = inputs as [Operand, Operand, Operand | null, Operand | null];
  const { transposeA, transposeB } = attributes as { transposeA: boolean; transposeB: boolean };
  const pair = (names: readonly [string, string], left: Operand, right: Operand): Pair => ({
    left: factor(names[0], left, !transposeA),
    right: factor(names[1], right, transposeB),
    k: left.shape.at(transposeA ? -2 : -1)!,
  });
  return u && v ? [pair(['a', 'b'], a, b), pair(['u', 'v'], u, v)] : [pair(['a', 'b'], a, b)];
}

/** WGSL that fills one half of workgroup memory, walking along the axis whose elements are neighbours. */
function fill(side: 'left' | 'right', { name }: Factor, size: string, kSize: string, base: string): string {
  const first = side === 'left' ? 'tile_m' : 'tile_n';
  return `    for (var q = lane; q < U.fills; q += ${workgroupSize}u) {
      let r = select(q % ${tile}u, q / ${depth}u, U.${name}_k == 1u);
      let d = select(q / ${tile}u, q % ${depth}u, U.${name}_k == 1u);
      var element = 0.0;
      if (${first} + r < ${size} && k0 + d < ${kSize}) {
        element = ${name}(${base} + (${first} + r) * U.${name}_outer + (k0 + d) * U.${name}_k);
      }
      ${side}[d * ${tile}u + r] = element;
    }`;
}

/** The loop over k of one pair. Only the first pair has batches. */
const product = ({ left, right }: Pair, index: number): string => `
  for (var k0 = 0u; k0 < U.k${index}; k0 += ${depth}u) {
${fill('left', left, 'U.m', `U.k${index}`, index === 0 ? 'base_a' : '0u')}
${fill('right', right, 'U.n', `U.k${index}`, index === 0 ? 'base_b' : '0u')}
    workgroupBarrier();
    for (var d = 0u; d < U.depth; d++) {
      let l = d * ${tile}u + my_m;
      let r = d * ${tile}u + my_n;
      let row = vec4<f32>(right[r], right[r + 1u], right[r + 2u], right[r + 3u]);
${quad.map((i) => `      sum${i} += left[l + ${i}u] * row;`).join('\n')}
    }
    workgroupBarrier();
  }`;

/** WGSL of `main`. */
function tileMain(pairs: readonly Pair[], batch: ReturnType<typeof nestWgsl>, bias: boolean, buffer: string): string {
  const stores = quad.map((i) => {
    const row = `(z * U.m + tile_m + my_m + ${i}u)`;
    const bits = storedBits('f32', 'f32', `sum${i}[c] + shift`);
    return `      if (tile_m + my_m + ${i}u < U.m) { ${buffer}[U.out_offset + ${row} * U.n + column] = ${bits}; }`;
  });
  return mainWgsl(
    workgroupSize,
    `  if (linear >= U.tiles) { return; }
  let tile_m = (linear / U.tiles_n) * ${tile}u;
  let tile_n = (linear % U.tiles_n) * ${tile}u;
  let my_m = (lane / 8u) * 4u;
  let my_n = (lane % 8u) * 4u;
  for (var z = group.z; z < U.layers; z += groups.z) {
    ${batch.statements}
    let base_a = ${batch.offsets[0]};
    let base_b = ${batch.offsets[1]};
${quad.map((i) => `    var sum${i} = vec4<f32>(0.0);`).join('\n')}
${pairs.map(product).join('\n')}
    for (var c = 0u; c < 4u; c++) {
      let column = tile_n + my_n + c;
      if (column >= U.n) { break; }
      let shift = ${bias ? 'bias(column)' : '0.0'};
${stores.join('\n')}
    }
  }`,
  );
}

interface Sizes {
  readonly batch: Shape;
  readonly m: number;
  readonly n: number;
}

function sizeUniforms(uniforms: Uniforms, pairs: readonly Pair[], { batch, m, n }: Sizes): { tiles: number } {
  const tilesN = Math.ceil(n / tile);
  const tiles = Math.ceil(m / tile) * tilesN;
  // Run-time numbers although they never change: some drivers unroll loops of known length and compile for seconds.
  uniforms.u32('fills', tile * depth);
  uniforms.u32('depth', depth);
  uniforms.u32('m', m);
  uniforms.u32('n', n);
  uniforms.u32('tiles', tiles);
  uniforms.u32('tiles_n', tilesN);
  uniforms.u32('layers', sizeOf(batch));
  pairs.forEach(({ left, right, k }, i) => {
    uniforms.u32(`k${i}`, k);
    for (const f of [left, right]) {
      uniforms.u32(`${f.name}_outer`, f.outer);
      uniforms.u32(`${f.name}_k`, f.k);
    }
  });
  return { tiles };
}

/** Encodes the sum of products (and bias) into an output of f32. */
export function encodeProduct(stream: Stream, pairs: readonly Pair[], bias: Operand | null, out: Operand): void {
  const [m, n] = out.shape.slice(-2) as [number, number];
  const batch = out.shape.slice(0, -2);
  const uniforms = new Uniforms();
  const bindings = new Bindings();
  const factors = pairs.flatMap(({ left, right }) => [left, right]);
  const loads = factors.map((f) => f.declare(bindings, uniforms));
  if (bias) loads.push(declareLoad('bias', bias, 'f32', bindings, uniforms));
  const { tiles } = sizeUniforms(uniforms, pairs, { batch, m, n });
  uniforms.u32('out_offset', out.offset);
  const strides = factors.slice(0, 2).map((f) => batchStrides(f.operand, batch));
  const collapsed = collapse({ shape: batch, strides });
  // No batch is a batch of one: one kernel less to compile.
  const nest = collapsed.shape.length > 0 ? collapsed : { shape: [1], strides: [[0], [0]] };
  const batchWgsl = nestWgsl(nest, uniforms, 'batch', 'z');
  const buffer = bindings.write(out);
  const layout = factors.map((f) => f.kind);
  const memory = ['left', 'right'].map((s) => `var<workgroup> ${s}: array<f32, ${tile * depth}>;`);
  stream.dispatch({
    kernel: 'matmul',
    key: `matmul/${layout.join(',')}/${bias?.dtype ?? ''}/${nest.shape.length}`,
    source: () =>
      [preludeWgsl, ...loads.map((f) => f()), ...memory, tileMain(pairs, batchWgsl, bias !== null, buffer)].join('\n'),
    bindings,
    uniforms,
    workgroups: tiles,
    layers: sizeOf(batch),
    work: 2 * m * n * sizeOf(batch) * pairs.reduce((sum, p) => sum + p.k, 0),
  });
}

/** a @ b (+ u @ v) (+ bias) with transposes, column blocks and broadcast batches, accumulated in f32. */
export const matmul = (stream: Stream, call: Call): void =>
  withWideOutput(stream, call.outputs[0]!, (out) => encodeProduct(stream, pairsOf(call), call.inputs[4] ?? null, out));
