import { type Backend, decode, fromBytes, type Tensor } from '@lorikeet/tensor';
import { compare, type Difference, type Magnitude } from './compare.ts';
import type { Recording, StoredTensor } from './recording.ts';
import type { Limit } from './tolerances.ts';

/** One tensor of a case, compared. */
export interface Finding {
  /** Such as `out` or `gradient of weight`. */
  readonly what: string;
  readonly difference: Difference;
  /** The largest error of PyTorch's own f32 against f64 in this tensor, where it was recorded. */
  readonly torchError?: number;
  /** What a comparison of no tensor saw. */
  readonly note?: string;
  readonly limit?: Limit['kind'];
  /** The recorded tensor was changed on purpose (sensitivity.ts). */
  readonly disturbed?: true;
}

/** Within its limit, or nearer to f64 than PyTorch's own f32 is: being nearer the truth is not a failure. */
export const passes = ({ difference, torchError }: Finding): boolean =>
  difference.passed || (torchError !== undefined && difference.worstAbsolute <= torchError);

/** Runs a case of one family on one backend and compares everything it recorded. */
export type FamilyRunner = (context: CaseContext) => Promise<Finding[]>;

export interface CaseContext {
  readonly recording: Recording;
  readonly testCase: Recording['cases'][number];
  readonly backend: Backend;
}

/** Thrown by a runner that cannot run a case here; the reason stands in the table. */
export class SkipCase extends Error {
  override readonly name = 'SkipCase';
}

/** Compares what is no tensor: names, texts, whole JSON values. They are equal or they are not. */
export function equalFinding(what: string, actual: unknown, expected: unknown): Finding {
  const [ours, recorded] = [actual, expected].map((value) => JSON.stringify(sorted(value)) ?? 'undefined') as [
    string,
    string,
  ];
  return verdict(what, ours === recorded, `got ${excerpt(ours, recorded)}, recorded ${excerpt(recorded, ours)}`);
}

/** A finding that only holds or does not. `otherwise` says what was seen when it does not. */
export function verdict(what: string, passed: boolean, otherwise: string): Finding {
  const error = passed ? 0 : Number.POSITIVE_INFINITY;
  const difference = { passed, worstAbsolute: error, worstRelative: error, ofLimit: error, at: null };
  return { what, difference, ...(passed ? {} : { note: otherwise }) };
}

/** Keys in alphabetical order at every depth: the order of an object's keys carries nothing. */
function sorted(value: unknown): unknown {
  if (Array.isArray(value)) return value.map(sorted);
  if (value === null || typeof value !== 'object') return value;
  const entries = Object.entries(value).sort(([a], [b]) => (a < b ? -1 : 1));
  return Object.fromEntries(entries.map(([k, v]) => [k, sorted(v)]));
}

/** The part of a long text where it leaves another. */
function excerpt(text: string, other: string): string {
  let same = 0;
  while (same < text.length && text[same] === other[same]) same++;
  const start = Math.max(0, same - 20);
  return `${start > 0 ? '...' : ''}${text.slice(start, start + 100)}${text.length > start + 100 ? '...' : ''}`;
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
  const difference = compare(actual, numbersOf(expected), limit, magnitude);
  return { what, difference, limit: limit.kind, ...(expected.disturbed ? { disturbed: true } : {}) };
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
