/**
 * Optimizer steps on 8-bit moments, in place and in one pass: what bitsandbytes 0.50 computes on a CPU
 * (`_optimizer_update_8bit_blockwise_cpu`), rounding for rounding, so that the state is the same bit for bit.
 */
import type { Attributes, Dense } from '../backend.ts';
import { isFloat } from '../dtype.ts';
import { DTypeError, ShapeError } from '../errors.ts';
import { defineOp, type Op, type SampleInput, type Spec } from '../op.ts';
import { sameShape, showShape, sizeOf } from '../shape.ts';
import type { Tensor } from '../tensor.ts';
import { createDynamicMap, gridCells, placesOf } from './quantize-8bit.ts';

/** Elements that share a scale in 8-bit optimizer state: all of bitsandbytes' blockwise optimizers. */
export const stateBlocksize = 256;

/** Numbers of a step that both optimizers have. */
export interface Rates {
  /** Multiplies the gradient. */
  readonly gradScale: number;
  readonly lr: number;
  readonly beta1: number;
  readonly beta2: number;
  /** Shrinks the parameter by lr * weightDecay before the step. */
  readonly weightDecay: number;
}

/** Numbers of an AdamW step: `correction1` = 1 - beta1^t, `correction2` = sqrt(1 - beta2^t). */
export interface AdamW8bitRates extends Rates {
  readonly eps: number;
  /** Shrinks the parameter after the step instead (bitsandbytes' CUDA kernels). */
  readonly weightDecayAfter: number;
  readonly correction1: number;
  readonly correction2: number;
}
export type Lion8bitRates = Rates;

const { fround } = Math;
/** a * b + c with one rounding to f32: the product of two f32 numbers is exact in f64. */
const fused = (a: number, b: number, c: number): number => fround(a * b + c);

function checkState(
  op: string,
  param: Spec,
  grad: Spec,
  moments: readonly (readonly [state: Spec, absmax: Spec, map: Spec])[],
): void {
  if (!isFloat(param.dtype) || !isFloat(grad.dtype) || !sameShape(param.shape, grad.shape))
    throw new ShapeError(
      `${op}: param and grad must be floats of one shape: got ${param.dtype} ${showShape(param.shape)} and ${grad.dtype} ${showShape(grad.shape)}.`,
    );
  const blocks = [Math.ceil(sizeOf(param.shape) / stateBlocksize)];
  for (const [state, absmax, map] of moments) {
    if (state.dtype !== 'u8' || !sameShape(state.shape, param.shape))
      throw new DTypeError(
        `${op}: state must be u8 ${showShape(param.shape)}, as param: got ${state.dtype} ${showShape(state.shape)}.`,
      );
    if (
      absmax.dtype !== 'f32' ||
      !sameShape(absmax.shape, blocks) ||
      map.dtype !== 'f32' ||
      !sameShape(map.shape, [256])
    )
      throw new ShapeError(
        `${op}: absmax must be f32 ${showShape(blocks)} and the map f32 [256]: got ${absmax.dtype} ${showShape(absmax.shape)} and ${map.dtype} ${showShape(map.shape)}.`,
      );
  }
}

/** A moment of one call: read widened, written into outputs by blocks. */
class Moment {
  readonly #map: Float32Array;
  readonly #places: Uint8Array;
  readonly #from: { readonly state: Dense; readonly absmax: Dense };
  readonly #to: { readonly state: Dense; readonly absmax: Dense };
  readonly #block = new Float32Array(stateBlocksize);

