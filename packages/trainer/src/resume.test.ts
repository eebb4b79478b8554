import { type FileSystem, LockError, memoryFiles } from '@lorikeet/files';
import { openSafetensors } from '@lorikeet/safetensors';
import { referenceBackend } from '@lorikeet/tensor';
import { describe, expect, it } from 'vitest';
import type { TrainEvent } from './events.ts';
import { listCheckpoints } from './index.ts';
import {
  logWithoutTimes,
  numbersOf,
  parameterBytes,
  TinyModel,
  type TinyRun,
  tinyLoss,
  tinyRun,
} from './testing/tiny-run.ts';

/** Dropout, accumulation, an epoch border every three steps with a short window, evaluation, warm-up. */
const setting: TinyRun = {
  dropout: 0.2,
  rows: 11,
  batchSize: 2,
  gradientAccumulationSteps: 2,
  weightDecay: 0.1,
  maxGradNorm: 0.5,
  lrSchedulerType: 'cosine',
  warmupSteps: 2,
  loggingSteps: 1,
  saveStrategy: 'no',
  evalStrategy: 'steps',
  evalSteps: 5,
  evaluate: async () => ({ evalLoss: 1.5 }),
};

/** A signal that is aborted when `step` is reported. */
function stopAfter(step: number): Pick<TinyRun, 'signal' | 'onEvent'> {
  const controller = new AbortController();
  const onEvent = (e: TrainEvent) => void (e.type === 'step' && e.step === step && controller.abort());
  return { signal: controller.signal, onEvent };
}
const text = async (files: FileSystem, path: string) => new TextDecoder().decode(await files.read(path));
async function edit(files: FileSystem, path: string, change: (bytes: Uint8Array) => Uint8Array): Promise<void> {
  const bytes = await files.read(path);
  await files.remove(path);
  await files.append(path, change(bytes));
}
async function copyTree(from: FileSystem, to: FileSystem, dir: string): Promise<void> {
  await to.makeDirectory(dir);
  for (const name of await from.list(dir)) {
    const path = `${dir}/${name}`;
    if ((await from.kind(path)) === 'directory') await copyTree(from, to, path);
    else await to.append(path, await from.read(path));
  }
}

