/** A 4-bit base the whole way of a user: quantize, inspect, train, eval, generate, and on the fly instead. */
import { readFileSync } from 'node:fs';
import { nodeFiles, readJson } from '@lorikeet/files';
import { openCheckpoint } from '@lorikeet/safetensors';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { isTight } from './commands/init.ts';
import { loadedWeightBytes } from './model/quantization.ts';
import { type Ended, lorikeet, oneObject } from './testing/command-line.ts';
import { makeWorkspace, type TestWorkspace } from './testing/workspace.ts';

let space: TestWorkspace;
let quantized: Ended;
const run = (...args: readonly string[]): Promise<Ended> => lorikeet(args, { cwd: space.dir });
const score = async (...args: readonly string[]): Promise<number> => {
  const ended = await run('score', '--ids', '1,40,41,42,43,44', '--json', ...args);
  expect(ended.stderr).not.toContain('error');
  return oneObject(ended.stdout).sum as number;
};

beforeAll(async () => {
  space = await makeWorkspace();
  quantized = await run('quantize', '--model', 'base', '--out', 'base4', '--json', '--max-shard-size', '0.00005');
});
afterAll(() => space[Symbol.dispose]());

describe('quantize', () => {
  test('writes a folder that says what it is, sharded, with the tokenizer', async () => {
    expect(quantized).toMatchObject({ code: 0 });
    const report = oneObject(quantized.stdout) as { files: string[]; quantized: string[] };
    expect(report.quantized).toHaveLength(8);
    expect(report.files).toEqual(
      expect.arrayContaining(['config.json', 'tokenizer.json', 'model.safetensors.index.json']),
    );
    expect(space.filesBelow('base4').toSorted()).toEqual([...report.files, 'MANIFEST.json'].toSorted());
    expect(await readJson(nodeFiles(), space.path('base4/config.json'))).toMatchObject({
      quantization_config: {
        load_in_4bit: true,
        bnb_4bit_quant_type: 'nf4',
        bnb_4bit_use_double_quant: true,
        bnb_4bit_compute_dtype: 'bfloat16',
        quant_method: 'bitsandbytes',
      },
    });
    const { entries } = await openCheckpoint(nodeFiles(), space.path('base4'));
    expect(entries.get('lm_head.weight')!.dtype).toBe('bf16');
    expect(entries.get('model.layers.1.mlp.down_proj.weight')).toMatchObject({ dtype: 'u8', shape: [1024, 1] });
  });
  test('names what skips nothing, and refuses what is no expression', async () => {
    const ended = await run('quantize', '-m', 'base', '-o', 'misspelt', '--skip', 'lm_heads');
    expect([ended.code, ended.stderr]).toEqual([0, expect.stringContaining('"lm_heads" is no linear of this model')]);
    const refused = await run('quantize', '-m', 'base', '-o', 'never', '--skip', '(');
    expect([refused.code, refused.stderr]).toEqual([2, expect.stringContaining('names or regular expressions')]);
    expect(() => space.filesBelow('never')).toThrow();
  });
  test('loftq must have the weights from before, and is told their width', async () => {
    const loftq = ['train', '-c', 'run.yaml', '--dry-run', '--set', 'peft.initLoraWeights=loftq'];
    const refused = await run(...loftq, '--set', 'model.path=base4');
    expect([refused.code, refused.stderr]).toEqual([2, expect.stringContaining('the folder of the 16-bit model')]);
    const wide = await run(...loftq, '--set', 'quantization.loadIn8bit=true');
    expect([wide.code, wide.stderr]).toEqual([0, expect.stringContaining('loftqBits: 4, and the base is in 8 bits')]);
    const right = await run(...loftq, '--set', 'quantization.loadIn4bit=true');
    expect([right.code, right.stderr]).toEqual([0, expect.not.stringContaining('loftqBits')]);
  });
  test('is what loading in 4 bits computes, token by token', async () => {
    const stored = await score('--model', 'base4');
    expect(await score('--model', 'base', '--load-in-4bit')).toBe(stored);
    expect(await score('--model', 'base4', '--load-in-4bit')).toBe(stored);
    const dense = await score('--model', 'base');
    expect(stored).not.toBe(dense);
    expect(Math.abs(stored - dense)).toBeLessThan(0.1 * Math.abs(dense));
    const int8 = await score('--model', 'base', '--load-in-8bit');
    expect(Math.abs(int8 - dense)).toBeLessThan(Math.abs(stored - dense));
  });
  test('has other codes, plain scales, 8 bits and dense layers where asked', async () => {
    const ended = await run(
      'quantize',
      '-m',
      'base',
      '-o',
      'other',
      '--quant-type',
      'fp4',
      '--no-double-quant',
      '--skip',
      'o_proj',
      '--skip',
      'lm_head',
    );
    expect(ended).toMatchObject({ code: 0 });
    expect(ended.stdout).toContain('6 linears in 4 bits (fp4)');
    expect(ended.stderr).not.toContain('skips nothing');
    const { entries } = await openCheckpoint(nodeFiles(), space.path('other'));
    expect(entries.get('model.layers.0.self_attn.o_proj.weight')!.dtype).toBe('bf16');
    expect(entries.get('model.layers.0.mlp.down_proj.weight.absmax')!.dtype).toBe('f32');
    expect(await run('quantize', '-m', 'base', '-o', 'eight', '--int8')).toMatchObject({ code: 0 });
    expect(await score('--model', 'eight')).toBe(await score('--model', 'base', '--load-in-8bit'));
  });
  test.each([
    [['-o', 'base4'], 2, 'must not exist yet'],
    [['-o', 'base'], 2, 'must not be a folder that is read from'],
    [['-o', 'n', '--quant-type', 'int4'], 2, '--quant-type'],
    [['-o', 'n', '--int8', '--quant-type', 'nf4'], 2, 'cannot be used with'],
  ])('refuses %j', async (flags, code, message) => {
    const ended = await run('quantize', '-m', 'base', ...flags);
    expect(ended).toMatchObject({ code, stderr: expect.stringContaining(message) });
    expect(space.filesBelow('.').some((name) => name.startsWith('n/') || name.includes('.tmp-'))).toBe(false);
  });
  test('refuses a model that is quantized already', async () => {
    expect(await run('quantize', '-m', 'base4', '-o', 'twice')).toMatchObject({
      code: 3,
      stderr: expect.stringContaining('the model must not be quantized yet'),
    });
  });
});

