/**
 * Elementary functions in WGSL: range reduction and a minimax polynomial, about 2 ulp, with NaN and infinities as in
 * IEEE 754. The built-in ones are too free for equal results: WGSL lets an implementation assume that NaN does not occur
 * (max(NaN, 0) is 0, x != x is false), sin may be wrong by 2^-11, tanh(infinity) may be NaN. Polynomials after
 * S. Moshier's Cephes library (single precision); erf after N. Juffa. The cpu backend uses the same ones.
 */
const horner = (x: string, coefficients: readonly string[]): string =>
  coefficients.slice(1).reduce((sum, c) => `(${sum} * ${x} + ${c})`, coefficients[0]!);

export const mathWgsl = `
// Keeps the compiler from evaluating an infinity, which WGSL forbids in constants.
var<private> zero_bits: u32 = 0u;
fn special(bits: u32) -> f32 { return bitcast<f32>(bits | zero_bits); }
fn is_nan(x: f32) -> bool { return (bitcast<u32>(x) & 0x7fffffffu) > 0x7f800000u; }
fn is_infinite(x: f32) -> bool { return (bitcast<u32>(x) & 0x7fffffffu) == 0x7f800000u; }
// Not by its bits: lavapipe (Mesa 25.0.7) turns an or with 0x80000000 after exp_f32 into one with 0x40000000.
fn with_sign(magnitude: f32, x: f32) -> f32 { return select(magnitude, -magnitude, bitcast<i32>(x) < 0); }
fn max_nan(a: f32, b: f32) -> f32 { return select(select(max(a, b), b, is_nan(b)), a, is_nan(a)); }
fn min_nan(a: f32, b: f32) -> f32 { return select(select(min(a, b), b, is_nan(b)), a, is_nan(a)); }
fn ordered(a: f32, b: f32) -> bool { return !is_nan(a) && !is_nan(b); }

fn exp_f32(input: f32) -> f32 {
  if (is_nan(input)) { return input; }
  if (input > 88.722839) { return special(0x7f800000u); }
  if (input < -104.0) { return 0.0; }
  let n = round(input * 1.4426950408889634);
  let r = (input - n * 0.693359375) + n * 2.1219444e-4;
  let tail = ${horner('r', ['1.98756915e-4', '1.3981999507e-3', '8.3334519073e-3', '4.1665795894e-2', '1.6666665459e-1', '5.0000001201e-1'])};
  let value = (r * r * tail + r) + 1.0;
  // Two factors, because 2^n alone leaves the range at both ends.
  let whole = i32(n);
  let half = whole >> 1u;
  return value * bitcast<f32>((half + 127) << 23u) * bitcast<f32>((whole - half + 127) << 23u);
}

fn log_f32(x: f32) -> f32 {
  if (is_nan(x)) { return x; }
  if (x == 0.0) { return special(0xff800000u); }
  if (x < 0.0) { return special(0x7fc00000u); }
  if (is_infinite(x)) { return x; }
  let tiny = x < 1.17549435e-38;
  let scaled = select(x, x * 8388608.0, tiny);
  // Mantissa in [sqrt(1/2), sqrt(2)): subtracting sqrt(1/2)'s bits moves the border between exponents there.
  let shifted = bitcast<i32>(scaled) - 0x3f3504f3;
  let exponent = f32(shifted >> 23u) - select(0.0, 23.0, tiny);
  let z = bitcast<f32>((shifted & 0x007fffff) + 0x3f3504f3) - 1.0;
  let square = z * z;
  let tail = ${horner('z', ['7.0376836292e-2', '-1.151461031e-1', '1.167699874e-1', '-1.2420140846e-1', '1.4249322787e-1', '-1.6668057665e-1', '2.0000714765e-1', '-2.4999993993e-1', '3.3333331174e-1'])};
  let small = exponent * -2.1219444e-4 + z * square * tail;
  return exponent * 0.693359375 + (z + (square * -0.5 + small));
}

// Reduction by pi/2 in three pieces: good up to |x| = 8192; beyond, the built-in function.
fn circle(x: f32, shift: i32) -> f32 {
  let n = round(x * 0.6366197723675814);
  let r = ((x - n * 1.5703125) - n * 4.837512969970703125e-4) - n * 7.549789954891882e-8;
  let quadrant = i32(n) + shift;
  let z = r * r;
  let sine = z * r * ${horner('z', ['-1.9515295891e-4', '8.3321608736e-3', '-1.6666654611e-1'])} + r;
  let tail = ${horner('z', ['2.443315711809948e-5', '-1.388731625493765e-3', '4.166664568298827e-2'])};
  let cosine = (z * z * tail + z * -0.5) + 1.0;
  let value = select(sine, cosine, (quadrant & 1) == 1);
  return select(value, -value, (quadrant & 2) == 2);
}
fn sin_f32(x: f32) -> f32 {
  if (is_nan(x) || is_infinite(x)) { return special(0x7fc00000u); }
  if (abs(x) > 8192.0) { return sin(x); }
  return circle(x, 0);
}
fn cos_f32(x: f32) -> f32 {
  if (is_nan(x) || is_infinite(x)) { return special(0x7fc00000u); }
  if (abs(x) > 8192.0) { return cos(x); }
  return circle(x, 1);
}

fn tanh_f32(x: f32) -> f32 {
  if (is_nan(x)) { return x; }
  let magnitude = min(abs(x), 20.0);
  if (magnitude < 0.625) {
    let z = x * x;
    return z * x * ${horner('z', ['-5.70498872745e-3', '2.06390887954e-2', '-5.37397155531e-2', '1.33314422036e-1', '-3.33332819422e-1'])} + x;
  }
  return with_sign(1.0 - 2.0 / (exp_f32(magnitude + magnitude) + 1.0), x);
}

fn sigmoid_f32(x: f32) -> f32 {
  if (is_nan(x)) { return x; }
  let e = exp_f32(-abs(x));
  return select(1.0, e, x < 0.0) / (1.0 + e);
}

fn erf_f32(x: f32) -> f32 {
  if (is_nan(x)) { return x; }
  let t = min(abs(x), 4.0);
  let s = t * t;
  if (t > 0.927734375) {
    let start = (-1.7285347e-5 * t + 3.83197126e-4) * s + (-3.88396438e-3 * t + 2.42546219e-2);
    let exponent = ((start * t + -1.06777877e-1) * t + -6.34846687e-1) * t + -1.28717512e-1;
    return with_sign(1.0 - exp_f32(exponent * t - t), x);
  }
  return ${horner('s', ['-5.96761703e-4', '4.99119423e-3', '-2.67681349e-2', '1.12819925e-1', '-3.76125336e-1', '1.28379166e-1'])} * x + x;
}

// As JavaScript's **: a negative base needs a whole exponent.
fn pow_f32(a: f32, b: f32) -> f32 {
  if (b == 0.0 && !is_nan(b)) { return 1.0; }
  if (is_nan(a)) { return a; }
  if (is_nan(b)) { return b; }
  if (b == 1.0) { return a; }
  if (b == 2.0) { return a * a; }
  if (b == 3.0) { return a * a * a; }
  if (b == -1.0) { return 1.0 / a; }
  if (b == 0.5) { return sqrt(a); }
  let whole = floor(b) == b;
  if (a < 0.0 && !whole) { return special(0x7fc00000u); }
  let power = exp_f32(b * log_f32(abs(a)));
  // Beyond 2^24 every float is an even integer.
  let odd = whole && abs(b) < 16777216.0 && (i32(b) & 1) == 1;
  return select(power, with_sign(power, a), odd);
}
`;

/** Threefry-2x32 with 20 rounds: the bits of random.ts in @lorikeet/tensor. */
export const threefryWgsl = `
fn threefry(k0: u32, k1: u32, c0: u32, c1: u32) -> vec2<u32> {
  var rotations = array<u32, 8>(13u, 15u, 26u, 6u, 17u, 29u, 16u, 24u);
  var keys = array<u32, 3>(k0, k1, 0x1bd11bdau ^ k0 ^ k1);
  var x = vec2<u32>(c0 + k0, c1 + k1);
  for (var round = 0u; round < 20u; round++) {
    let r = rotations[round % 8u];
    x.x = x.x + x.y;
    x.y = ((x.y << r) | (x.y >> (32u - r))) ^ x.x;
    if (round % 4u == 3u) {
      let s = (round + 1u) / 4u;
      x.x = x.x + keys[s % 3u];
      x.y = x.y + keys[(s + 1u) % 3u] + s;
    }
  }
  return x;
}
fn uniform24(k0: u32, k1: u32, index: u32) -> f32 { return f32(threefry(k0, k1, index, 0u).x >> 8u) / 16777216.0; }
`;
