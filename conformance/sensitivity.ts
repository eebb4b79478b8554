import { decode, encode, isFloat } from '@lorikeet/tensor';
import { type Finding, passes } from './findings.ts';
import type { Recording, StoredTensor } from './recording.ts';

/** What is moved: the largest finite element by two percent, or every second one by five of its own. */
type Move = 'element' | 'whole';

/** At least 1e-3, an integer by one. */
const movedBy = (value: number, part: number): number =>
  value + Math.sign(value || 1) * Math.max(part * Math.abs(value), 1e-3);

function disturbed(stored: StoredTensor, move: Move): StoredTensor {
  const values = Array.from(decode(stored.bytes, stored.dtype));
  if (values.length === 0) return stored;
  const size = (v: number): number => (Number.isFinite(v) ? Math.abs(v) : -1);
  const at = values.reduce((best, v, i) => (size(v) > size(values[best]!) ? i : best), 0);
  const changed =
    move === 'whole'
      ? values.map((v, i) => (i % 2 === at % 2 ? movedBy(v, 0.05) : v))
      : values.with(at, isFloat(stored.dtype) ? movedBy(values[at]!, 0.02) : values[at]! + 1);
  return { ...stored, bytes: encode(changed, stored.dtype), disturbed: true };
}

/** A recording in which every result is a little wrong: each of its comparisons must fail. */
export function disturbedRecording(recording: Recording, move: Move): Recording {
  const results = new Set(
    recording.cases.flatMap((c) => [...Object.values(c.outputs), ...Object.values(c.gradients ?? {})]),
  );
  const tensor: Recording['tensor'] = (key) =>
    results.has(key) ? disturbed(recording.tensor(key), move) : recording.tensor(key);
  return { ...recording, tensor };
}

/** Comparisons with a disturbed result that pass all the same. Without an element there was nothing to disturb. */
const blind = (findings: readonly Finding[]): Finding[] =>
  findings.filter((f) => f.disturbed === true && f.difference.at !== null && passes(f));

/**
 * Runs a case on a disturbed recording and says which comparisons did not notice: their limits let a wrong number through. A
 * limit on a whole tensor need not see one element of many; it must see every second one.
 */
export async function disturbedFindings(
  recording: Recording,
  run: (recording: Recording) => Promise<Finding[]>,
): Promise<{ readonly findings: Finding[]; readonly unnoticed: string[] }> {
  const findings = await run(disturbedRecording(recording, 'element'));
  const unseen = blind(findings);
  if (!unseen.some((f) => f.limit === 'whole')) return { findings, unnoticed: unseen.map((f) => f.what) };
  const still = new Set(blind(await run(disturbedRecording(recording, 'whole'))).map((f) => f.what));
  const unnoticed = unseen.filter((f) => f.limit !== 'whole' || still.has(f.what));
  return { findings, unnoticed: unnoticed.map((f) => f.what) };
}
