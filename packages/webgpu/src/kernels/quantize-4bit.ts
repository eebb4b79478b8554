/**
 * 4-bit blockwise quantization (NF4, FP4) and the product with such a weight. Every value is rounded as the reference rounds
 * it: division is exact, a product is kept apart from the sum after it, and what a driver may flush to zero is scaled up.
 */
import {
  type Call,
  code4bit,
  decision4bit,
  type Layout4bit,
  type Matmul4bitAttributes,
  type Operand,
  type Quantize4bitOptions,
  sizeOf,
} from '@lorikeet/tensor';
import type { Bindings } from '../bindings.ts';
import type { Stream } from '../stream.ts';
import { Uniforms } from '../uniforms.ts';
import { loadElement } from '../wgsl/dtypes.wgsl.ts';
import { temporary } from './elementwise.ts';
import { runMap } from './map.ts';
import { encodeProduct, type Factor, factor } from './matmul.ts';
import { release, withWideOutput } from './reduce.ts';

const bitsOf = (value: number): string => {
  const view = new DataView(new ArrayBuffer(4));
  view.setFloat32(0, value);
  return `0x${view.getUint32(0).toString(16)}u`;
};
/** The least absmax that is divided by: bitsandbytes' 1e-38, a subnormal number. */
const leastAbsmax = bitsOf(1e-38);
const float = (value: number): string => `bitcast<f32>(${bitsOf(value)})`;

/** An input whose bits as f32 `bits(i)` reads without a float in between, which a driver might flush to zero. */
function floatBits({ dtype }: Operand): { type: 'raw' | 'f32'; bits: (i: string) => string } {
  if (dtype === 'f16') return { type: 'f32', bits: (i) => `bitcast<u32>(x0(${i}))` };
  return { type: 'raw', bits: (i) => (dtype === 'bf16' ? `(x0(${i}) << 16u)` : `x0(${i})`) };
}

/** absmax and packed nibbles of x. */
export function quantize4bit(stream: Stream, { inputs, outputs, attributes }: Call): void {
  const [x] = inputs as [Operand];
  const [packed, absmax] = outputs as [Operand, Operand];
  const options = attributes as unknown as Quantize4bitOptions;
  const blocks = sizeOf(absmax.shape);
  if (blocks === 0) return;
  const reciprocals = temporary(stream, [blocks], 'f32');
  findAbsmax(stream, x, [absmax, reciprocals], options);
  packNibbles(stream, [x, absmax, reciprocals], packed, options);
  release(stream, reciprocals);
}

function findAbsmax(
  stream: Stream,
  x: Operand,
  outputs: readonly [absmax: Operand, reciprocals: Operand],
  { blocksize }: Quantize4bitOptions,
): void {
  const uniforms = new Uniforms();
  const [count, size] = [uniforms.u32('count', sizeOf(x.shape)), uniforms.u32('blocksize', blocksize)];
  const { type, bits } = floatBits(x);
  // Magnitudes are ordered as their bits are, NaN above all.
  runMap(stream, {
    kernel: 'quantize4bit.absmax',
    key: '',
    inputs: [{ operand: x, type }],
    outputs,
    outputType: 'raw',
    uniforms,
    body: () => `let first = e * ${size};
    let last = min(first + ${size}, ${count});
    var most = 0u;
    for (var i = first; i < last; i++) { most = max(most, ${bits('i')} & 0x7fffffffu); }
    let divisor = max(most, ${leastAbsmax});
    let out0 = select(divisor, most, last - first == ${size});
    var out1 = select(0u, divisor, divisor > 0x7f800000u);
    if (divisor < 0x7f800000u) { out1 = divide_bits(${bitsOf(1)}, divisor); }`,
    cost: blocksize,
  });
}

