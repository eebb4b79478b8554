import { decode, encode, isFloat } from '@lorikeet/tensor';
import { type Finding, passes } from './findings.ts';
import type { Recording, StoredTensor } from './recording.ts';

/** The same tensor with its largest finite element moved by two percent, at least by 1e-3 (an integer by one). */
function disturbed(stored: StoredTensor): StoredTensor {
  const values = Array.from(decode(stored.bytes, stored.dtype));
  if (values.length === 0) return stored;
  const size = (v: number): number => (Number.isFinite(v) ? Math.abs(v) : -1);
  const at = values.reduce((best, v, i) => (size(v) > size(values[best]!) ? i : best), 0);
  const value = values[at]!;
  const moved = isFloat(stored.dtype)
    ? value + Math.sign(value || 1) * Math.max(0.02 * Math.abs(value), 1e-3)
    : value + 1;
  return { ...stored, bytes: encode(values.with(at, moved), stored.dtype) };
}

/** A recording in which every result is a little wrong: each of its comparisons must fail. */
export function disturbedRecording(recording: Recording): Recording {
  const results = new Set(
    recording.cases.flatMap((c) => [...Object.values(c.outputs), ...Object.values(c.gradients ?? {})]),
  );
  const tensor: Recording['tensor'] = (key) =>
    results.has(key) ? disturbed(recording.tensor(key)) : recording.tensor(key);
  return { ...recording, tensor };
}

/** Findings on a disturbed recording that pass all the same: their limits let a wrong number through. */
export const insensitive = (findings: readonly Finding[]): Finding[] =>
  // Without an element there was nothing to disturb: names and texts are compared elsewhere, an empty tensor cannot be wrong.
  findings.filter((found) => found.difference.at !== null && passes(found));
