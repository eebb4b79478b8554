/**
 * Elementary functions on four f32 lanes: range reduction and a minimax polynomial, branch free. Unless a function says
 * otherwise the error is below 2.5 ulp over its whole range, with infinities and NaN as in IEEE 754 (math.test.ts).
 * Polynomials after S. Moshier's Cephes library (single precision); erf after N. Juffa.
 */
import type { FunctionBuilder } from '../assembler.ts';
import { f32x4, f64x2, i32x4, lanes32, type V128, v128 } from '../instructions.ts';
import { type Features, maddFor } from './lanes.ts';

export interface VectorMath {
  readonly madd: (a: V128, b: V128, c: V128) => V128;
  /** A constant in all lanes, loaded once a function. */
  readonly constant: (value: number) => V128;
  readonly bits: (value: number) => V128;
  exp(x: V128): V128;
  /** exp(x) for x <= 88, 0 where that is below 2^-126: for sums of exponentials, whose subnormal terms cost a hundred cycles each. */
  expFlushed(x: V128): V128;
  log(x: V128): V128;
  sin(x: V128): V128;
  cos(x: V128): V128;
  tanh(x: V128): V128;
  sigmoid(x: V128): V128;
  erf(x: V128): V128;
  /** Through f64, so that large |b log a| lose nothing; exact formulas for exponents -1, 0.5, 1, 2 and 3. */
  pow(a: V128, b: V128): V128;
}