function packNibbles(
  stream: Stream,
  [x, absmax, reciprocals]: readonly [Operand, Operand, Operand],
  packed: Operand,
  { quantType, blocksize }: Quantize4bitOptions,
): void {
  const { borders, order } = decision4bit(quantType);
  const zero = order[borders.findIndex((b) => b >= 0)]!;
  const uniforms = new Uniforms();
  const [count, size] = [uniforms.u32('count', sizeOf(x.shape)), uniforms.u32('blocksize', blocksize)];
  const { type, bits } = floatBits(x);
  const above = Array.from(borders, (border) => `select(1u, 0u, scaled <= ${float(border)} * unit)`);
  runMap(stream, {
    kernel: 'quantize4bit.pack',
    key: quantType,
    inputs: [
      { operand: x, type },
      { operand: absmax, type: 'raw' },
      { operand: reciprocals, type: 'raw' },
    ],
    outputs: [packed],
    outputType: 'raw',
    uniforms,
    declarations: `const nibbles = array<u32, 16>(${Array.from(order, (n) => `${n}u`).join(', ')});
fn scaled_up(bits: u32) -> f32 {
  let sign = bits & 0x80000000u;
  let magnitude = bits & 0x7fffffffu;
  if (magnitude >= 0x800000u) { return bitcast<f32>(bits + (64u << 23u)); }
  return bitcast<f32>(bitcast<u32>(f32(magnitude) * ${float(2 ** -85)}) | sign);
}
fn quotient_of(value: f32, by: u32) -> f32 {
  if (value == 0.0 || is_nan(value) || is_infinite(value) || by >= 0x7f800000u) { return value / bitcast<f32>(by); }
  return bitcast<f32>(divide_bits(bitcast<u32>(value), by));
}
fn nibble_of(i: u32) -> u32 {
  if (i >= ${count}) { return ${zero}u; }
  let block = i / ${size};
  let is_full = (block + 1u) * ${size} <= ${count};
  let bits = ${bits('i')};
  // Tiny values and their products count in units of 2^-64, where neither is subnormal.
  let is_tiny = (bits & 0x7fffffffu) < 0x21800000u;
  let unit = select(1.0, ${float(2 ** 64)}, is_tiny);
  let value = select(bitcast<f32>(bits), scaled_up(bits), is_tiny);
  var scaled = value * bitcast<f32>(x2(block));
  if (!is_full) { scaled = quotient_of(value, x1(block)); }
  if (is_nan(scaled)) { return nibbles[15]; }
  // What rounds to zero as a subnormal number: half of the least one, or less.
  if (is_tiny && abs(scaled) <= ${float(2 ** -86)}) { scaled = 0.0; }
  let rank = ${above.join('\n    + ')};
  return nibbles[rank];
}`,
    body: () => 'let out0 = (nibble_of(2u * e) << 4u) | nibble_of(2u * e + 1u);',
    cost: 48,
  });
}

/** absmax of every block in f32: as it is, or decoded from its own 8 bits into a temporary tensor. */
function withAbsmax(
  stream: Stream,
  [absmax, nestedAbsmax, nestedCode]: readonly [Operand, Operand | null, Operand | null],
  { offset, nestedBlocksize }: Layout4bit,
  use: (absmax: Operand) => void,
): void {
  if (!nestedAbsmax || !nestedCode) {
    use(absmax);
    return;
  }
  const decoded = temporary(stream, absmax.shape, 'f32');
  const uniforms = new Uniforms();
  const [size, shift] = [uniforms.u32('nested_blocksize', nestedBlocksize), uniforms.f32('shift', offset)];
  // A number that is 0 at run time, so that no compiler may fuse the product with the sum.
  const nothing = uniforms.u32('nothing', 0);
  runMap(stream, {
    kernel: 'dequantize4bit.absmax',
    key: '',
    inputs: [
      { operand: absmax, type: 'u32' },
      { operand: nestedAbsmax, type: 'f32' },
      { operand: nestedCode, type: 'f32' },
    ],
    outputs: [decoded],
    outputType: 'f32',
    uniforms,
    body: () => `let product = bitcast<u32>(x2(x0(e)) * x1(e / ${size})) ^ ${nothing};
    let out0 = bitcast<f32>(product) + ${shift};`,
  });
  use(decoded);
  release(stream, decoded);
}

