import { type DType, type Operand, sizeOf } from '@lorikeet/tensor';
import { Bindings } from '../bindings.ts';
import type { Stream } from '../stream.ts';
import type { Uniforms } from '../uniforms.ts';
import { loadElement, perWord, storedBits, type ValueType, wgslType } from '../wgsl/dtypes.wgsl.ts';
import { mainWgsl, preludeWgsl } from '../wgsl/prelude.wgsl.ts';

const workgroupSize = 64;

/** A kernel that computes every output element by itself from its linear index `e`. */
export interface MapKernel {
  readonly kernel: string;
  /** What shapes the body beside dtypes, types and aliasing (which are added here). */
  readonly key: string;
  readonly inputs: readonly { readonly operand: Operand; readonly type: ValueType }[];
  /** Contiguous, of one element count. Several may be updated in place. */
  readonly outputs: readonly Operand[];
  readonly outputType: ValueType;
  readonly uniforms: Uniforms;
  /** WGSL functions that the body calls. */
  readonly declarations?: string;
  /** Binds what is no plain input and returns WGSL functions that read it. */
  readonly declare?: (bindings: Bindings) => () => string;
  /** WGSL statements that define `out0`, `out1`, ...; `x0(i)` reads element i of input 0. */
  readonly body: () => string;
  /** Scalar operations an element. Default 1. */
  readonly cost?: number;
}

const phaseOf = (dtype: DType, offset: number): number => offset % perWord(dtype);

/**
 * The place of element 0 in the first group of `span` elements, so that no word is shared between two invocations:
 * outputs may begin in the middle of a word.
 */
function commonPhase(kernel: string, outputs: readonly Operand[], span: number): number {
  for (let phase = 0; phase < span; phase++)
    if (outputs.every((o) => phaseOf(o.dtype, o.offset) === phaseOf(o.dtype, phase))) return phase;
  throw new Error(`webgpu: ${kernel}: outputs updated together must begin at equal places within a 32-bit word.`);
}

/** Gives an input a function `name(i)`. */
export function declareLoad(
  name: string,
  operand: Operand,
  type: ValueType,
  bindings: Bindings,
  uniforms: Uniforms,
): () => string {
  const buffer = bindings.read(operand);
  const offset = uniforms.u32(`${name}_offset`, operand.offset);
  return () =>
    `fn ${name}(i: u32) -> ${wgslType(type)} { let at = i + ${offset}; return ${loadElement(operand.dtype, type, buffer, 'at')}; }`;
}

/** Encodes a MapKernel. An invocation writes whole 32-bit words: up to 4 elements, the words at the edges merged. */
export function runMap(stream: Stream, map: MapKernel): void {
  const { kernel, inputs, outputs, outputType: type, uniforms } = map;
  const n = sizeOf(outputs[0]!.shape);
  const span = Math.max(...outputs.map((o) => perWord(o.dtype)));
  const phase = commonPhase(kernel, outputs, span);
  const groups = Math.ceil((n + phase) / span);
  const bindings = new Bindings();
  const loads = inputs.map((x, i) => declareLoad(`x${i}`, x.operand, x.type, bindings, uniforms));
  if (map.declare) loads.push(map.declare(bindings));
  const names = {
    n: uniforms.u32('n', n),
    groups: uniforms.u32('groups', groups),
    phase: uniforms.u32('phase', phase),
  };
  const targets = outputs.map((o, k) => ({
    dtype: o.dtype,
    buffer: bindings.write(o),
    offset: uniforms.u32(`out${k}_offset`, o.offset),
  }));
  const dtypes = [...inputs.map((x) => `${x.operand.dtype}.${x.type}`), '>', ...outputs.map((o) => o.dtype), type];
  stream.dispatch({
    kernel,
    key: `map/${kernel}/${map.key}/${dtypes.join(',')}`,
    source: () =>
      [
        ...[preludeWgsl, ...loads.map((f) => f()), map.declarations ?? ''],
        mapMain(targets, type, span, names, map.body()),
      ].join('\n'),
    bindings,
    uniforms,
    workgroups: Math.ceil(groups / workgroupSize),
    work: n * (map.cost ?? 1),
  });
}

interface Target {
  readonly dtype: DType;
  readonly buffer: string;
  readonly offset: string;
}

function mapMain(
  targets: readonly Target[],
  type: ValueType,
  span: number,
  names: { readonly n: string; readonly groups: string; readonly phase: string },
  body: string,
): string {
  const packed = targets.map((t) => perWord(t.dtype) > 1);
  const arrays = targets.map((t, k) => {
    const words = span / perWord(t.dtype);
    return packed[k]
      ? `  var bits${k}: array<u32, ${words}>;\n  var mask${k}: array<u32, ${words}>;\n  var at${k}: array<u32, ${words}>;`
      : '';
  });
  const stores = targets.map((t, k) => {
    const bits = storedBits(t.dtype, type, `out${k}`);
    if (!packed[k]) return `    ${t.buffer}[${t.offset} + e] = ${bits};`;
    const per = perWord(t.dtype);
    const shift = `((s % ${per}u) * ${32 / per}u)`;
    return `    bits${k}[s / ${per}u] |= ${bits} << ${shift};
    mask${k}[s / ${per}u] |= ${per === 2 ? '0xffffu' : '0xffu'} << ${shift};
    at${k}[s / ${per}u] = (${t.offset} + e) / ${per}u;`;
  });
  const flushes = targets.map((t, k) =>
    packed[k]
      ? `  for (var w = 0u; w < ${span / perWord(t.dtype)}u; w++) {
    if (mask${k}[w] == 0xffffffffu) { ${t.buffer}[at${k}[w]] = bits${k}[w]; }
    else if (mask${k}[w] != 0u) { ${t.buffer}[at${k}[w]] = (${t.buffer}[at${k}[w]] & ~mask${k}[w]) | bits${k}[w]; }
  }`
      : '',
  );
  return mainWgsl(
    workgroupSize,
    `  let g = linear * ${workgroupSize}u + lane;
  if (g >= ${names.groups}) { return; }
${arrays.join('\n')}
  for (var s = 0u; s < ${span}u; s++) {
    let e = g * ${span}u + s - ${names.phase};
    if (e >= ${names.n}) { continue; }
    ${body}
${stores.join('\n')}
  }
${flushes.join('\n')}`,
  );
}
