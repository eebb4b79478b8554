import { memoryFiles } from '@lorikeet/files';
import { Module, schedules } from '@lorikeet/nn';
import { memory, NonFiniteError, referenceBackend } from '@lorikeet/tensor';
import { describe, expect, it } from 'vitest';
import { createBatches, ignoredLabel } from './data/index.ts';
import type { EvaluateEvent } from './events.ts';
import { listCheckpoints } from './index.ts';
import { parameterBytes, TinyModel, tinyExamples, tinyLoss, tinyRun } from './testing/tiny-run.ts';
import { train } from './train.ts';

const f64Model = (): TinyModel => new TinyModel(referenceBackend(), { dtype: 'f64' });

describe('train', () => {
  it('lowers the loss and says how far it is', async () => {
    const { steps, events } = await tinyRun({ maxSteps: 40, saveStrategy: 'no' });
    expect(steps.at(-1)!.loss).toBeLessThan(steps[0]!.loss / 3);
    expect(events[0]).toMatchObject({
      type: 'start',
      totalSteps: 40,
      stepsPerEpoch: 5,
      firstStep: 1,
      resumedFrom: null,
    });
    expect(events.at(-1)).toMatchObject({ type: 'end', reason: 'finished', step: 40, lastCheckpoint: null });
    expect(steps.map((s) => s.epoch).slice(0, 6)).toEqual([0.2, 0.4, 0.6, 0.8, 1, 1.2]);
  });

  it.each([
    [1, 4],
    [2, 2],
    [2, 3],
  ])('batch %i x accumulation %i trains as one batch of as many rows', async (k, n) => {
    const shared = {
      order: 'sequential',
      rows: 12,
      maxSteps: 6,
      saveStrategy: 'no',
      lrSchedulerType: 'constant',
    } as const;
    const parts = await tinyRun({ ...shared, model: f64Model(), batchSize: k, gradientAccumulationSteps: n });
    const whole = await tinyRun({ ...shared, model: f64Model(), batchSize: k * n });
    expect(
      new Set(tinyExamples(12).map((e) => e.labels.filter((l) => l !== ignoredLabel).length)).size,
    ).toBeGreaterThan(3);
    for (const [i, step] of parts.steps.entries()) {
      expect(Math.abs(step.loss - whole.steps[i]!.loss)).toBeLessThan(1e-6);
      expect(Math.abs(step.gradNorm - whole.steps[i]!.gradNorm)).toBeLessThan(1e-6);
      expect(step.trainedTokens).toBe(whole.steps[i]!.trainedTokens);
    }
    const [a, b] = [parts.model.stateDict(), whole.model.stateDict()];
    for (const [path, tensor] of a) {
      const [x, y] = [await tensor.data(), await b.get(path)!.data()];
      expect(Math.max(...Array.from(x, (v, i) => Math.abs(v - y[i]!)))).toBeLessThan(1e-6);
    }
  });

  it('the last window of an epoch is short, and never crosses into the next', async () => {
    const drawn: number[][] = [];
    await tinyRun({
      rows: 5,
      batchSize: 1,
      gradientAccumulationSteps: 2,
      maxSteps: 6,
      saveStrategy: 'no',
      loss: undefined,
      onEvent: (e) => e.type === 'step' && drawn.push([e.epoch, e.tokens]),
    });
    const perEpoch = tinyExamples(5).reduce((sum, { ids }) => sum + ids.length, 0);
    expect(drawn.map(([epoch]) => epoch)).toEqual([1, 2, 3, 4, 5, 6].map((s) => s / 3));
    expect(drawn.slice(0, 3).reduce((sum, [, t]) => sum + t!, 0)).toBe(perEpoch);
    expect(drawn.slice(3).reduce((sum, [, t]) => sum + t!, 0)).toBe(perEpoch);
  });

  it('follows the schedule', async () => {
    const { steps } = await tinyRun({
      lrSchedulerType: 'cosine',
      warmupSteps: 0.25,
      learningRate: 0.01,
      saveStrategy: 'no',
    });
    expect(steps.map((s) => s.learningRate)).toEqual(steps.map((_, i) => 0.01 * schedules.cosine(i, 12, 3)));
    expect(steps[0]!.learningRate).toBe(0);
    expect(steps[3]!.learningRate).toBe(0.01);
  });

  it('clips to the global norm: a gradient c times as large gives the same step', async () => {
    const lossOf = (model: TinyModel, c: number) => {
      const plain = tinyLoss(model);
      return (batch: Parameters<typeof plain>[0], o: { normalizer: number }) => plain(batch, o).mul(c);
    };
    // eps far above the moments makes AdamW proportional to the gradient, so that clipping shows.
    const shared = {
      maxSteps: 1,
      lrSchedulerType: 'constant',
      adamEpsilon: 1e6,
      learningRate: 1e5,
      saveStrategy: 'no',
    } as const;
    const move = async (c: number, maxGradNorm: number) => {
      const model = f64Model();
      const before = await model.proj.weight.data();
      const { steps } = await tinyRun({ ...shared, model, loss: lossOf(model, c), maxGradNorm });
      const after = await model.proj.weight.data();
      return { norm: steps[0]!.gradNorm, moves: Array.from(after, (v, i) => v - before[i]!) };
    };
    const free = await move(1, 0);
    const tripled = await move(3, 0);
    const clipped = await move(3, free.norm / 2);
    expect(tripled.norm / free.norm).toBeCloseTo(3, 9);
    expect(clipped.norm).toBe(tripled.norm); // reported before clipping
    const largest = free.moves.reduce((best, v, i) => (Math.abs(v) > Math.abs(free.moves[best]!) ? i : best), 0);
    expect(tripled.moves[largest]! / free.moves[largest]!).toBeCloseTo(3, 3);
    expect(clipped.moves[largest]! / free.moves[largest]!).toBeCloseTo(0.5, 3);
  });

  it('decays weights but neither biases nor norms', async () => {
    const model = f64Model();
    const before = new Map<string, number[]>();
    for (const [path, t] of model.stateDict()) before.set(path, Array.from(await t.data()));
    const zero = (batch: Parameters<ReturnType<typeof tinyLoss>>[0], o: { normalizer: number }) =>
      tinyLoss(model)(batch, o).mul(0);
    await tinyRun({
      model,
      loss: zero,
      maxSteps: 1,
      lrSchedulerType: 'constant',
      learningRate: 0.1,
      weightDecay: 0.5,
      saveStrategy: 'no',
    });
    for (const [path, t] of model.stateDict()) {
      const factor = path === 'proj.bias' || path === 'norm.weight' ? 1 : 1 - 0.1 * 0.5;
      const got = Array.from(await t.data());
      got.forEach((v, i) => expect(v, path).toBeCloseTo(before.get(path)![i]! * factor, 12));
    }
  });

  it('gives the same bits twice', async () => {
    const runs = await Promise.all([0, 1].map(() => tinyRun({ dropout: 0.2, gradientAccumulationSteps: 2 })));
    expect(await parameterBytes(runs[0]!.model)).toEqual(await parameterBytes(runs[1]!.model));
    const other = await tinyRun({ dropout: 0.2, gradientAccumulationSteps: 2, seed: 43 });
    expect(await parameterBytes(other.model)).not.toEqual(await parameterBytes(runs[0]!.model));
  });

  it('keeps memory flat over 500 steps', async () => {
    const backend = referenceBackend();
    const model = new TinyModel(backend, { dropout: 0.1 });
    const use: { liveTensors: number; liveBytes: number }[] = [];
    await tinyRun({
      model,
      maxSteps: 500,
      gradientAccumulationSteps: 2,
      saveSteps: 100,
      onEvent: (e) => e.type === 'step' && use.push({ ...memory(backend) }),
    });
    const { liveTensors, liveBytes } = use[4]!;
    expect(use[499]).toMatchObject({ liveTensors, liveBytes });
    expect(use[499]!.liveTensors).toBe(3 * model.namedParameters().length); // parameters and two moments
  }, 120_000);

  it('leaves the model in eval mode and frees the optimizer, also when the caller stops listening', async () => {
    const backend = referenceBackend();
    const model = new TinyModel(backend);
    const batches = createBatches(tinyExamples(6), { batchSize: 2 });
    for await (const event of train(model, tinyLoss(model), batches, {
      files: memoryFiles(),
      outputDir: 'run',
      maxSteps: 9,
    }))
      if (event.type === 'step' && event.step === 2) break;
    expect(model.training).toBe(false);
    expect(memory(backend).liveTensors).toBe(model.namedParameters().length);
  });
});

