/** Threefry-2x32 with 20 rounds on four counters at once: the numbers of `@lorikeet/tensor`'s `threefry2x32`, bit for bit. */
import type { FunctionBuilder } from '../assembler.ts';
import { f32x4, i32x4, type V128, v128 } from '../instructions.ts';

const rotations = [13, 15, 26, 6, 17, 29, 16, 24] as const;

const rotated = (x: V128, by: number) => v128.or(i32x4.shl(x, by), i32x4.shrU(x, 32 - by));

/**
 * 24-bit uniforms in [0, 1) for the counters (counter, 0), as integer lanes, under the key (k0, k1), the same in all lanes:
 * what depends on the key alone is computed once a function.
 */
export function uniformLanes(f: FunctionBuilder, k0: V128, k1: V128, counter: V128): V128 {
  const keys = [k0, k1, f.hoist(v128.xor(v128.xor(k0, k1), f.hoist(i32x4.const(0x1bd11bda))))];
  // The first round, whose second word is the key's.
  const x0 = f.vector(i32x4.add(counter, f.hoist(i32x4.add(k0, k1))));
  const x1 = f.vector(v128.xor(f.hoist(rotated(k1, rotations[0])), x0));
  for (let round = 1; round < 20; round++) {
    f.set(x0, i32x4.add(x0, x1));
    f.set(x1, v128.xor(rotated(x1, rotations[round % 8]!), x0));
    if (round % 4 === 3) {
      const s = (round + 1) / 4;
      f.set(x0, i32x4.add(x0, keys[s % 3]!));
      f.set(x1, i32x4.add(x1, f.hoist(i32x4.add(keys[(s + 1) % 3]!, f.hoist(i32x4.const(s))))));
    }
  }
  return f32x4.mul(f32x4.fromSigned(i32x4.shrU(x0, 8)), f.hoist(f32x4.const(2 ** -24)));
}
