/** Merging three ways, in processes of its own, and what each says of the logits. */
import { readFileSync } from 'node:fs';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { type Ended, lorikeet, oneObject } from './testing/command-line.ts';
import { makeWorkspace, type TestWorkspace } from './testing/workspace.ts';

interface Report {
  readonly into: string;
  readonly merged: string[];
  readonly files: string[];
  readonly logits: { readonly prompts: number; readonly tokens: number; readonly largest: number; readonly mean: number; readonly sameTop: number } | null;
} // biome-ignore format: one line

let space: TestWorkspace;
let trained: Ended;
const run = (...args: readonly string[]): Promise<Ended> => lorikeet(args, { cwd: space.dir });
async function merge(...args: readonly string[]): Promise<Report> {
  const ended = await run('merge', '--json', ...args);
  if (ended.code !== 0) throw new Error(ended.stderr);
  return oneObject(ended.stdout) as unknown as Report;
}
const score = async (...args: readonly string[]): Promise<number> =>
  oneObject((await run('score', '--ids', '1,40,41,42,43,44', '--json', ...args)).stdout).sum as number;

beforeAll(async () => {
  space = await makeWorkspace();
  const settings = ['--set', 'training.maxSteps=3', '--set', 'training.learningRate=0.01', '--set', 'peft.r=4', '--set', 'training.saveStrategy=no']; // biome-ignore format: one line
  trained = await run('train', '-c', 'run.yaml', ...settings, '--set', 'quantization.loadIn4bit=true', '--set', 'peft.initLoraWeights=loftq', '--set', 'peft.loraAlpha=4', '--output-dir', 'run4'); // biome-ignore format: one line
  if (trained.code !== 0) throw new Error(trained.stderr);
});
afterAll(() => space[Symbol.dispose]());

describe('merge', () => {
  test('a quantized run is printed without its base: it knows how that was loaded', () => {
    expect(trained.stdout).toMatch(/(chat --compare|generate) -a run4\/adapter/);
  });
  test('another width than the run had takes its place', async () => {
    const [eight, asked, four] = [await score('-a', 'run4', '--load-in-8bit'), await score('-a', 'run4', '-m', 'base', '--load-in-8bit'), await score('-a', 'run4')]; // biome-ignore format: one line
    expect(eight).toBe(asked);
    expect(eight).not.toBe(four);
  });
  test('into the dequantized base gives what base and adapter give, to bf16', async () => {
    const { into, logits, merged, files } = await merge('-a', 'run4', '--into', 'dequantized', '-o', 'merged');
    expect([into, merged.length, files.includes('tokenizer.json')]).toEqual(['dequantized', 8, true]);
    expect(logits).toMatchObject({ prompts: 4 });
    expect(logits!.largest).toBeGreaterThan(0);
    expect(logits!.mean).toBeLessThan(0.02);
    expect(logits!.sameTop).toBeGreaterThan(0.9);
    const [one, two] = [await score('-m', 'merged'), await score('-a', 'run4')];
    expect(Math.abs(one - two)).toBeLessThan(0.02 * Math.abs(two));
  });
  test('quantized anew differs more, and loads as it is', async () => {
    const { logits } = await merge('-a', 'run4', '--into', 'quantized', '-o', 'merged4', '--prompt', 'count 3', '--prompt', 'a'); // biome-ignore format: one line
    expect(logits).toMatchObject({ prompts: 2, tokens: 8 });
    expect(logits!.largest).toBeGreaterThan(logits!.mean);
    const inspected = oneObject((await run('inspect', 'merged4', '--json')).stdout);
    expect(JSON.stringify(inspected)).toContain('4 bits (nf4, double quantization)');
    const [one, two] = [await score('-m', 'merged4'), await score('-a', 'run4')];
    expect(Math.abs(one - two)).toBeLessThan(0.2 * Math.abs(two));
  });
  test('into the original weights, compared or not, prints the difference in words', async () => {
    const ended = await run('merge', '-a', 'run4', '-o', 'merged16');
    expect(ended.stdout).toMatch(/Merged into .*merged16 \(original, 8 layers\)/);
    expect(ended.stdout).toMatch(
      /Logits differ from base and adapter by [\d.e-]+ at most, [\d.e-]+ on average; .* \(4 prompts\)/,
    );
    const { logits } = await merge('-a', 'run4', '-m', 'base', '-o', 'merged16', '--force', '--no-compare');
    expect(logits).toBeNull();
  });
  test('says what is missing, and writes nothing', async () => {
    const ended = await run('merge', '-a', 'run4', '-m', 'base', '--into', 'quantized', '-o', 'never');
    expect([ended.code, ended.stderr]).toEqual([2, expect.stringContaining('--load-in-4bit')]);
    expect((await run('quantize', '-m', 'base', '-o', 'base4')).code).toBe(0);
    const into = await run('merge', '-a', 'run4', '-m', 'base4', '-o', 'never');
    expect([into.code, into.stderr]).toEqual([2, expect.stringContaining('--into dequantized')]);
    expect((await run('merge', '-a', 'run4', '--into', 'sideways', '-o', 'never')).code).toBe(2);
    expect((await run('merge', '-a', 'run4', '--prompt', '', '-o', 'never')).code).toBe(2);
    expect(() => space.filesBelow('never')).toThrow();
  });
});

describe('first values from the base', () => {
  test('a run that goes on from a checkpoint gives the same bits, and its adapter fits the original base', async () => {
    const settings = ['--set', 'peft.initLoraWeights=pissa', '--set', 'peft.r=4', '--set', 'training.maxSteps=4', '--set', 'training.saveSteps=2', '--set', 'quantization.loadIn4bit=true']; // biome-ignore format: one line
    const train = (dir: string, ...more: readonly string[]): Promise<Ended> => run('train', '-c', 'run.yaml', ...settings, '--output-dir', dir, ...more); // biome-ignore format: one line
    expect((await train('whole')).code).toBe(0);
    expect((await train('again')).code).toBe(0);
    const file = 'adapter/adapter_model.safetensors';
    expect(space.sha256(`again/${file}`)).toBe(space.sha256(`whole/${file}`));
    const resumed = await train('again', '--resume', 'again/checkpoint-2');
    expect([resumed.code, resumed.stderr.includes('resumed from')]).toEqual([0, true]);
    expect(space.sha256(`again/${file}`)).toBe(space.sha256(`whole/${file}`));
    const adapter = JSON.parse(readFileSync(space.path('whole/adapter/adapter_config.json'), 'utf8')) as Record<string, unknown>; // biome-ignore format: one line
    expect([adapter.r, adapter.init_lora_weights]).toEqual([8, true]);
    // A checkpoint is the adapter as it is trained, with what it took from the base.
    const [from, plain] = [await score('-a', 'whole/checkpoint-4', '-m', 'base'), await score('-a', 'whole', '-m', 'base')]; // biome-ignore format: one line
    expect(Math.abs(from - plain)).toBeLessThan(0.02 * Math.abs(plain));
  });
});