describe('train refuses', () => {
  const refused = (options: Parameters<typeof tinyRun>[0]) => {
    const files = memoryFiles();
    return tinyRun({ files, ...options }).then(
      () => 'no error',
      async (error: Error) => {
        expect(await files.exists('run')).toBe(false); // nothing half-written
        return error.message;
      },
    );
  };
  it('options out of range, by name, before anything is written', async () => {
    for (const [name, value] of Object.entries({
      learningRate: -1, warmupSteps: 1.5, maxSteps: 0, gradientAccumulationSteps: 0, maxGradNorm: -1, weightDecay: Number.NaN, adamBeta1: 1,
      seed: 0.5, saveSteps: 0, saveTotalLimit: 0, lrSchedulerType: 'liner', optim: 'adamx', evalStrategy: 'sometimes', reportTo: ['wandb'],
    })) // biome-ignore format: cases
      expect(await refused({ [name]: value }), name).toMatch(
        name === 'lrSchedulerType' ? /lr_scheduler_type.*linear/ : name,
      );
  });
  it('evaluation without a set, and a best model without aligned saves', async () => {
    expect(await refused({ evalStrategy: 'steps' })).toMatch(/needs an evaluation set/);
    const evaluate = async () => ({ evalLoss: 1 });
    expect(await refused({ loadBestModelAtEnd: true, evalStrategy: 'epoch', evaluate })).toMatch(/loadBestModelAtEnd/);
    const loose = { loadBestModelAtEnd: true, evalStrategy: 'steps', evalSteps: 3, saveSteps: 4, evaluate } as const;
    expect(await refused(loose)).toMatch(/multiple of evalSteps/);
  });
  it('a model with nothing to train', async () => {
    const model = new TinyModel(referenceBackend());
    for (const { tensor } of model.namedParameters()) tensor.requiresGrad = false;
    expect(await refused({ model })).toMatch(/all are frozen/);
    expect(await refused({ model: new (class extends Module {})() as TinyModel })).toMatch(/all are frozen/);
  });
});

