/**
 * Division in f32 rounded to nearest even, as IEEE 754 has it. WGSL's own may be 2.5 ulp off (it is on an NVIDIA H100), and
 * quantization is decided by quotients. The built-in quotient is the estimate; its error is found in 32-bit integers, which
 * is exact because it is small.
 */
export const divideWgsl = `
fn exponent_of(bits: u32) -> i32 {
  let e = i32((bits >> 23u) & 0xffu);
  return select(e, 9 - i32(countLeadingZeros(bits & 0x7fffffu)), e == 0);
}
// 24 bits, the first of them set; subnormal numbers are moved up.
fn significand_of(bits: u32) -> u32 {
  let m = bits & 0x7fffffu;
  if ((bits & 0x7f800000u) != 0u) { return m | 0x800000u; }
  return m << ((countLeadingZeros(m) - 8u) & 31u);
}
// a / b from and to bits, for finite a and b but 0; a quotient below the normal numbers becomes 0.
fn divide_bits(a: u32, b: u32) -> u32 {
  let sign = (a ^ b) & 0x80000000u;
  let by = significand_of(b);
  var top = significand_of(a);
  var exponent = exponent_of(a) - exponent_of(b) + 127;
  if (top < by) { top = top << 1u; exponent -= 1; }
  // 25 bits of the quotient. top * 2^24 - quotient * by is small: its low 32 bits are all of it.
  var quotient = u32((f32(top) / f32(by)) * 16777216.0);
  var rest = bitcast<i32>((top << 24u) - quotient * by);
  let step = i32(by);
  for (var i = 0; i < 16 && rest < 0; i++) { rest += step; quotient -= 1u; }
  for (var i = 0; i < 16 && rest >= step; i++) { rest -= step; quotient += 1u; }
  let half = quotient & 1u;
  quotient = quotient >> 1u;
  if (half == 1u && (rest != 0 || (quotient & 1u) == 1u)) { quotient += 1u; }
  if (quotient == 0x1000000u) { quotient = 0x800000u; exponent += 1; }
  if (exponent >= 255) { return sign | 0x7f800000u; }
  if (exponent <= 0) { return sign; }
  return sign | (u32(exponent) << 23u) | (quotient & 0x7fffffu);
}
fn div_f32(a: f32, b: f32) -> f32 {
  let x = bitcast<u32>(a);
  let y = bitcast<u32>(b);
  let ex = i32((x >> 23u) & 0xffu);
  let ey = i32((y >> 23u) & 0xffu);
  // Zeros, subnormal numbers, infinities and NaN, as operands or as result, are left to the driver.
  if (ex == 0 || ex == 255 || ey == 0 || ey == 255 || ex - ey > 125 || ex - ey < -125) { return a / b; }
  return bitcast<f32>(divide_bits(x, y));
}
`;
