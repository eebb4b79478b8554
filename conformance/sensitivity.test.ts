import { join } from 'node:path';
import { decode, encode, isFloat, referenceBackend } from '@lorikeet/tensor';
import { expect, test } from 'vitest';
import { familyOf } from './families.ts';
import { passes } from './findings.ts';
import { type Recording, readRecordings, type StoredTensor } from './recording.ts';

/** The same tensor with its largest finite element moved by two percent (an integer by one). */
function disturbed(stored: StoredTensor): StoredTensor {
  const values = Array.from(decode(stored.bytes, stored.dtype));
  const size = (v: number): number => (Number.isFinite(v) ? Math.abs(v) : -1);
  const at = values.reduce((best, v, i) => (size(v) > size(values[best]!) ? i : best), 0);
  const moved = isFloat(stored.dtype) ? values[at]! * 1.02 || 1e-3 : values[at]! + 1;
  return { ...stored, bytes: encode(values.with(at, moved), stored.dtype) };
}

function disturbedRecording(recording: Recording): Recording {
  const results = new Set(
    recording.cases.flatMap((c) => [...Object.values(c.outputs), ...Object.values(c.gradients ?? {})]),
  );
  const tensor: Recording['tensor'] = (key) =>
    results.has(key) ? disturbed(recording.tensor(key)) : recording.tensor(key);
  return { ...recording, tensor };
}

// A limit that lets a wrong number through is worth nothing: every recorded tensor must be able to fail its comparison.
test('each recorded tensor fails its comparison when its largest element is two percent off', async () => {
  const passedAnyway: string[] = [];
  let compared = 0;
  for (const recording of (await readRecordings(join(import.meta.dirname, 'recordings'))).map(disturbedRecording))
    for (const testCase of recording.cases) {
      const findings = await familyOf(recording.family).run!({ recording, testCase, backend: referenceBackend() });
      compared += findings.length;
      for (const found of findings.filter((f) => f.difference.at !== null))
        if (passes(found)) passedAnyway.push(`${recording.family} ${testCase.name}: ${found.what}`);
    }
  expect(passedAnyway).toEqual([]);
  expect(compared).toBeGreaterThan(1000);
});