test('inspect says how a model is quantized, and counts its parameters as they were', async () => {
  const shown = (await run('inspect', 'base4', '--limit', '15')).stdout;
  expect(shown).toContain('model.layers.1.mlp.down_proj.weight ');
  expect(shown).not.toContain('quant_map');
  const facts = async (dir: string) =>
    oneObject((await run('inspect', dir, '--json')).stdout).facts as Record<string, unknown>;
  const [dense, four, eight] = [await facts('base'), await facts('base4'), await facts('eight')];
  expect(four).toMatchObject({ quantization: '4 bits (nf4, double quantization)', parameters: dense.parameters });
  expect(eight).toMatchObject({ quantization: '8 bits (LLM.int8)', parameters: dense.parameters });
  expect(dense).not.toHaveProperty('quantization');
});

test('a run on a 4-bit base learns, evaluates and generates; its adapter remembers the base', async () => {
  const trained = await run(
    'train',
    '-c',
    'run.yaml',
    '--json',
    '--set',
    'quantization.load_in_4bit=true',
    '--output-dir',
    'qlora',
  );
  expect(trained).toMatchObject({ code: 0 });
  expect(trained.stderr).toContain('base is quantized while it is loaded, in 4 bits (nf4, double quantization)');
  expect(trained.stderr).toContain('embeddings and lm_head stay in 16 bits');
  const losses = readFileSync(space.path('qlora/log.jsonl'), 'utf8')
    .trimEnd()
    .split('\n')
    .map((line) => JSON.parse(line).loss as number);
  expect(losses.at(-1)).toBeLessThan(losses[0]! * 0.8);
  const evaluated = await run('eval', '--adapter', 'qlora', '--data', 'heldout.jsonl', '--json');
  expect(evaluated).toMatchObject({ code: 0, stderr: expect.stringContaining('in 4 bits') });
  expect(oneObject(evaluated.stdout)).toMatchObject({ verdict: 'better' });
  expect(await score('--adapter', 'qlora')).toBe(await score('--model', 'base4', '--adapter', 'qlora'));
  const said = await run('generate', '--adapter', 'qlora', '--prompt', 'count 3', '--json', '--max-new-tokens', '4');
  expect(said).toMatchObject({ code: 0 });
});

test('init offers 4 bits where 16 leave too little memory', async () => {
  const [files, dir] = [nodeFiles(), space.path('base')];
  const bytes = await loadedWeightBytes(files, dir, { config: undefined, stored: false });
  expect(await isTight(files, dir, bytes)).toBe(true);
  expect(await isTight(files, dir, 2 * bytes)).toBe(false);
  expect(await isTight(files, space.path('base4'), 1)).toBe(false); // as small as it gets
  expect(await run('init', 'train.jsonl', '--model', 'base', '--out', 'new.yaml')).toMatchObject({ code: 0 });
  expect(readFileSync(space.path('new.yaml'), 'utf8')).not.toContain('quantization');
});

test('a folder of 4 bits is not taken for one of 8', async () => {
  expect(await run('score', '--ids', '1,2,3', '--model', 'base4', '--load-in-8bit')).toMatchObject({
    code: 2,
    stderr: expect.stringContaining('the folder is quantized otherwise'),
  });
});