describe('bad numbers and masked rows', () => {
  it('stops at the first loss that is not finite, with step and rows; the last checkpoint stands', async () => {
    const files = memoryFiles();
    const model = new TinyModel(referenceBackend());
    let calls = 0;
    const loss = (batch: Parameters<ReturnType<typeof tinyLoss>>[0], o: { normalizer: number }) =>
      tinyLoss(model)(batch, o).mul(++calls === 6 ? Number.POSITIVE_INFINITY : 1);
    const error = await tinyRun({ files, model, loss, saveSteps: 2, order: 'sequential' }).catch((e: unknown) => e);
    expect(error).toBeInstanceOf(NonFiniteError);
    expect((error as Error).message).toMatch(/at step 6 \(rows 1, 2\) the loss is Infinity.*run\/checkpoint-4/);
    expect(await listCheckpoints(files, 'run')).toEqual([4, 2]);
    const resumed = await tinyRun({ files, resumeFromCheckpoint: 'auto', saveSteps: 2, order: 'sequential' });
    expect(resumed.steps[0]!.step).toBe(5);
  });
  it('stops at a gradient that is not finite although the loss is, naming the parameter', async () => {
    const model = new TinyModel(referenceBackend());
    const loss = (batch: Parameters<ReturnType<typeof tinyLoss>>[0], o: { normalizer: number }) =>
      tinyLoss(model)(batch, o).add(model.proj.bias!.mul(0).sqrt().sum()); // d sqrt(0) is infinite
    const before = await parameterBytes(model);
    const error = (await tinyRun({ model, loss }).catch((e: unknown) => e)) as Error;
    expect(error).toBeInstanceOf(NonFiniteError);
    expect(error.message).toMatch(/step 1 .*proj\.bias.*No checkpoint was written yet/);
    expect(await parameterBytes(model)).toEqual(before);
  });
  it('stops where an overflow hides behind a finite loss: every gradient exactly 0', async () => {
    const model = new TinyModel(referenceBackend());
    const loss = (batch: Parameters<ReturnType<typeof tinyLoss>>[0], o: { normalizer: number }) =>
      tinyLoss(model)(batch, o).mul(0).add(7);
    const error = (await tinyRun({ model, loss }).catch((e: unknown) => e)) as Error;
    expect(error).toBeInstanceOf(NonFiniteError);
    expect(error.message).toMatch(/at step 1 .*every gradient is exactly 0 while the loss is 7/);
  });
  it('a learning rate of 1e30 ends in that error, not in NaN weights on the disk', async () => {
    const error = (await tinyRun({ learningRate: 1e30, saveSteps: 1 }).catch((e: unknown) => e)) as Error;
    expect(error).toBeInstanceOf(NonFiniteError);
  });
  it('a window without trained tokens is a note and a step of zero gradients; its loss is not NaN', async () => {
    const examples = tinyExamples(6).map((e, i) => (i === 2 ? { ...e, labels: e.labels.map(() => ignoredLabel) } : e));
    const { steps, notes, events } = await tinyRun({ examples, order: 'sequential', batchSize: 1, maxSteps: 6 });
    expect(notes).toEqual(['step 3: no token of its rows is trained; its gradients are 0, as in transformers']);
    expect(steps[2]).toMatchObject({ loss: 0, gradNorm: 0, trainedTokens: 0 });
    const counted = steps.filter((s) => s.trainedTokens > 0).map((s) => s.loss);
    const end = events.at(-1);
    expect(end?.type === 'end' && end.trainLoss).toBeCloseTo(counted.reduce((a, b) => a + b) / 5, 12);
  });
  it('a run in which every row is masked stops after its first epoch', async () => {
    const examples = tinyExamples(4).map((e) => ({ ...e, labels: e.labels.map(() => ignoredLabel) }));
    const files = memoryFiles();
    await expect(tinyRun({ files, examples })).rejects.toThrow(/none of the \d+ tokens of the first 2 steps/);
  });
});

