import { FileError } from '@lorikeet/files';
import { OutOfMemoryError } from '@lorikeet/tensor';
import { describe, expect, it } from 'vitest';
import { describeRun, estimateRun, planMemory, type RunFacts, requireRoom, showBytes } from './estimate.ts';

const GiB = 2 ** 30;
/** Phi-3-mini with bf16 weights and LoRA of rank 16 on all linears. */
const mini: RunFacts = {
  weightBytes: 7.64e9 + 101e6,
  trainableParameters: 25_165_824,
  layers: 32,
  hiddenSize: 3072,
  intermediateSize: 8192,
  vocabularySize: 32_064,
  tokensPerBatch: 512,
  tokensPerStep: 2048,
  totalSteps: 1000,
  checkpoints: 10,
};

describe('estimateRun', () => {
  it('gives field.md section E its numbers', () => {
    const plan = planMemory({ ...mini, gradientCheckpointing: true });
    expect(plan.gradients / 1e6).toBeCloseTo(100.7, 1); // 101 MB
    expect(plan.optimizer / 1e6).toBeCloseTo(201.3, 1); // 201 MB
    expect(plan.activations).toBeGreaterThan(201e6); // the layers' inputs of 512 tokens, and one layer's inside
    expect(plan.activations).toBeLessThan(2 * 201e6 + 2 * 512 * 60_000 * 4);
    expect(plan.peakBytes).toBe(
      Math.ceil(plan.weights + plan.gradients + plan.optimizer + plan.activations + plan.logits),
    );
  });
  it('gradient checkpointing, fewer tokens and smaller chunks cost less; dropout costs more', () => {
    const peak = (more: Partial<RunFacts>) => planMemory({ ...mini, ...more }).peakBytes;
    expect(peak({ gradientCheckpointing: true })).toBeLessThan(peak({}) / 1.3);
    expect(peak({ tokensPerBatch: 256 })).toBeLessThan(peak({}));
    expect(peak({ chunkRows: 64 })).toBeLessThan(peak({}));
    expect(peak({ dropout: true })).toBeGreaterThan(peak({}));
  });
  it('counts tokens, disk and, once measured, hours', () => {
    const before = estimateRun(mini);
    expect(before).toMatchObject({ tokens: 2_048_000, hours: null });
    expect(before.diskBytes).toBe(4 * before.checkpointBytes); // two kept, the best, the one being written
    expect(estimateRun({ ...mini, saveTotalLimit: null }).diskBytes).toBe(11 * before.checkpointBytes);
    expect(estimateRun({ ...mini, checkpoints: 0 }).diskBytes).toBe(0);
    const after = estimateRun({ ...mini, stepsDone: 3 }, { tokensPerSecond: 100, peakBytes: 40 * GiB });
    expect(after.hours).toBeCloseTo((997 * 2048) / 100 / 3600, 9);
    expect(after.peakBytes).toBe(40 * GiB);
  });
  it('is one line for people', () => {
    expect(describeRun(estimateRun(mini))).toMatch(
      /^this run needs about \d+ GiB of memory and 1\.1 GiB of disk, for 2048000 tokens: time known after 3 steps$/,
    );
    expect(describeRun(estimateRun(mini, { tokensPerSecond: 100 }))).toMatch(
      /about 5\.7 hours at this machine's speed$/,
    );
    expect(describeRun(estimateRun(mini, { tokensPerSecond: 60_000 }))).toMatch(/about 34 seconds/);
    expect(describeRun(estimateRun(mini, { tokensPerSecond: 60_000_000 }))).toMatch(/about 1 second at/);
    expect([0, 1023, 1536, 5 * 2 ** 20, 150 * GiB].map(showBytes)).toEqual([
      '0 B',
      '1023 B',
      '1.5 KiB',
      '5.0 MiB',
      '150 GiB',
    ]);
  });
  it('refuses facts that are no numbers', () => {
    expect(() => planMemory({ ...mini, layers: Number.NaN })).toThrow('layers must be');
  });
});

describe('requireRoom', () => {
  const estimate = estimateRun(mini);
  it('lets through what fits and what is unknown', () => {
    requireRoom(mini, estimate, {});
    requireRoom(mini, estimate, { memoryBytes: 64 * GiB, diskBytes: 100 * GiB });
  });
  it('stops what does not fit into memory, with parts and what to change, the largest first', () => {
    const refuse = (facts: RunFacts) => {
      try {
        requireRoom(facts, estimateRun(facts), { memoryBytes: 4 * GiB });
        return '';
      } catch (error) {
        expect(error).toBeInstanceOf(OutOfMemoryError);
        return (error as Error).message;
      }
    };
    expect(refuse(mini)).toMatch(
      /must fit into 4\.0 GiB.*weights 7\.2 GiB.*To change: use a smaller base model; or set gradientCheckpointing/,
    );
    expect(refuse({ ...mini, tokensPerBatch: 8192 })).toMatch(
      /To change: set gradientCheckpointing, or lower the batch size/,
    );
    expect(refuse({ ...mini, tokensPerBatch: 65_536, gradientCheckpointing: true })).toMatch(
      /To change: lower the batch size or maxLength \(each token/,
    );
  });
  it('stops what fits beside the weights but not into what is computed in', () => {
    const facts = { ...mini, tokensPerBatch: 4096 };
    const run = (workBytes: number) => requireRoom(facts, estimateRun(facts), { memoryBytes: 64 * GiB, workBytes });
    run(32 * GiB);
    expect(() => run(4 * GiB)).toThrow(OutOfMemoryError);
    expect(() => run(4 * GiB)).toThrow(
      /all but the base weights must fit into 4\.0 GiB.*\(adapter 96 MiB, gradients 96 MiB.*To change: set gradientCheckpointing, or lower the batch/,
    );
  });
  it('counts what the process holds already', () => {
    const more = estimateRun({ ...mini, processBytes: GiB });
    expect(more.peakBytes - estimate.peakBytes).toBe(GiB);
    expect(more.memory.process).toBe(GiB);
  });
  it('stops what does not fit on the disk', () => {
    const run = () => requireRoom(mini, estimate, { diskBytes: GiB, outputDir: 'runs/a' });
    expect(run).toThrow(FileError);
    expect(run).toThrow(/runs\/a has 1\.0 GiB free.*Lower saveTotalLimit/);
  });
});
