/** Numbers for tests of this package: drawn by a counter-based generator, so a seed names them. */
import { threefry2x32 } from '@lorikeet/tensor';

/** `count` f32 values in [low, high). */
export function drawFloats(count: number, seed: number, low = -2, high = 2): Float32Array {
  return Float32Array.from(
    { length: count },
    (_, i) => low + ((high - low) * threefry2x32(seed, 1, i, 0)[0]) / 2 ** 32,
  );
}

/** `count` whole numbers in -limit .. limit. */
export function drawIntegers(count: number, seed: number, limit: number): Float32Array {
  return Float32Array.from({ length: count }, (_, i) => (threefry2x32(seed, 2, i, 0)[0] % (2 * limit + 1)) - limit);
}
