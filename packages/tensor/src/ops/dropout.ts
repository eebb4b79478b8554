import type { RandomKey } from '../random.ts';
import type { Tensor } from '../tensor.ts';
import { dropoutRow } from './elementwise.ts';

/**
 * Zeroes each element with probability p and scales the rest by 1 / (1 - p) (Srivastava et al. 2014; torch's dropout in
 * training). The mask is a function of (key, element index), recomputed in backward and equal on every backend.
 */
export function dropout(x: Tensor, p: number, key: RandomKey): Tensor {
  if (!(p >= 0 && p < 1))
    throw new RangeError(
      `dropout: p must be in [0, 1): got ${p}. Leave dropout out, or multiply by 0, instead of p = 1.`,
    );
  return p === 0 ? x.alias() : dropoutRow.apply([x], [p, 1 / (1 - p), key.k0, key.k1]);
}