describe('evaluation in the loop', () => {
  const losses = [3, 2, 2.5, Number.NaN, 4, 5];
  const evaluated = async (options: object) => {
    let at = 0;
    const bytesAt: Record<string, string>[] = [];
    const model = new TinyModel(referenceBackend(), { dropout: 0.3 });
    const run = await tinyRun({
      model,
      evalStrategy: 'steps',
      evalSteps: 2,
      saveSteps: 2,
      evaluate: async () => {
        expect(model.training).toBe(false);
        bytesAt.push(await parameterBytes(model));
        return { evalLoss: losses[at++]!, tokenAccuracy: 0.5 };
      },
      ...options,
    });
    return { ...run, bytesAt };
  };
  it('marks the best, keeps it beside the newest, and loads it at the end', async () => {
    const run = await evaluated({ loadBestModelAtEnd: true, saveTotalLimit: 1 });
    const best = run.events.filter((e): e is EvaluateEvent => e.type === 'evaluate').map((e) => e.best);
    expect(best).toEqual([true, true, false, false, false, false]);
    expect(await listCheckpoints(run.files, 'run')).toEqual([12, 4]);
    expect(run.events.at(-1)).toMatchObject({
      bestCheckpoint: 'run/checkpoint-4',
      lastCheckpoint: 'run/checkpoint-12',
    });
    expect(await parameterBytes(run.model)).toEqual(run.bytesAt[1]);
    expect(run.notes.at(-1)).toMatch(/loaded the best checkpoint, run\/checkpoint-4 \(evaluation loss 2\.0000\)/);
  });
  it('without loadBestModelAtEnd the last weights stay', async () => {
    const run = await evaluated({});
    expect(await parameterBytes(run.model)).toEqual(run.bytesAt.at(-1));
  });
  it('evaluates at epoch ends and after the last step, and logs the metrics', async () => {
    let count = 0;
    const { events, files } = await tinyRun({
      evalStrategy: 'epoch',
      evaluate: async () => ({ evalLoss: ++count }),
      maxSteps: 12,
    });
    expect(events.flatMap((e) => (e.type === 'evaluate' ? [e.step] : []))).toEqual([5, 10, 12]);
    const log = new TextDecoder().decode(await files.read('run/log.jsonl'));
    expect(
      log
        .trim()
        .split('\n')
        .map((l) => JSON.parse(l))
        .filter((l) => 'evalLoss' in l),
    ).toEqual([
      { step: 5, epoch: 1, evalLoss: 1 },
      { step: 10, epoch: 2, evalLoss: 2 },
      { step: 12, epoch: 2.4, evalLoss: 3 },
    ]);
  });
});
