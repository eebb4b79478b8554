import { join } from 'node:path';
import { cpu } from '@lorikeet/cpu';
import { expect, test } from 'vitest';
import { familyOf } from './families.ts';
import { SkipCase } from './findings.ts';
import { readRecordings } from './recording.ts';
import { disturbedFindings } from './sensitivity.ts';

// A limit that lets a wrong number through is worth nothing: every recorded tensor must be able to fail its comparison.
test('each recorded tensor fails its comparison when its largest element is two percent off', async () => {
  const passedAnyway: string[] = [];
  let compared = 0;
  // The backend that runs every case to its end: training on the reference stops after a few steps.
  const backend = await cpu({ threads: 1 });
  for (const recording of await readRecordings(join(import.meta.dirname, 'recordings'))) {
    const run = familyOf(recording.family).run!;
    for (const testCase of recording.cases.filter((c) => Object.keys(c.outputs).length > 0)) {
      const made = disturbedFindings(recording, (disturbed) => run({ recording: disturbed, testCase, backend }));
      const { findings, unnoticed } = await made.catch((error: unknown) => {
        if (error instanceof SkipCase) return { findings: [], unnoticed: [] };
        throw error;
      });
      compared += findings.length;
      for (const what of unnoticed) passedAnyway.push(`${recording.family} ${testCase.name}: ${what}`);
    }
  }
  await backend.close();
  expect(passedAnyway).toEqual([]);
  expect(compared).toBeGreaterThan(2500);
}, 600_000);
