import { cpu } from '@lorikeet/cpu';
import { nodeFiles, writeDirectoryAtomic, writeJson } from '@lorikeet/files';
import { hasRoom, type Room } from '@lorikeet/trainer';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { resolveConfig } from '../config/load-config.ts';
import { Output } from '../output.ts';
import { makeWorkspace, type TestWorkspace } from '../testing/workspace.ts';
import { memoryChanges } from './memory-changes.ts';
import { candidates, chooseCheckpointing, prepareRun } from './prepare-run.ts';

let space: TestWorkspace;
beforeAll(async () => {
  space = await makeWorkspace();
});
afterAll(() => space[Symbol.dispose]());

/** A run of 24 rows a batch, prepared where `memoryLimitBytes` of work memory are. */
async function prepared(memoryLimitBytes: number, overrides: readonly string[], resume?: string) {
  const backend = await cpu({ threads: 1, memoryLimitBytes });
  const yaml = `
model: {path: ${JSON.stringify(space.path('base'))}}
data: {train: ${JSON.stringify(space.path('train.jsonl'))}, testSize: 0, maxLength: 512}
training: {outputDir: ${JSON.stringify(space.path('out'))}, perDeviceTrainBatchSize: 24, maxSteps: 2}
`;
  const { config } = resolveConfig(yaml, space.path('run.yaml'), overrides);
  const said: string[] = [];
  const stderr = { write: (text: string) => said.push(text) } as unknown as NodeJS.WriteStream;
  const output = new Output({ json: true, stderr });
  const run = await prepareRun(config, { files: nodeFiles(), output, backend, resume });
  return { run, said, close: () => backend.close() };
}

const auto = ['training.gradientCheckpointing=auto', 'training.activationStorage=auto'];

describe('gradientCheckpointing: auto', () => {
  it('keeps everything where there is room, recomputes where there is less, keeps in bf16 where there is least', async () => {
    const { run, close } = await prepared(2 ** 30, auto);
    expect(run.checkpointing).toEqual({ gradientCheckpointing: false, activationStorage: 'f32' });
    const modelConfig = { ...run.modelConfig, numHiddenLayers: 12 };
    const [dry, input] = [
      { ...run.dry, modelConfig },
      { ...run.input, modelConfig },
    ];
    const choices = candidates(run.input.config);
    const chosenWithin = async (room: Room) => (await chooseCheckpointing(choices, { input, dry, room })).checkpointing;
    const needs: number[] = [];
    for (const choice of choices) {
      const { facts } = await chooseCheckpointing([choice], { input, dry, room: {} });
      needs.push(facts.memory.peakBytes - facts.memory.weights);
    }
    expect(needs).toEqual(needs.toSorted((x, y) => y - x));
    for (const [i, workBytes] of needs.entries()) expect(await chosenWithin({ workBytes })).toEqual(choices[i]);
    expect(await chosenWithin({ workBytes: 1 })).toEqual(choices[2]);
    await close();
  });

  it('is needed for activationStorage, which else says that it does nothing', async () => {
    const told = async (on: boolean): Promise<boolean> => {
      const overrides = ['training.activationStorage=bf16', `training.gradientCheckpointing=${on}`];
      const { said, close } = await prepared(2 ** 30, overrides);
      await close();
      return said.some((text) => text.includes('has no effect without'));
    };
    expect([await told(false), await told(true)]).toEqual([true, false]);
  });

  it('means what it meant when a run is resumed', async () => {
    const checkpoint = space.path('resumable', 'checkpoint-1');
    await writeState(checkpoint, { gradientCheckpointing: true, activationStorage: 'bf16' });
    const { run, close } = await prepared(2 ** 30, auto, checkpoint);
    expect(run.checkpointing).toEqual({ gradientCheckpointing: true, activationStorage: 'bf16' });
    await close();
  });
});

describe('memoryChanges', () => {
  it('says of each change what a run with it saves, to the byte', async () => {
    const { run, close } = await prepared(2 ** 30, []);
    const changes = await memoryChanges(run);
    await close();
    expect(changes.length).toBeGreaterThanOrEqual(3);
    for (const { change, savesBytes } of changes) {
      const sets = change
        .replace(/^set | \(.*\)$/g, '')
        .split(' and ')
        .map((text) => text.replace(': ', '='));
      const other = await prepared(2 ** 30, sets);
      const saved = run.facts.memory.peakBytes - other.run.facts.memory.peakBytes;
      await other.close();
      // Half a batch is the first half here and the larger half in a run.
      const slack = change.includes('BatchSize') ? 0.05 : 0;
      expect(Math.abs(saved - savesBytes), change).toBeLessThanOrEqual(slack * savesBytes);
    }
  });
  it('offers nothing that is done', async () => {
    const done = [
      'quantization.loadIn4bit=true',
      'training.optim=adamw_8bit',
      'training.gradientCheckpointing=true',
      'training.activationStorage=bf16',
    ];
    const { run, close } = await prepared(2 ** 30, done);
    expect(hasRoom(run.estimate, run.room)).toBe(true);
    const text = (await memoryChanges(run)).map(({ change }) => change).join();
    await close();
    expect(text).not.toMatch(/loadIn4bit|optim|Checkpointing|Storage/);
  });
});

/** The least that openCheckpointState reads. */
async function writeState(dir: string, identity: object): Promise<void> {
  const files = nodeFiles();
  await files.makeDirectory(space.path('resumable'));
  await writeDirectoryAtomic(files, dir, (draft) =>
    writeJson(files, `${draft}/state.json`, { version: 1, step: 1, identity }),
  );
}