describe('resume', () => {
  it('an interrupt at every step of a 12-step run gives the same bits', async () => {
    const whole = await tinyRun(setting);
    const [parameters, log] = [await parameterBytes(whole.model), await logWithoutTimes(whole.files)];
    expect(new Set(whole.steps.map((s) => s.loss)).size).toBe(12);
    for (let step = 1; step < 12; step++) {
      const first = await tinyRun({ ...setting, ...stopAfter(step) });
      expect(first.events.at(-1)).toMatchObject({
        reason: 'interrupted',
        step,
        lastCheckpoint: `run/checkpoint-${step}`,
      });
      const second = await tinyRun({ ...setting, files: first.files, resumeFromCheckpoint: 'auto' });
      expect(second.events[0]).toMatchObject({ firstStep: step + 1, resumedFrom: `run/checkpoint-${step}` });
      expect(second.notes).toEqual([]);
      expect([...numbersOf(first.steps), ...numbersOf(second.steps)]).toEqual(numbersOf(whole.steps));
      expect(await parameterBytes(second.model)).toEqual(parameters);
      expect(await logWithoutTimes(second.files)).toBe(log);
      const [a, b] = [whole.events.at(-1)!, second.events.at(-1)!];
      expect(a.type === 'end' && b.type === 'end' && b.trainLoss).toBe(a.type === 'end' && a.trainLoss);
    }
  });

  it.each(['adamw_8bit', 'paged_adamw_8bit', 'lion_8bit', 'adafactor', 'sgd'] as const)(
    'the state of %s comes back bit for bit',
    async (optim) => {
      // A projection of 66 x 66 is just large enough for 8-bit state.
      const run = (options: TinyRun) =>
        tinyRun({
          ...setting,
          dropout: 0,
          maxSteps: 4,
          optim,
          model: new TinyModel(referenceBackend(), { width: 66 }),
          ...options,
        });
      const whole = await run({});
      const first = await run(stopAfter(2));
      const saved = await openSafetensors(first.files, 'run/checkpoint-2/optimizer.safetensors');
      const kinds = new Map([...saved.entries].map(([name]) => [name, saved.entry(name).dtype]));
      if (optim.endsWith('8bit')) {
        expect(kinds.get('proj.weight.state1')).toBe('u8');
        expect(kinds.get('proj.weight.absmax1')).toBe('f32');
        expect(kinds.get('embed_tokens.weight.state1')).toBe('f32');
      } else expect([...kinds.values()]).not.toContain('u8');
      const second = await run({ files: first.files, resumeFromCheckpoint: 'auto' });
      expect([...numbersOf(first.steps), ...numbersOf(second.steps)]).toEqual(numbersOf(whole.steps));
      expect(await parameterBytes(second.model)).toEqual(await parameterBytes(whole.model));
    },
  );

  it('refuses to go on with another optimizer', async () => {
    const first = await tinyRun({ ...setting, ...stopAfter(2) });
    await expect(
      tinyRun({ ...setting, optim: 'lion_32bit', files: first.files, resumeFromCheckpoint: 'auto' }),
    ).rejects.toThrow('optim: was "adamw_torch", is "lion_32bit"');
  });

  it('dying after every step and starting again each time gives the same bits', async () => {
    const saving = { ...setting, saveStrategy: 'steps', saveSteps: 1, resumeFromCheckpoint: 'auto' } as const;
    const whole = await tinyRun(saving);
    const files = memoryFiles();
    const seen = [];
    for (let step = 1; step <= 12; step++) {
      const kept: TrainEvent[] = [];
      const onEvent = (e: TrainEvent): void => {
        kept.push(e);
        if (e.type === 'checkpoint' && e.step === step && step < 12) throw new Error('died');
      };
      await tinyRun({ ...saving, files, onEvent }).catch(() => undefined);
      seen.push(...numbersOf(kept.filter((e) => e.type === 'step')));
      await files.remove('run/.lock');
    }
    expect(seen).toEqual(numbersOf(whole.steps));
    expect(await logWithoutTimes(files)).toBe(await logWithoutTimes(whole.files));
    for (const name of ['model.safetensors', 'optimizer.safetensors'])
      expect(await files.read(`run/checkpoint-12/${name}`)).toEqual(
        await whole.files.read(`run/checkpoint-12/${name}`),
      );
  });

  it('an interrupt inside an accumulation window drops the window and saves the step before', async () => {
    const whole = await tinyRun(setting);
    const controller = new AbortController();
    const model = new TinyModel(referenceBackend(), { dropout: 0.2 });
    let calls = 0;
    const loss: TinyRun['loss'] = (batch, o) => {
      if (++calls === 7) controller.abort(); // the first of two micro-batches of step 5
      return tinyLoss(model)(batch, o);
    };
    const first = await tinyRun({ ...setting, model, loss, signal: controller.signal });
    const stopped = first.steps.at(-1)!.step;
    expect(first.events.at(-1)).toMatchObject({
      reason: 'interrupted',
      step: stopped,
      lastCheckpoint: `run/checkpoint-${stopped}`,
    });
    expect(calls).toBe(7);
    const second = await tinyRun({ ...setting, files: first.files, resumeFromCheckpoint: 'auto' });
    expect([...numbersOf(first.steps), ...numbersOf(second.steps)]).toEqual(numbersOf(whole.steps));
    expect(await parameterBytes(second.model)).toEqual(await parameterBytes(whole.model));
  });

  it('a signal aborted before the start trains nothing and writes no checkpoint', async () => {
    const { events, files } = await tinyRun({ ...setting, signal: AbortSignal.abort() });
    expect(events.at(-1)).toMatchObject({ reason: 'interrupted', step: 0, lastCheckpoint: null });
    expect(await listCheckpoints(files, 'run')).toEqual([]);
  });

  it('resuming a finished run trains nothing more and leaves its files alone', async () => {
    const done = await tinyRun({ ...setting, saveStrategy: 'epoch' });
    const log = await done.files.read('run/log.jsonl');
    const again = await tinyRun({ ...setting, saveStrategy: 'epoch', files: done.files, resumeFromCheckpoint: 'auto' });
    expect(again.steps).toEqual([]);
    expect(again.events.at(-1)).toMatchObject({ reason: 'finished', step: 12, lastCheckpoint: 'run/checkpoint-12' });
    expect(await done.files.read('run/log.jsonl')).toEqual(log);
    expect(await parameterBytes(again.model)).toEqual(await parameterBytes(done.model));
  });

  it('a named checkpoint may be older than the newest, or stand in another folder', async () => {
    const saving = { ...setting, saveStrategy: 'steps', saveSteps: 2, saveTotalLimit: null } as const;
    const whole = await tinyRun(saving);
    const older = await tinyRun({
      ...saving,
      files: whole.files,
      resumeFromCheckpoint: 'run/checkpoint-4',
      saveTotalLimit: 1,
    });
    expect(older.steps[0]!.step).toBe(5);
    expect(await parameterBytes(older.model)).toEqual(await parameterBytes(whole.model));
    const elsewhere = await tinyRun({
      ...saving,
      files: whole.files,
      outputDir: 'other',
      resumeFromCheckpoint: 'run/checkpoint-12',
    });
    expect(elsewhere.events.at(-1)).toMatchObject({ lastCheckpoint: 'other/checkpoint-12' });
  });

  it('starts at step 1 with a note when there is nothing to resume', async () => {
    const { notes, steps } = await tinyRun({ ...setting, resumeFromCheckpoint: 'auto' });
    expect(notes).toEqual(['no checkpoint in run to resume: starting at step 1']);
    expect(steps).toHaveLength(12);
  });

  it('another backend may go on, with a note', async () => {
    const first = await tinyRun({ ...setting, ...stopAfter(3) });
    await edit(first.files, 'run/checkpoint-3/state.json', (b) =>
      new TextEncoder().encode(new TextDecoder().decode(b).replace('"reference"', '"elsewhere"')),
    );
    await resign(first.files, 'run/checkpoint-3');
    const { notes, steps } = await tinyRun({ ...setting, files: first.files, resumeFromCheckpoint: 'auto' });
    expect(notes).toEqual([expect.stringMatching(/not bit-exact: the backend was .*elsewhere.* and is .*reference/)]);
    expect(steps).toHaveLength(9);
  });
});

