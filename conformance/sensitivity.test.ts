import { join } from 'node:path';
import { referenceBackend } from '@lorikeet/tensor';
import { expect, test } from 'vitest';
import { familyOf } from './families.ts';
import { SkipCase } from './findings.ts';
import { readRecordings } from './recording.ts';
import { disturbedRecording, insensitive } from './sensitivity.ts';

// A limit that lets a wrong number through is worth nothing: every recorded tensor must be able to fail its comparison.
test('each recorded tensor fails its comparison when its largest element is two percent off', async () => {
  const passedAnyway: string[] = [];
  let compared = 0;
  for (const recording of (await readRecordings(join(import.meta.dirname, 'recordings'))).map(disturbedRecording))
    for (const testCase of recording.cases) {
      const run = familyOf(recording.family).run!({ recording, testCase, backend: referenceBackend() });
      const findings = await run.catch((error: unknown) => {
        if (error instanceof SkipCase) return [];
        throw error;
      });
      compared += findings.length;
      for (const { what } of insensitive(findings)) passedAnyway.push(`${recording.family} ${testCase.name}: ${what}`);
    }
  expect(passedAnyway).toEqual([]);
  expect(compared).toBeGreaterThan(2500);
}, 240_000);
