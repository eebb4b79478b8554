import { FileError } from '@lorikeet/files';
import { Linear, Module } from '@lorikeet/nn';
import { dryRunBackend, memory, OutOfMemoryError, randomKey, referenceBackend } from '@lorikeet/tensor';
import { describe, expect, it } from 'vitest';
import { describeRun, estimateRun, hasRoom, type RunFacts, requireRoom, showBytes } from './estimate.ts';
import { planMemory } from './plan-memory.ts';

const GiB = 2 ** 30;
/** About Phi-3-mini with bf16 weights and LoRA of rank 16 on all linears, 512 tokens at a time. */
const parts = { weights: 7.64e9, adapter: 101e6, gradients: 101e6, optimizer: 202e6, activations: 4e9 };
const mini: RunFacts = {
  memory: { ...parts, logits: 98e6, process: 0, peakBytes: 12.044e9, trainedTensors: 256 },
  trainableParameters: 25_165_824,
  tokensPerStep: 2048,
  totalSteps: 1000,
  checkpoints: 10,
};

describe('estimateRun', () => {
  it('counts tokens, disk and, once measured, hours', () => {
    const before = estimateRun(mini);
    expect(before).toMatchObject({ tokens: 2_048_000, hours: null, peakBytes: 12.044e9 });
    expect(before.checkpointBytes).toBe(101e6 + 202e6 + 6500 + 256 * 430); // the adapter, its optimizer, names
    expect(before.diskBytes).toBe(4 * before.checkpointBytes); // two kept, the best, the one being written
    expect(estimateRun({ ...mini, saveTotalLimit: null }).diskBytes).toBe(11 * before.checkpointBytes);
    expect(estimateRun({ ...mini, checkpoints: 0 }).diskBytes).toBe(0);
    const after = estimateRun({ ...mini, stepsDone: 3 }, { tokensPerSecond: 100, peakBytes: 40 * GiB });
    expect(after.hours).toBeCloseTo((997 * 2048) / 100 / 3600, 9);
    expect(after.peakBytes).toBe(40 * GiB);
  });
  it('counts what the process holds already', () => {
    const more = estimateRun({ ...mini, memory: { ...mini.memory, process: GiB } });
    expect(more.peakBytes - estimateRun(mini).peakBytes).toBe(GiB);
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
});

class Pair extends Module {
  readonly frozen: Linear;
  readonly trained: Linear;
  constructor(frozen: Linear, trained: Linear) {
    super();
    this.frozen = frozen;
    this.trained = trained;
  }
}

describe('planMemory', () => {
  const batch = { ids: new Int32Array(32), trainedTokens: 32, lines: [1] };
  it('takes a step apart, gradients of the micro-batch before included', async () => {
    const backend = dryRunBackend(referenceBackend());
    const frozen = Linear.init(8, 64, { backend, key: randomKey(1), requiresGrad: false, bias: false });
    const trained = Linear.init(64, 4, { backend, key: randomKey(2), bias: false });
    const model = new Pair(frozen, trained);
    const loss = (b: typeof batch) =>
      trained.forward(frozen.forward(trained.weight.reshape([32, 8])).slice(0, 0, b.ids.length)).sum();
    const before = memory(backend).liveBytes;
    const plan = await planMemory(model, loss, batch);
    expect(plan).toMatchObject({
      weights: 8 * 64 * 4,
      adapter: 64 * 4 * 4,
      gradients: 64 * 4 * 4,
      optimizer: 2 * 64 * 4 * 4,
    });
    expect(plan.activations).toBeGreaterThanOrEqual(32 * 64 * 4); // the input of the trained product
    expect(plan.weights + plan.adapter + plan.gradients + plan.optimizer + plan.activations).toBe(plan.peakBytes);
    expect(memory(backend).liveBytes).toBe(before);
    const accumulated = await planMemory(model, loss, batch, { gradientAccumulationSteps: 8 });
    expect(accumulated.peakBytes).toBeGreaterThan(plan.peakBytes);
  });
  it('refuses a model in which nothing is trained', async () => {
    const backend = dryRunBackend(referenceBackend());
    const model = Linear.init(2, 2, { backend, key: randomKey(1), requiresGrad: false });
    await expect(planMemory(model, () => model.weight.sum(), batch)).rejects.toThrow('must have trainable parameters');
  });
});

describe('requireRoom', () => {
  const estimate = estimateRun(mini);
  const changes = [
    { change: 'set peft.r: 8', savesBytes: 2e8 },
    { change: 'set training.gradientCheckpointing: true', savesBytes: 3.5e9 },
    { change: 'nothing', savesBytes: 0 },
  ];
  it('lets through what fits and what is unknown', () => {
    for (const room of [{}, { memoryBytes: 64 * GiB, diskBytes: 100 * GiB }]) {
      requireRoom(estimate, room);
      expect(hasRoom(estimate, room)).toBe(true);
    }
  });
  it('stops what does not fit into memory, with parts and what to change, the largest saving first', () => {
    const room = { memoryBytes: 4 * GiB };
    expect(hasRoom(estimate, room)).toBe(false);
    expect(() => requireRoom(estimate, room, changes)).toThrow(OutOfMemoryError);
    expect(() => requireRoom(estimate, room, changes)).toThrow(
      /must fit into 4\.0 GiB.*weights 7\.1 GiB.*To change: set training\.gradientCheckpointing: true \(saves 3\.3 GiB\); or set peft\.r: 8 \(saves 191 MiB\)\.$/,
    );
    expect(() => requireRoom(estimate, room)).toThrow(/To change: lower the batch size, data\.maxLength or the rank r/);
  });
  it('stops what fits beside the weights but not into what is computed in', () => {
    const room = (workBytes: number) => ({ memoryBytes: 64 * GiB, workBytes });
    requireRoom(estimate, room(5 * GiB));
    expect(hasRoom(estimate, room(4 * GiB))).toBe(false);
    expect(() => requireRoom(estimate, room(4 * GiB), changes)).toThrow(
      /all but the base weights must fit into 4\.0 GiB.*needs about 4\.1 GiB.*adapter 96 MiB, gradients 96 MiB/,
    );
    const packed = estimateRun({ ...mini, memory: { ...mini.memory, weightsInWork: 2 * GiB } });
    expect(() => requireRoom(packed, room(5 * GiB))).toThrow(/needs about 6\.1 GiB/);
  });
  it('stops what does not fit on the disk', () => {
    const run = () => requireRoom(estimate, { diskBytes: GiB, outputDir: 'runs/a' });
    expect(run).toThrow(FileError);
    expect(run).toThrow(/runs\/a has 1\.0 GiB free.*Lower saveTotalLimit/);
  });
});