/** Rewrites a checkpoint's manifest after an edit, by writing the folder anew through the files package. */
async function resign(files: FileSystem, path: string): Promise<void> {
  const { writeDirectoryAtomic } = await import('@lorikeet/files');
  const kept = new Map<string, Uint8Array>();
  for (const name of await files.list(path))
    if (name !== 'MANIFEST.json') kept.set(name, await files.read(`${path}/${name}`));
  await writeDirectoryAtomic(files, path, async (dir) => {
    for (const [name, bytes] of kept) await files.append(`${dir}/${name}`, bytes);
  });
}

describe('checkpoints that cannot be used', () => {
  const saved = async () =>
    (await tinyRun({ ...setting, saveStrategy: 'steps', saveSteps: 2, saveTotalLimit: 3 })).files;
  const resume = (files: FileSystem, more: TinyRun = {}) =>
    tinyRun({
      ...setting,
      saveStrategy: 'steps',
      saveSteps: 2,
      saveTotalLimit: 3,
      files,
      resumeFromCheckpoint: 'auto',
      ...more,
    });

  it.each(['optimizer.safetensors', 'model.safetensors', 'state.json'])(
    'a flipped bit in %s is passed over with one note',
    async (name) => {
      const files = await saved();
      await edit(files, `run/checkpoint-12/${name}`, (b) => b.map((v, i) => (i === b.length >> 1 ? v ^ 1 : v)));
      const { notes, steps } = await resume(files);
      expect(notes).toEqual([expect.stringMatching(new RegExp(`^passed over run/checkpoint-12: .*${name}`))]);
      expect(steps.map((s) => s.step)).toEqual([11, 12]);
    },
  );
  it('a missing manifest, a manifest of another checkpoint, a truncated file: one note each', async () => {
    const files = await saved();
    expect(await listCheckpoints(files, 'run')).toEqual([12, 10, 8]);
    await files.remove('run/checkpoint-12/MANIFEST.json');
    await edit(files, 'run/checkpoint-10/optimizer.safetensors', (b) => b.subarray(0, b.length - 3));
    const { notes, events } = await resume(files);
    expect(notes).toHaveLength(2);
    expect(notes[0]).toMatch(/passed over run\/checkpoint-12: /);
    expect(notes[1]).toMatch(/passed over run\/checkpoint-10: .*optimizer/);
    expect(events.find((e) => e.type === 'start')).toMatchObject({ resumedFrom: 'run/checkpoint-8' });
    expect(await listCheckpoints(files, 'run')).toEqual([12, 10, 8]);
  });
  it('a broken newer checkpoint never pushes a good one out', async () => {
    const files = await saved();
    for (const step of [12, 10]) await files.remove(`run/checkpoint-${step}/MANIFEST.json`);
    await resume(files, { saveTotalLimit: 1, saveSteps: 1, ...stopAfter(9) });
    const { events } = await resume(files, { saveTotalLimit: 1, saveSteps: 1 });
    expect(events.find((e) => e.type === 'start')).toMatchObject({ resumedFrom: 'run/checkpoint-9' });
  });
  it('a named checkpoint that is broken is refused', async () => {
    const files = await saved();
    await files.remove('run/checkpoint-12/MANIFEST.json');
    await expect(resume(files, { resumeFromCheckpoint: 'run/checkpoint-12' })).rejects.toThrow(/checkpoint-12/);
    await expect(resume(files, { resumeFromCheckpoint: 'run/checkpoint-77' })).rejects.toThrow(/checkpoint-77/);
  });
  it('one of a newer version is refused, saying so', async () => {
    const files = await saved();
    await edit(files, 'run/checkpoint-12/state.json', (b) =>
      new TextEncoder().encode(new TextDecoder().decode(b).replace('"version": 1', '"version": 9')),
    );
    await resign(files, 'run/checkpoint-12');
    await expect(resume(files)).rejects.toThrow(/newer version \(layout 9, this one reads 1\)\. Update/);
  });
  it('other settings or data are refused with every difference; what does not touch the bits may change', async () => {
    const identity = { rank: 8, dataSha256: 'ab' };
    const { files } = await tinyRun({ ...setting, identity, ...stopAfter(6) });
    const before = await files.read('run/log.jsonl');
    const other = tinyRun({
      ...setting,
      files,
      resumeFromCheckpoint: 'auto',
      identity: { ...identity, rank: 16 },
      learningRate: 0.01,
      seed: 1,
    });
    await expect(other).rejects.toThrow(
      /learningRate: was 0\.05, is 0\.01\n {2}seed: was 42, is 1\n {2}rank: was 8, is 16/,
    );
    expect(await files.read('run/log.jsonl')).toEqual(before);
    const longer = tinyRun({ ...setting, files, identity, resumeFromCheckpoint: 'auto', maxSteps: 20 });
    await expect(longer).rejects.toThrow(/totalSteps: was 12, is 20/);
    const free = { loggingSteps: 3, saveStrategy: 'steps', saveSteps: 4, evalStrategy: 'no' } as const;
    expect((await tinyRun({ ...setting, ...free, files, identity, resumeFromCheckpoint: 'auto' })).steps).toHaveLength(
      6,
    );
  });
  it('other data is refused by the sampler too', async () => {
    const { files } = await tinyRun({ ...setting, ...stopAfter(6) });
    await expect(tinyRun({ ...setting, files, rows: 12, resumeFromCheckpoint: 'auto' })).rejects.toThrow(
      /itemCount was 11 and is 12/,
    );
  });
});