  constructor([state, absmax, map]: readonly Dense[], [toState, toAbsmax]: readonly Dense[]) {
    this.#map = Float32Array.from(map!.data);
    this.#places = placesOf(this.#map);
    this.#from = { state: state!, absmax: absmax! };
    this.#to = { state: toState!, absmax: toAbsmax! };
  }
  read(i: number): number {
    const { state, absmax } = this.#from;
    return fround(this.#map[state.data[i]!]! * absmax.data[Math.floor(i / stateBlocksize)]!);
  }
  set(i: number, value: number): void {
    this.#block[i % stateBlocksize] = value;
  }
  /** Quantizes the block of elements first .. end. */
  finish(first: number, end: number): void {
    let absmax = 0;
    for (let i = first; i < end; i++) absmax = Math.max(absmax, Math.abs(this.#block[i - first]!) || 0);
    this.#to.absmax.data[first / stateBlocksize] = absmax;
    const inverse = fround(1 / absmax);
    for (let i = first; i < end; i++) {
      const scaled = Math.min(1, Math.max(-1, fround(this.#block[i - first]! * inverse)));
      const cell = fround(fround(fround(fround(scaled + 1) * 0.5) * gridCells) + 0.5);
      this.#to.state.data[i] = absmax === 0 ? 0 : this.#places[Math.trunc(cell) || 0]!;
    }
  }
}

/** Runs `step` on every element, block by block; it gives the new parameter. */
function eachElement(
  param: Dense,
  out: Dense,
  moments: readonly Moment[],
  step: (i: number, param: number) => number,
): void {
  const n = param.data.length;
  for (let first = 0; first < n; first += stateBlocksize) {
    const end = Math.min(n, first + stateBlocksize);
    for (let i = first; i < end; i++) out.data[i] = step(i, fround(param.data[i]!));
    for (const moment of moments) moment.finish(first, end);
  }
}

/** Numbers of a step that tests and self-tests run. */
const rates: Rates = { gradScale: 0.5, lr: 0.01, beta1: 0.9, beta2: 0.99, weightDecay: 0.1 };

/** A moment of 300 elements that tests and self-tests draw. */
const momentSample = (i: 1 | 2, signed: boolean): Record<string, SampleInput> => ({
  [`state${i}`]: { shape: [300], dtype: 'u8', low: 0, high: 256 },
  [`absmax${i}`]: { shape: [2], low: 0.1, high: 1 },
  [`map${i}`]: { shape: [256], values: [...createDynamicMap(signed)] },
});

/** See adamw8bitUpdate. */
export const adamw8bitOp = defineOp<
  'param' | 'grad' | 'state1' | 'absmax1' | 'map1' | 'state2' | 'absmax2' | 'map2',
  AdamW8bitRates
>({
  name: 'adamw8bit',
  inputs: ['param', 'grad', 'state1', 'absmax1', 'map1', 'state2', 'absmax2', 'map2'],
  mutates: ['param', 'state1', 'absmax1', 'state2', 'absmax2'],
  shape: ({ param, grad, state1, absmax1, map1, state2, absmax2, map2 }) => {
    checkState('adamw8bit', param, grad, [
      [state1, absmax1, map1],
      [state2, absmax2, map2],
    ]);
    return [param, state1, absmax1, state2, absmax2];
  },
  reference: (inputs, outputs, attributes) => {
    const r = attributes as unknown as AdamW8bitRates;
    const [param, grad, ...state] = inputs as Dense[];
    const [m, v] = [new Moment(state.slice(0, 3), outputs.slice(1, 3)), new Moment(state.slice(3), outputs.slice(3))];
    const [scale, beta1, beta2] = [fround(r.gradScale), fround(r.beta1), fround(r.beta2)];
    const [enter1, enter2] = [fround(1 - r.beta1), fround(1 - r.beta2)];
    const [correction2, eps, rate] = [fround(r.correction2), fround(r.eps), fround(-r.lr / r.correction1)];
    const [before, after] = [fround(1 - r.lr * r.weightDecay), fround(1 - r.lr * r.weightDecayAfter)];
    eachElement(param!, outputs[0]!, [m, v], (i, p) => {
      const g = fround(fround(grad!.data[i]!) * scale);
      const m1 = fused(g, enter1, fround(m.read(i) * beta1));
      const v1 = fused(fround(enter2 * g), g, fround(v.read(i) * beta2));
      m.set(i, m1);
      v.set(i, v1);
      const root = fround(fround(fround(Math.sqrt(v1)) / correction2) + eps);
      return fround(fround(fround(p * before) + fround(fround(rate * m1) / root)) * after);
    });
  },
  samples: [
    {
      inputs: { ...momentSample(2, false), ...momentSample(1, true), param: { shape: [300] }, grad: { shape: [300] } },
      attributes: { ...rates, eps: 1e-8, weightDecayAfter: 0, correction1: 0.1, correction2: 0.03 },
    },
  ],
});

/** See lion8bitUpdate. */
export const lion8bitOp = defineOp<'param' | 'grad' | 'state1' | 'absmax1' | 'map1', Lion8bitRates>({
  name: 'lion8bit',
  inputs: ['param', 'grad', 'state1', 'absmax1', 'map1'],
  mutates: ['param', 'state1', 'absmax1'],
  shape: ({ param, grad, state1, absmax1, map1 }) => {
    checkState('lion8bit', param, grad, [[state1, absmax1, map1]]);
    return [param, state1, absmax1];
  },
  reference: (inputs, outputs, attributes) => {
    const r = attributes as unknown as Lion8bitRates;
    const [param, grad, ...state] = inputs as Dense[];
    const m = new Moment(state, outputs.slice(1));
    const [scale, beta1, beta2, lr] = [r.gradScale, r.beta1, r.beta2, r.lr].map(fround) as [
      number,
      number,
      number,
      number,
    ];
    const [enter1, enter2, before] = [1 - r.beta1, 1 - r.beta2, 1 - r.lr * r.weightDecay].map(fround) as [
      number,
      number,
      number,
    ];
    eachElement(param!, outputs[0]!, [m], (i, p) => {
      const g = fround(fround(grad!.data[i]!) * scale);
      const old = m.read(i);
      m.set(i, fused(g, enter2, fround(old * beta2)));
      return fround(fround(p * before) - lr * Math.sign(fround(fround(old * beta1) + fround(g * enter1))));
    });
  },
  samples: [
    { inputs: { ...momentSample(1, true), param: { shape: [300] }, grad: { shape: [300] } }, attributes: rates },
  ],
});

/** Applies an op where the backend can; false where it has neither kernel nor reference for it. */
function applied<Names extends string, A>(
  op: Op<Names, A>,
  given: Readonly<Record<Names, Tensor>>,
  attributes: A,
): boolean {
  const tensors = op.options.inputs.map((name) => given[name]);
  const operands = tensors.map((t) => t.operand(op.name));
  const outputs = op.options.mutates!.map((name) => operands[op.options.inputs.indexOf(name)]!);
  const call = { op, inputs: operands, outputs, attributes: attributes as Attributes };
  if (!tensors[0]!.backend.supports(call)) return false;
  for (const t of op.apply(given, attributes)) t.dispose();
  return true;
}

/** A moment in 8 bits: u8 of the parameter's shape, f32 [blocks of 256], and the map of 256 values. */
export interface Moment8bit {
  readonly state: Tensor;
  readonly absmax: Tensor;
  readonly map: Tensor;
}

/** One AdamW step in place, the first moment signed, the second not. Returns false where the backend has no kernel for it. */
export const adamw8bitUpdate = (
  param: Tensor,
  grad: Tensor,
  [m, v]: readonly [Moment8bit, Moment8bit],
  rates: AdamW8bitRates,
): boolean =>
  applied(
    adamw8bitOp,
    { param, grad, state1: m.state, absmax1: m.absmax, map1: m.map, state2: v.state, absmax2: v.absmax, map2: v.map },
    rates,
  );

/** One Lion step in place. Returns false where the backend has no kernel for it. */
export const lion8bitUpdate = (param: Tensor, grad: Tensor, m: Moment8bit, rates: Lion8bitRates): boolean =>
  applied(lion8bitOp, { param, grad, state1: m.state, absmax1: m.absmax, map1: m.map }, rates);
