import { type Backend, decode, fromBytes, type Tensor } from '@lorikeet/tensor';
import { compare, type Difference, type Magnitude } from './compare.ts';
import type { Recording, StoredTensor } from './recording.ts';
import type { Limit } from './tolerances.ts';

/** One tensor of a case, compared. */
export interface Finding {
  /** Such as `out` or `gradient of weight`. */
  readonly what: string;
  readonly difference: Difference;
}

/** Runs a case of one family on one backend and compares everything it recorded. */
export type FamilyRunner = (context: CaseContext) => Promise<Finding[]>;

export interface CaseContext {
  readonly recording: Recording;
  readonly testCase: Recording['cases'][number];
  readonly backend: Backend;
}

/** A stored tensor's numbers; bf16 and f16 widened. */
export const numbersOf = ({ bytes, dtype }: StoredTensor): ArrayLike<number> => decode(bytes.slice(), dtype);

/** A stored tensor on a backend. */
export const upload = (stored: StoredTensor, backend: Backend, requiresGrad = false): Tensor =>
  fromBytes(stored.bytes, { backend, shape: stored.shape, dtype: stored.dtype, requiresGrad });

/** Compares numbers with a recorded tensor. */
export function finding(
  what: string,
  actual: ArrayLike<number>,
  expected: StoredTensor,
  limit: Limit,
  magnitude?: Magnitude,
): Finding {
  return { what, difference: compare(actual, numbersOf(expected), limit, magnitude) };
}

/** Compares a tensor, its shape and its dtype included, with a recorded one. */
export async function tensorFinding(
  what: string,
  actual: Tensor,
  expected: StoredTensor,
  limit: Limit,
  magnitude?: Magnitude,
): Promise<Finding> {
  const [a, e] = [`[${actual.shape}] ${actual.dtype}`, `[${expected.shape}] ${expected.dtype}`];
  if (a !== e) throw new TypeError(`${what}: shape and dtype must be ${e}: got ${a}.`);
  return finding(what, await actual.data(), expected, limit, magnitude);
}