describe('the output directory', () => {
  it('keeps K checkpoints', async () => {
    const { files, events } = await tinyRun({ saveSteps: 1, saveTotalLimit: 3 });
    expect(await listCheckpoints(files, 'run')).toEqual([12, 11, 10]);
    expect(events.filter((e) => e.type === 'checkpoint')).toHaveLength(12);
    expect((await files.list('run')).filter((n) => n.startsWith('.'))).toEqual([]); // no draft, no lock left
    const all = await tinyRun({ saveSteps: 3, saveTotalLimit: null });
    expect(await listCheckpoints(all.files, 'run')).toEqual([12, 9, 6, 3]);
  });
  it('a fresh start among old checkpoints is refused, or removes them when asked', async () => {
    const { files } = await tinyRun({ saveSteps: 6 });
    const kept = memoryFiles();
    await copyTree(files, kept, 'run');
    await expect(tinyRun({ files })).rejects.toThrow(/run holds checkpoint-12.*overwriteOutputDir/);
    expect(await listCheckpoints(files, 'run')).toEqual([12, 6]);
    const { steps } = await tinyRun({ files: kept, overwriteOutputDir: true, maxSteps: 4 });
    expect(steps[0]!.step).toBe(1);
    expect(await listCheckpoints(kept, 'run')).toEqual([4]);
    expect((await text(kept, 'run/log.jsonl')).trim().split('\n')).toHaveLength(2);
  });
  it('log.jsonl is cut back to the checkpoint: later lines, half a line, garbage', async () => {
    const whole = await logWithoutTimes((await tinyRun(setting)).files);
    for (const tail of ['{"step":7,"loss":1}\n', '{"step":7,"lo', '\0\0\0\xff']) {
      const { files } = await tinyRun({ ...setting, ...stopAfter(6) });
      await files.append('run/log.jsonl', new TextEncoder().encode(tail));
      await tinyRun({ ...setting, files, resumeFromCheckpoint: 'auto' });
      expect(await logWithoutTimes(files)).toBe(whole);
    }
  });
  it('is locked while a run uses it, and free afterwards', async () => {
    const files = memoryFiles();
    let second: unknown;
    await tinyRun({
      files,
      maxSteps: 2,
      onEvent: (e) => {
        if (e.type === 'start') second = tinyRun({ files }).catch((error: unknown) => error);
      },
    });
    const error = await second;
    expect(error).toBeInstanceOf(LockError);
    expect((error as LockError).pid).toBe(process.pid);
    expect((await tinyRun({ files, resumeFromCheckpoint: 'auto', maxSteps: 2 })).steps).toEqual([]);
  });
  it('takes over the lock of a dead process with a note', async () => {
    const files = memoryFiles();
    await files.makeDirectory('run');
    const { hostname } = await import('node:os');
    const lock = { pid: 2 ** 22 + 1, host: hostname(), token: 'x' };
    await files.append('run/.lock', new TextEncoder().encode(JSON.stringify(lock)));
    const { notes } = await tinyRun({ files, maxSteps: 1 });
    expect(notes).toEqual([expect.stringMatching(/took over the lock of run/)]);
  });
});