export function vectorMath(f: FunctionBuilder, features: Features): VectorMath {
  const madd = maddFor(features);
  const constant = (value: number) => f.hoist(f32x4.const(value));
  const bits = (value: number) => f.hoist(i32x4.const(value | 0));
  const keep = (value: V128) => f.vector(value);
  /** c0 x^n + c1 x^(n-1) + ... */
  const polynomial = (x: V128, coefficients: readonly number[]): V128 =>
    coefficients.slice(1).reduce<V128>((sum, c) => madd(sum, x, constant(c)), constant(coefficients[0]!));
  const chooseSign = (magnitude: V128, from: V128) => v128.or(magnitude, v128.and(from, bits(0x80000000)));

  // Adding 1.5 x 2^23 rounds to an integer, found in the low bits too: V8 pairs additions, but not f32x4.nearest.
  const rounder = 12582912;

  /** x = n log 2 + r; `word` = n + `bias` in its low bits, so that `word << 23` is a power of two. |r| <= log(2) / 2. */
  const reduced = (x: V128, bias: number) => {
    const word = keep(madd(x, constant(Math.LOG2E), constant(rounder + bias)));
    const n = keep(f32x4.sub(word, constant(rounder + bias)));
    const r = keep(madd(n, constant(2.1219444e-4), madd(n, constant(-0.693359375), x)));
    return { word, n, r };
  };

  /** exp on |r| <= log(2) / 2: (exp(r) - 1 - r) / r^2 has its relative error of exp(r) spread evenly, 0.05 ulp. */
  const expTail = [1.38143206e-3, 8.36885069e-3, 4.16684002e-2, 1.66665196e-1, 4.9999994e-1];
  const expNear = (r: V128) => polynomial(r, [...expTail, 1, 1]);

  const exp = (input: V128): V128 => {
    // pmin and pmax are one instruction each, and give NaN where x is. From 89 on the result is infinite; at the lower end
    // both factors below are 0, so that -infinity, a mask's usual value, costs no slow subnormal product.
    const x = keep(f32x4.pmax(f32x4.pmin(input, constant(89)), constant(-254 * Math.LN2)));
    const { word, n, r } = reduced(x, 2 * 127);
    // Two factors, because 2^n alone leaves the range at both ends.
    const first = keep(i32x4.shl(madd(n, constant(0.5), constant(rounder + 127)), 23));
    const second = i32x4.sub(i32x4.shl(word, 23), first);
    return f32x4.mul(f32x4.mul(expNear(r), first), second);
  };

  /** exp(x) for x <= 60, cheaper: the exponent is moved up by 40 and back, which rounds once where the result is subnormal. */
  const expBelow60 = (input: V128): V128 => {
    const { word, r } = reduced(keep(f32x4.pmax(input, constant(-167 * Math.LN2))), 127 + 40);
    return f32x4.mul(f32x4.mul(expNear(r), i32x4.shl(word, 23)), constant(2 ** -40));
  };

  const expFlushed = (input: V128): V128 => {
    const { word, r } = reduced(keep(f32x4.pmax(input, constant(-127 * Math.LN2))), 127);
    return f32x4.mul(expNear(r), i32x4.shl(word, 23));
  };

  /** 2^whole exp(remainder) for |remainder| <= log(2) / 2. */
  const scaledExp = (remainder: V128, exponent: V128): V128 => {
    const whole = keep(exponent);
    const half = keep(i32x4.shrS(whole, 1));
    const power = (n: V128) => i32x4.shl(i32x4.add(n, bits(127)), 23);
    return f32x4.mul(f32x4.mul(expNear(keep(remainder)), power(half)), power(i32x4.sub(whole, half)));
  };

  /** x = m 2^exponent with m in [sqrt(1/2), sqrt(2)); `special` takes the place of log(x) where x is not in (0, infinity). */
  const logParts = (input: V128) => {
    const x = keep(input);
    const tiny = keep(f32x4.lt(x, constant(2 ** -126)));
    const scaled = keep(v128.bitSelect(tiny, f32x4.mul(x, constant(2 ** 23)), x));
    // Mantissa in [sqrt(1/2), sqrt(2)): subtracting sqrt(1/2)'s bits moves the border between exponents there.
    const shifted = keep(i32x4.sub(scaled, bits(0x3f3504f3)));
    const exponent = keep(f32x4.sub(f32x4.fromSigned(i32x4.shrS(shifted, 23)), v128.and(tiny, constant(23))));
    const m = keep(i32x4.add(v128.and(shifted, bits(0x007fffff)), bits(0x3f3504f3)));
    const zero = v128.bitSelect(f32x4.eq(x, constant(0)), constant(Number.NEGATIVE_INFINITY), constant(Number.NaN));
    // Zero and below: -infinity or NaN; +infinity and NaN: x + x.
    const special = v128.bitSelect(f32x4.le(x, constant(0)), zero, f32x4.add(x, x));
    const ordinary = v128.and(f32x4.gt(x, constant(0)), f32x4.lt(x, constant(Number.POSITIVE_INFINITY)));
    return { m, exponent, special, ordinary };
  };

  const log = (input: V128): V128 => {
    const { m, exponent, special, ordinary } = logParts(input);
    const z = keep(f32x4.sub(m, constant(1)));
    const square = keep(f32x4.mul(z, z));
    const tail = polynomial(
      z,
      [
        7.0376836292e-2, -1.151461031e-1, 1.167699874e-1, -1.2420140846e-1, 1.4249322787e-1, -1.6668057665e-1,
        2.0000714765e-1, -2.4999993993e-1, 3.3333331174e-1,
      ],
    );
    const small = madd(exponent, constant(-2.1219444e-4), f32x4.mul(f32x4.mul(z, square), tail));
    const finite = keep(madd(exponent, constant(0.693359375), f32x4.add(z, madd(square, constant(-0.5), small))));
    return v128.bitSelect(ordinary, finite, special);
  };

  const join = (a: V128, b: V128) => keep(v128.shuffle(a, b, lanes32(0, 1, 4, 5)));
  const upper = (x: V128) => v128.shuffle(x, x, lanes32(2, 3, 2, 3));

  /** exp(b log a) for a >= 0: a relative error of the product in f32 would grow with the result's exponent. */
  const expOfProduct = (b: V128, a: V128): V128 => {
    const { m, exponent, special, ordinary } = logParts(a);
    const added = keep(v128.andNot(special, ordinary));
    const wide = (value: number) => f.hoist(f64x2.const(value));
    const half = (part: (x: V128) => V128) => {
      const mantissa = keep(f64x2.promoteLow(part(m)));
      // log m = 2 artanh(s) with |s| < 0.172: the series up to s^11 is exact to 1e-11.
      const s = keep(f64x2.div(f64x2.sub(mantissa, wide(1)), f64x2.add(mantissa, wide(1))));
      const square = keep(f64x2.mul(s, s));
      const series = [9, 7, 5, 3, 1].reduce<V128>(
        (sum, n) => f64x2.add(f64x2.mul(sum, square), wide(2 / n)),
        wide(2 / 11),
      );
      const log = f64x2.add(f64x2.mul(f64x2.promoteLow(part(exponent)), wide(Math.LN2)), f64x2.mul(s, series));
      const product = f64x2.mul(f64x2.promoteLow(part(b)), f64x2.add(log, f64x2.promoteLow(part(added))));
      // Outside, the result is 0 or infinity anyway; min and max keep NaN.
      const y = keep(f64x2.max(f64x2.min(product, wide(89)), wide(-104)));
      const n = keep(f64x2.nearest(f64x2.mul(y, wide(Math.LOG2E))));
      return {
        r: keep(f32x4.demoteZero(f64x2.sub(y, f64x2.mul(n, wide(Math.LN2))))),
        n: keep(i32x4.truncSatSDouble(n)),
      };
    };
    const [low, high] = [half((x) => x), half(upper)];
    return scaledExp(join(low.r, high.r), join(low.n, high.n));
  };

  /** sin or cos: reduction by pi/2 in f64, exact enough up to |x| = 1e9. */
  const circle = (input: V128, shift: number): V128 => {
    const x = keep(input);
    const reduce = (two: V128) => {
      const wide = keep(f64x2.promoteLow(two));
      const n = keep(f64x2.nearest(f64x2.mul(wide, f.hoist(f64x2.const(2 / Math.PI)))));
      const first = f64x2.sub(wide, f64x2.mul(n, f.hoist(f64x2.const(1.5707963267341256))));
      const r = f64x2.sub(first, f64x2.mul(n, f.hoist(f64x2.const(6.077100506506192e-11))));
      return { r: keep(f32x4.demoteZero(r)), n: keep(i32x4.truncSatSDouble(n)) };
    };
    const low = reduce(x);
    const high = reduce(upper(x));
    const r = join(low.r, high.r);
    const quadrant = keep(i32x4.add(join(low.n, high.n), bits(shift)));
    const z = keep(f32x4.mul(r, r));
    const sine = madd(f32x4.mul(z, r), polynomial(z, [-1.9515295891e-4, 8.3321608736e-3, -1.6666654611e-1]), r);
    const cosineTail = polynomial(z, [2.443315711809948e-5, -1.388731625493765e-3, 4.166664568298827e-2]);
    const cosine = f32x4.add(madd(f32x4.mul(z, z), cosineTail, f32x4.mul(z, constant(-0.5))), constant(1));
    const odd = i32x4.eq(v128.and(quadrant, bits(1)), bits(1));
    return v128.xor(v128.bitSelect(odd, cosine, sine), i32x4.shl(v128.and(quadrant, bits(2)), 30));
  };

  const tanh = (input: V128): V128 => {
    const x = keep(input);
    const magnitude = keep(f32x4.abs(x));
    const z = keep(f32x4.mul(x, x));
    const tail = polynomial(
      z,
      [-5.70498872745e-3, 2.06390887954e-2, -5.37397155531e-2, 1.33314422036e-1, -3.33332819422e-1],
    );
    const near = keep(madd(f32x4.mul(z, x), tail, x));
    const { word, r } = reduced(keep(f32x4.pmin(f32x4.add(magnitude, magnitude), constant(20))), 127);
    const grown = f32x4.mul(expNear(r), i32x4.shl(word, 23));
    const far = f32x4.sub(constant(1), f32x4.div(constant(2), f32x4.add(grown, constant(1))));
    return v128.bitSelect(f32x4.lt(magnitude, constant(0.625)), near, chooseSign(far, x));
  };

  const sigmoid = (input: V128): V128 => {
    const e = keep(expBelow60(f32x4.pmin(input, constant(60))));
    return f32x4.div(e, f32x4.add(e, constant(1)));
  };

  const erf = (input: V128): V128 => {
    const x = keep(input);
    const t = keep(f32x4.abs(x));
    const s = keep(f32x4.mul(x, x));
    const first = madd(constant(-1.7285347e-5), t, constant(3.83197126e-4));
    const second = madd(constant(-3.88396438e-3), t, constant(2.42546219e-2));
    const exponent = keep(polynomialFrom(madd(first, s, second), t, [-1.06777877e-1, -6.34846687e-1, -1.28717512e-1]));
    const far = f32x4.sub(constant(1), expBelow60(madd(exponent, t, f32x4.neg(t))));
    const near = madd(
      polynomial(s, [-5.96761703e-4, 4.99119423e-3, -2.67681349e-2, 1.12819925e-1, -3.76125336e-1, 1.28379166e-1]),
      x,
      x,
    );
    return v128.bitSelect(f32x4.gt(t, constant(0.927734375)), chooseSign(far, x), near);
  };
  const polynomialFrom = (start: V128, x: V128, coefficients: readonly number[]): V128 =>
    coefficients.reduce((sum, c) => madd(sum, x, constant(c)), start);

  const pow = (base: V128, exponent: V128): V128 => {
    const [a, b] = [keep(base), keep(exponent)];
    const whole = keep(f32x4.eq(f32x4.floor(b), b));
    const oddBit = i32x4.shl(i32x4.truncSatS(b), 31);
    // Beyond 2^24 every float is an even integer.
    const odd = v128.and(v128.and(oddBit, whole), f32x4.lt(f32x4.abs(b), constant(2 ** 24)));
    const power = keep(expOfProduct(b, f32x4.abs(a)));
    const signed = v128.or(power, v128.and(odd, v128.and(a, bits(0x80000000))));
    const negative = v128.andNot(f32x4.lt(a, constant(0)), whole);
    let result = keep(v128.or(signed, v128.and(negative, bits(0x7fc00000))));
    const cases: [number, V128][] = [
      [-1, f32x4.div(constant(1), a)],
      [0, constant(1)],
      [0.5, f32x4.sqrt(a)],
      [1, a],
      [2, f32x4.mul(a, a)],
      [3, f32x4.mul(f32x4.mul(a, a), a)],
    ];
    for (const [at, value] of cases) result = keep(v128.bitSelect(f32x4.eq(b, constant(at)), value, result));
    return result;
  };

  return {
    madd,
    constant,
    bits,
    exp,
    expFlushed,
    log,
    tanh,
    sigmoid,
    erf,
    pow,
    sin: (x) => circle(x, 0),
    cos: (x) => circle(x, 1),
  };
}
