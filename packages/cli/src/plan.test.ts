/** `lorikeet plan` in processes of its own: what it says before, beside what a run then takes. */
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { lorikeet, oneObject } from './testing/command-line.ts';
import { makeWorkspace, type TestWorkspace } from './testing/workspace.ts';

interface Planned {
  readonly fits: boolean;
  readonly memory: Readonly<Record<string, number>>;
  readonly peakBytes: number;
  readonly bases: readonly { readonly name: string; readonly bytes: number }[];
  readonly changes: readonly { readonly change: string; readonly savesBytes: number }[];
  readonly checkpointBytes: number;
  readonly secondsPerStep: number | null;
  readonly gradientCheckpointing: boolean;
  readonly activationStorage: string;
}

let space: TestWorkspace;
beforeAll(async () => {
  space = await makeWorkspace();
});
afterAll(() => space[Symbol.dispose]());

const run = (args: readonly string[]) => lorikeet(args, { cwd: space.dir });
async function plan(...args: string[]): Promise<Planned> {
  const ended = await run(['plan', '-c', 'run.yaml', '--json', ...args]);
  expect(ended.stderr).not.toContain('error');
  expect(ended.code).toBe(0);
  return oneObject(ended.stdout) as unknown as Planned;
}

describe('plan', () => {
  test('says memory by parts, time and disk, and writes nothing', async () => {
    const planned = await plan();
    const { weights, adapter, gradients, optimizer, activations, process: own, peakBytes } = planned.memory;
    expect(weights! + adapter! + gradients! + optimizer! + activations!).toBe(peakBytes);
    expect(planned.peakBytes).toBe(peakBytes! + own!);
    expect(optimizer).toBe(2 * adapter!);
    const [wide, packed, eight] = planned.bases.map(({ bytes }) => bytes);
    expect(wide).toBe(weights);
    expect(packed).toBeLessThan(eight!);
    expect(eight).toBeLessThan(wide!);
    expect(planned.secondsPerStep).toBeGreaterThan(0);
    expect(
      planned.changes.every(
        ({ savesBytes }, i, all) => savesBytes > 0 && savesBytes <= (all[i - 1]?.savesBytes ?? Infinity),
      ),
    ).toBe(true);
    expect(() => space.filesBelow('out')).toThrow(/ENOENT/);
  });

  test('is for people too', async () => {
    const ended = await run(['plan', '-c', 'run.yaml', '--no-probe']);
    for (const word of ['base weights', 'gradients', 'optimizer', 'activations', 'peak', 'It fits', 'not probed'])
      expect(ended.stdout).toContain(word);
  });

  test('prices a quantized base and 8-bit state as they will be', async () => {
    const packed = await plan(
      '--no-probe',
      '--set',
      'quantization.loadIn4bit=true',
      '--set',
      'training.optim=adamw_8bit',
    );
    expect(packed.memory.weights).toBe(packed.bases[1]!.bytes);
    expect(packed.memory.optimizer).toBeLessThanOrEqual(2 * packed.memory.adapter!);
    expect(packed.changes.map(({ change }) => change).join()).not.toMatch(/loadIn4bit|adamw_8bit/);
  });

  test('memory and checkpoint are what the run then takes, within 10 %', async () => {
    const planned = await plan('--no-probe');
    const trained = await run(['train', '-c', 'run.yaml', '--json']);
    const { peakBytes } = oneObject(trained.stdout) as { peakBytes: number };
    expect(planned.peakBytes / peakBytes).toBeGreaterThan(0.9);
    expect(planned.peakBytes / peakBytes).toBeLessThan(1.1);
    const files = space.filesBelow('out/checkpoint-16');
    const written = files.reduce((sum, name) => sum + space.size('out', 'checkpoint-16', name), 0);
    expect(planned.checkpointBytes / written).toBeGreaterThan(0.9);
    expect(planned.checkpointBytes / written).toBeLessThan(1.1);
  });
});

describe('auto', () => {
  const auto = ['--set', 'training.gradientCheckpointing=auto', '--set', 'training.activationStorage=auto'];
  test('keeps everything where there is room', async () => {
    const planned = await plan('--no-probe', ...auto);
    expect([planned.gradientCheckpointing, planned.activationStorage]).toEqual([false, 'f32']);
  });
});
