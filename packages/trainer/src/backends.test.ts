import { cpu } from '@lorikeet/cpu';
import { memoryFiles } from '@lorikeet/files';
import { DeviceLostError, memory, referenceBackend } from '@lorikeet/tensor';
import { hostileBackend } from '@lorikeet/tensor/testing';
import { describe, expect, it } from 'vitest';
import { listCheckpoints } from './index.ts';
import { numbersOf, parameterBytes, TinyModel, type TinyRun, tinyRun } from './testing/tiny-run.ts';

const setting: TinyRun = { gradientAccumulationSteps: 2, lrSchedulerType: 'cosine', warmupSteps: 2, saveSteps: 4 };
const options = { dropout: 0.2 };

describe('training on the hostile backend', () => {
  it('equals the reference and leaves no buffer behind', async () => {
    const hostile = hostileBackend();
    const model = new TinyModel(hostile, options);
    const got = await tinyRun({ ...setting, model });
    const want = await tinyRun({ ...setting, model: new TinyModel(referenceBackend(), options) });
    for (const [i, step] of got.steps.entries()) {
      expect(step.loss).toBeCloseTo(want.steps[i]!.loss, 4);
      expect(step.gradNorm).toBeCloseTo(want.steps[i]!.gradNorm, 3);
    }
    await hostile.sync();
    expect(hostile.liveBuffers).toBe(model.namedParameters().length);
    expect(memory(hostile).liveTensors).toBe(model.namedParameters().length);
  });
  it('gives the same bits when it is interrupted and resumed', async () => {
    const whole = await tinyRun({ ...setting, model: new TinyModel(hostileBackend(), options) });
    const controller = new AbortController();
    const first = await tinyRun({
      ...setting,
      model: new TinyModel(hostileBackend(), options),
      signal: controller.signal,
      onEvent: (e) => e.type === 'step' && e.step === 5 && controller.abort(),
    });
    const model = new TinyModel(hostileBackend(), options);
    const second = await tinyRun({ ...setting, model, files: first.files, resumeFromCheckpoint: 'auto' });
    expect([...numbersOf(first.steps), ...numbersOf(second.steps)]).toEqual(numbersOf(whole.steps));
    expect(await parameterBytes(model)).toEqual(await parameterBytes(whole.model));
  });
  it('a device lost in the middle is a DeviceLostError, and the last checkpoint stands', async () => {
    const hostile = hostileBackend();
    const files = memoryFiles();
    const run = tinyRun({
      ...setting,
      model: new TinyModel(hostile, options),
      files,
      onEvent: (e) => e.type === 'step' && e.step === 6 && hostile.loseDevice(),
    });
    await expect(run).rejects.toThrow(DeviceLostError);
    expect(await listCheckpoints(files, 'run')).toEqual([4]);
    const resumed = await tinyRun({ ...setting, dropout: 0.2, files, resumeFromCheckpoint: 'auto' });
    expect(resumed.steps[0]!.step).toBe(5);
    expect(resumed.notes).toEqual([
      expect.stringMatching(/not bit-exact: the backend was .*hostile.* and is .*reference/),
    ]);
  });
});

describe('training on the cpu backend', () => {
  it('gives the same bits on 1, 2 and 4 threads, also resumed on another number of them', async () => {
    const runs: { steps: unknown; bytes: unknown }[] = [];
    for (const threads of [1, 2, 4]) {
      const backend = await cpu({ threads });
      const model = new TinyModel(backend, options);
      const { steps } = await tinyRun({ ...setting, model });
      runs.push({ steps: numbersOf(steps), bytes: await parameterBytes(model) });
      await backend.close();
    }
    expect(runs[1]).toEqual(runs[0]);
    expect(runs[2]).toEqual(runs[0]);
    const [one, two] = [await cpu({ threads: 1 }), await cpu({ threads: 2 })];
    const controller = new AbortController();
    const first = await tinyRun({
      ...setting,
      model: new TinyModel(one, options),
      signal: controller.signal,
      onEvent: (e) => e.type === 'step' && e.step === 7 && controller.abort(),
    });
    const model = new TinyModel(two, options);
    const second = await tinyRun({ ...setting, model, files: first.files, resumeFromCheckpoint: 'auto' });
    expect(second.notes).toEqual([]);
    expect([...numbersOf(first.steps), ...numbersOf(second.steps)]).toEqual(runs[0]!.steps);
    expect(await parameterBytes(model)).toEqual(runs[0]!.bytes);
    await Promise.all([one.close(), two.close()]);
  });
});
