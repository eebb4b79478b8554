/** 2^y for y that is never far above 0, as in a softmax whose maximum is taken off: half the work of `exp`. */
import type { FunctionBuilder } from '../assembler.ts';
import { f32x4, i32x4, type V128 } from '../instructions.ts';
import { type Features, maddFor } from './lanes.ts';

/** Minimax on |r| <= 1/2 with 2^0 = 1 exactly; relative error 2e-9 before rounding. Highest power first. */
const coefficients = [
  1.5353361943107582e-4, 1.339887440378327e-3, 9.618437357452108e-3, 5.550332471158571e-2, 2.402264791363198e-1,
  6.931472028550465e-1, 1,
];
/** 1.5 x 2^23: adding it rounds to an integer, found in the low bits. The bias of exponents is added with it. */
const rounder = 12582912 + 127;

/** 2^y within 1.5 ulp for -126 <= y < 127; exactly 0 from y <= -127 on, -infinity included; NaN where y is. */
export function exp2Below127(f: FunctionBuilder, features: Features, y: V128): V128 {
  const madd = maddFor(features);
  const constant = (value: number) => f.hoist(f32x4.const(value));
  const x = f.vector(f32x4.pmax(y, constant(-127)));
  const word = f.vector(f32x4.add(x, constant(rounder)));
  const r = f.vector(f32x4.sub(x, f32x4.sub(word, constant(rounder))));
  const mantissa = coefficients
    .slice(1)
    .reduce<V128>((sum, c) => madd(sum, r, constant(c)), constant(coefficients[0]!));
  return f32x4.mul(mantissa, i32x4.shl(word, 23));
}