/** What rounds a weight to its dtype. */
const rounded: Readonly<Record<Layout4bit['dtype'], (value: string) => string>> = {
  f32: (value) => value,
  f16: (value) => `from_f16(to_f16(${value}))`,
  bf16: (value) => `bitcast<f32>(to_bf16(${value}) << 16u)`,
};

/** WGSL of `name(i)`: element i of the flattened weight. */
function declareWeight(
  name: string,
  packed: Operand,
  absmax: Operand,
  { quantType, dtype, blocksize }: Layout4bit,
  bindings: Bindings,
  uniforms: Uniforms,
): () => string {
  const [bytes, scales] = [bindings.read(packed), bindings.read(absmax)];
  const [at, scaleAt] = [
    uniforms.u32(`${name}_offset`, packed.offset),
    uniforms.u32(`${name}_absmax_offset`, absmax.offset),
  ];
  const shift = uniforms.u32(`${name}_block_shift`, Math.log2(blocksize));
  const code = Array.from(code4bit(quantType), bitsOf).join(', ');
  return () => `const ${name}_code = array<u32, 16>(${code});
fn ${name}(i: u32) -> f32 {
  let at = (i >> 1u) + ${at};
  let byte = ${loadElement('u8', 'raw', bytes, 'at')};
  let nibble = select(byte >> 4u, byte & 15u, (i & 1u) == 1u);
  let scale_at = (i >> ${shift}) + ${scaleAt};
  return ${rounded[dtype](`(bitcast<f32>(${name}_code[nibble]) * ${loadElement('f32', 'f32', scales, 'scale_at')})`)};
}`;
}

type Parts = readonly [Operand, Operand, Operand | null, Operand | null];

/** The matrix, or some of its rows, in its dtype. */
export function dequantize4bit(stream: Stream, { inputs, outputs: [out], attributes }: Call): void {
  const [packed, ...scales] = inputs as unknown as Parts;
  const layout = attributes as unknown as Layout4bit & { readonly rows: readonly [number, number] };
  withAbsmax(stream, scales, layout, (absmax) => {
    const uniforms = new Uniforms();
    const first = uniforms.u32('first', layout.rows[0] * layout.shape[1]);
    runMap(stream, {
      kernel: 'dequantize4bit',
      key: `${layout.quantType}/${layout.dtype}`,
      inputs: [],
      outputs: [out!],
      outputType: 'f32',
      uniforms,
      declare: (bindings) => declareWeight('weight', packed, absmax, layout, bindings, uniforms),
      body: () => `let out0 = weight(${first} + e);`,
      cost: 8,
    });
  });
}

/** a times the weight, read from its 4 bits tile by tile. */
export function matmul4bit(stream: Stream, { inputs, outputs: [out], attributes }: Call): void {
  const [a, packed, absmax, nestedAbsmax, nestedCode, u, v, bias] = inputs as unknown as readonly [
    ...[Operand, Operand, Operand],
    ...(readonly (Operand | null)[]),
  ];
  const layout = attributes as unknown as Matmul4bitAttributes;
  const { shape, transposeB, quantType, dtype } = layout;
  withAbsmax(stream, [absmax, nestedAbsmax ?? null, nestedCode ?? null], layout, (scales) => {
    const weight: Factor = {
      ...{ name: 'b', operand: packed, kind: `${quantType}.${dtype}` },
      declare: (bindings, uniforms) => declareWeight('b', packed, scales, layout, bindings, uniforms),
      ...(transposeB ? { outer: shape[1], k: 1 } : { outer: 1, k: shape[1] }),
    };
    const first = { left: factor('a', a, true), right: weight, k: a.shape[1]! };
    const second = u && v ? [{ left: factor('u', u, true), right: factor('v', v, transposeB), k: u.shape[1]! }] : [];
    withWideOutput(stream, out!, (target) => encodeProduct(stream, [first, ...second], bias ?? null, target));
  });
}
