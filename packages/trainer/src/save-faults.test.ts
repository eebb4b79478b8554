import { type Fault, faultyFiles, memoryFiles } from '@lorikeet/files';
import { describe, expect, it } from 'vitest';
import { findCheckpoint } from './index.ts';
import { parameterBytes, type TinyRun, tinyRun } from './testing/tiny-run.ts';

const setting: TinyRun = { dropout: 0.2, maxSteps: 3, saveSteps: 1, saveTotalLimit: 1, resumeFromCheckpoint: 'auto' };

/** A run with checkpoint-1 resumes; from the report of step 2 on, file calls are counted and call `failAt` fails. */
async function saveWithFault(failAt: number, fault: Fault) {
  const inner = memoryFiles();
  const controller = new AbortController();
  await tinyRun({
    ...setting,
    files: inner,
    signal: controller.signal,
    onEvent: (e) => e.type === 'step' && controller.abort(),
  });
  let saving = false;
  const faulty = faultyFiles(inner, { failAt, fault, counts: () => saving });
  const stop = new AbortController();
  const error = await tinyRun({
    ...setting,
    files: faulty,
    signal: stop.signal,
    onEvent: (e) => {
      saving ||= e.type === 'step';
      if (e.type === 'checkpoint') stop.abort();
    },
  }).then(
    () => undefined,
    (e: Error) => e,
  );
  return { inner, error, calls: faulty.calls };
}

describe('a failing disk while a checkpoint is written', async () => {
  const whole = await parameterBytes((await tinyRun(setting)).model);
  const { calls } = await saveWithFault(0, 'EIO');

  it('makes enough calls to be worth it', () => expect(calls).toBeGreaterThan(30));

  it.each(['ENOSPC', 'EIO', 'short', 'crash'] as const)(
    '%s at any call leaves a loadable checkpoint; resuming gives the same bits',
    async (fault) => {
      let [failed, older] = [0, 0];
      for (let n = 1; n <= calls; n++) {
        const { inner, error } = await saveWithFault(n, fault);
        if (error) {
          failed++;
          expect(error.name, `call ${n}`).toMatch(/^(FileError|CrashError)$/);
        }
        const notes: string[] = [];
        const found = await findCheckpoint(inner, 'run', (m) => notes.push(m));
        expect([1, 2], `call ${n}`).toContain(found?.state.step);
        expect(notes.filter((m) => m.startsWith('passed over'))).toEqual([]); // complete or invisible
        if (found?.state.step === 1) older++;
        expect((await inner.list('run')).filter((name) => /^\.(tmp|trash)/.test(name))).toEqual([]);
        const resumed = await tinyRun({ ...setting, files: inner });
        expect(await parameterBytes(resumed.model), `call ${n}`).toEqual(whole);
      }
      expect(failed).toBeGreaterThan(calls / 2);
      expect(older).toBeGreaterThan(calls / 4);
    },
    120_000,
  );
});
