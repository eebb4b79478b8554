import { crossEntropy, memory, noGrad, referenceBackend, tensor } from '@lorikeet/tensor';
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { type Batch, evaluationBatches, ignoredLabel } from './data/index.ts';
import { type EvaluateOptions, evaluate } from './evaluate.ts';
import { TinyModel, tinyExamples } from './testing/tiny-run.ts';

const optionsOf = (model: TinyModel): EvaluateOptions<Batch> => ({
  hidden: (batch) => model.hidden(batch),
  head: (rows) => model.lm_head.forward(rows),
});

/** Loss and hits of one row, from its full logits. */
async function rowByHand(model: TinyModel, batch: Batch) {
  const logits = noGrad(() => model.lm_head.forward(model.hidden(batch)));
  const labels = tensor(batch.targets, { backend: logits.backend, dtype: 'i32' });
  const losses = await crossEntropy(logits, labels, { reduction: 'none' }).data();
  const rows = (await logits.toArray()) as number[][];
  const hits = rows.filter(
    (row, i) => batch.targets[i] !== -100 && row.indexOf(Math.max(...row)) === batch.targets[i],
  ).length;
  return { sum: Array.from(losses, Number).reduce((a, b) => a + b, 0), weight: batch.trainedTokens, correct: hits };
}

describe('evaluate', () => {
  const examples = tinyExamples(9);

  it('equals full logits row by row, whatever the batch and the chunk', async () => {
    const model = new TinyModel(referenceBackend(), { dtype: 'f64' }).eval();
    const byHand = await Promise.all([...evaluationBatches(examples, 1)].map((b) => rowByHand(model, b)));
    const tokens = byHand.reduce((n, r) => n + r.weight, 0);
    for (const [batchSize, chunkRows] of [
      [1, 256],
      [4, 3],
      [9, 1],
      [5, 7],
    ] as const) {
      const got = await evaluate(model, evaluationBatches(examples, batchSize), { ...optionsOf(model), chunkRows });
      expect(got.tokens).toBe(tokens);
      expect(got.evalLoss).toBeCloseTo(byHand.reduce((n, r) => n + r.sum, 0) / tokens, 10);
      expect(got.perplexity).toBeCloseTo(Math.exp(got.evalLoss), 10);
      expect(got.tokenAccuracy).toBeCloseTo(byHand.reduce((n, r) => n + r.correct, 0) / tokens, 12);
      expect(got.rows.map((r) => r.line)).toEqual(examples.map((e) => e.line));
      for (const [i, row] of got.rows.entries()) {
        expect(row.sum).toBeCloseTo(byHand[i]!.sum, 10);
        expect([row.weight, row.correct]).toEqual([byHand[i]!.weight, byHand[i]!.correct]);
      }
    }
  });
  it('never holds more logits than a chunk, and leaves nothing behind', async () => {
    const backend = referenceBackend();
    const model = new TinyModel(backend);
    const wide = optionsOf(model);
    const before = { ...memory(backend) };
    const sizes: number[] = [];
    const head: typeof wide.head = (rows) => {
      sizes.push(rows.shape[0]!);
      return wide.head(rows);
    };
    await evaluate(model, evaluationBatches(examples, 9), { ...wide, head, chunkRows: 5 });
    expect(Math.max(...sizes)).toBe(5);
    expect(memory(backend)).toMatchObject({ liveTensors: before.liveTensors, liveBytes: before.liveBytes });
  });
  it('runs in eval mode and puts every module back, also after an error', async () => {
    const model = new TinyModel(referenceBackend(), { dropout: 0.5 });
    model.norm.training = false;
    const options = optionsOf(model);
    const once = await evaluate(model, evaluationBatches(examples, 4), options);
    expect((await evaluate(model, evaluationBatches(examples, 4), options)).evalLoss).toBe(once.evalLoss);
    const failing = { ...options, head: () => { throw new Error('no head'); } }; // biome-ignore format: short
    await expect(evaluate(model, evaluationBatches(examples, 4), failing)).rejects.toThrow('no head');
    expect([model.training, model.dropout.training, model.norm.training]).toEqual([true, true, false]);
  });
  it('counts rows without targets as rows of weight 0, and refuses data without any', async () => {
    const model = new TinyModel(referenceBackend());
    const masked = { ...examples[0]!, labels: examples[0]!.labels.map(() => ignoredLabel) };
    const got = await evaluate(model, evaluationBatches([masked, examples[1]!], 2), optionsOf(model));
    expect(got.rows.map((r) => r.weight)).toEqual([0, got.tokens]);
    await expect(evaluate(model, evaluationBatches([masked], 1), optionsOf(model))).rejects.toThrow(/1 rows with none/);
  });
  it('stops at a signal and reports progress', async () => {
    const model = new TinyModel(referenceBackend());
    const controller = new AbortController();
    const seen: number[] = [];
    const onProgress = (n: number) => void (seen.push(n) === 2 && controller.abort(new Error('enough')));
    const run = evaluate(model, evaluationBatches(examples, 2), {
      ...optionsOf(model),
      onProgress,
      signal: controller.signal,
    });
    await expect(run).rejects.toThrow('enough');
    expect(seen).toHaveLength(2);
  });
  it('is the mean over tokens, not over batches, for any split into batches', async () => {
    const model = new TinyModel(referenceBackend());
    const whole = await evaluate(model, evaluationBatches(examples, 9), optionsOf(model));
    await fc.assert(
      fc.asyncProperty(
        fc.integer({ min: 1, max: 9 }),
        fc.integer({ min: 1, max: 40 }),
        async (batchSize, chunkRows) => {
          const got = await evaluate(model, evaluationBatches(examples, batchSize), { ...optionsOf(model), chunkRows });
          expect(Math.abs(got.evalLoss - whole.evalLoss)).toBeLessThan(1e-6);
          expect(got.tokenAccuracy).toBe(whole.tokenAccuracy);
        },
      ),
      { numRuns: 12 },
    );
  });
});
