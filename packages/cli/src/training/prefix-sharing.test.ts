/** Rows with one system prompt, trained in processes of their own: shared and not. */
import { readFileSync } from 'node:fs';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { type Ended, lorikeet, oneObject } from '../testing/command-line.ts';
import { makeWorkspace, type TestWorkspace } from '../testing/workspace.ts';
import { describeSharing } from './prefix-sharing.ts';

let space: TestWorkspace;
const system = 'You are a clerk. Answer with the colour of the thing and with nothing else, in lower case.';
const things = ['grass green', 'snow white', 'coal black', 'sky blue', 'blood red', 'gold yellow', 'mud brown'];

beforeAll(async () => {
  space = await makeWorkspace();
  const row = (i: number): string => {
    const [thing, colour] = things[i % things.length]!.split(' ') as [string, string];
    const messages = [
      { role: 'system', content: system },
      { role: 'user', content: `${thing}${'?'.repeat(1 + (i % 4))}` },
      { role: 'assistant', content: colour },
    ];
    return JSON.stringify({ messages });
  };
  const rows = (count: number): string => `${Array.from({ length: count }, (_, i) => row(i)).join('\n')}\n`;
  space.write('train.jsonl', rows(24));
  space.write('heldout.jsonl', rows(7));
});
afterAll(() => space[Symbol.dispose]());

const set = (...values: readonly string[]): string[] => values.flatMap((value) => ['--set', value]);
const alike = set(
  'peft.loraDropout=0',
  'training.perDeviceTrainBatchSize=4',
  'training.evalStrategy=epoch',
  'training.maxSteps=12',
);
const run = (args: readonly string[]): Promise<Ended> => lorikeet(args, { cwd: space.dir });
const train = (dir: string, ...args: readonly string[]): Promise<Ended> =>
  run(['train', '-c', 'run.yaml', '--json', '--output-dir', dir, ...args]);

interface Line {
  readonly step: number;
  readonly loss?: number;
  readonly evalLoss?: number;
  readonly tokens?: number;
  readonly totalTokens?: number;
}
const logOf = (dir: string): Line[] =>
  readFileSync(space.path(dir, 'log.jsonl'), 'utf8')
    .trimEnd()
    .split('\n')
    .map((line) => JSON.parse(line) as Line);

describe('training.sharePrefix', () => {
  test('gives the same loss curve, counts the same tokens, and resumes to the same bits', async () => {
    const shared = await train('shared', ...alike);
    expect(shared.stderr).toMatch(/rows of a batch begin alike: [5-7]\d % of the tokens need not be computed again/);
    const alone = await train('alone', ...alike, ...set('training.sharePrefix=false'));
    expect(alone.stderr).not.toContain('begin alike');
    const [got, want] = [logOf('shared'), logOf('alone')];
    expect(got.length).toBe(want.length);
    for (const [i, line] of want.entries()) {
      const { tokens, totalTokens } = line;
      expect(got[i]).toMatchObject(tokens === undefined ? {} : { tokens, totalTokens });
      for (const name of ['loss', 'evalLoss'] as const)
        if (line[name] !== undefined) expect(Math.abs(got[i]![name]! - line[name])).toBeLessThan(1e-5);
    }
    const weights = (dir: string): string => space.sha256(`${dir}/adapter/adapter_model.safetensors`);
    const before = weights('shared');
    // Not the same program: the last bits differ.
    expect(weights('alone')).not.toBe(before);
    const resumed = await train('shared', ...alike, '--resume', 'shared/checkpoint-10');
    expect(resumed.stderr).toContain('resumed from');
    expect(resumed.stderr).toContain('step 12/12');
    expect(weights('shared')).toBe(before);
  });

  test('cannot be turned off or on in the middle of a run', async () => {
    const other = await train('shared', ...alike, '--resume', 'auto', ...set('training.sharePrefix=false'));
    expect(other.code).not.toBe(0);
    expect(other.stderr).toContain('sharePrefix');
  });

  test('says once what stands against it, and refuses where it was asked for by name', async () => {
    const dropped = await run(['plan', '-c', 'run.yaml', '--no-probe', ...alike, ...set('peft.loraDropout=0.1')]);
    expect(dropped.stdout.match(/were it not for peft.loraDropout: 0.1, which is drawn/g)).toHaveLength(1);
    const forced = await train('none', ...alike, ...set('training.sharePrefix=true', 'training.neftuneNoiseAlpha=5'));
    expect(forced.code).toBe(2);
    expect(forced.stderr).toContain('training.sharePrefix must not be true');
    expect(forced.stderr).toContain('training.neftuneNoiseAlpha: 5');
  });

  test('is part of a plan: less memory, and a probe that counts all tokens', async () => {
    const plan = async (...args: readonly string[]) =>
      oneObject((await run(['plan', '-c', 'run.yaml', '--json', ...alike, ...args])).stdout) as {
        readonly sharedTokensPart: number;
        readonly tokensPerSecond: number;
        readonly probe: { readonly tokens: number };
        readonly memory: { readonly activations: number };
      };
    const [shared, alone] = [await plan(), await plan(...set('training.sharePrefix=false'))];
    expect(shared.sharedTokensPart).toBeGreaterThan(0.5);
    expect(alone.sharedTokensPart).toBe(0);
    expect(shared.memory.activations).toBeLessThan(0.8 * alone.memory.activations);
    expect(shared.probe.tokens).toBe(alone.probe.tokens);
  });

  test('has nothing to say where rows hardly begin alike', () => {
    expect(describeSharing({ part: 0.04, obstacle: 'peft.loraDropout: 0.1' })).toBeUndefined();
  });
});
