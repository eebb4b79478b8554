/** The whole way of a user in processes of its own: train, eval, chat, merge, inspect. */
import { readFileSync } from 'node:fs';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { type Ended, lorikeet, oneObject } from './testing/command-line.ts';
import { makeWorkspace, mark, type TestWorkspace } from './testing/workspace.ts';

let space: TestWorkspace;
let trained: Ended;
const run = (args: readonly string[], input?: string): Promise<Ended> =>
  lorikeet(args, { cwd: space.dir, ...(input === undefined ? {} : { input }) });
const tuned = ['--model', 'base', '--adapter', 'out'];

beforeAll(async () => {
  space = await makeWorkspace();
  trained = await run(['train', '-c', 'run.yaml', '--json']);
});
afterAll(() => space[Symbol.dispose]());

describe('train', () => {
  test('ends with one JSON object, and with the files it promises', () => {
    expect(trained.stderr).not.toContain('error');
    expect(trained.code).toBe(0);
    expect(oneObject(trained.stdout)).toMatchObject({
      command: 'train',
      status: 'finished',
      step: 16,
      totalSteps: 16,
      lossOn: 'assistant',
      rows: 24,
    });
    const files = space.filesBelow('out');
    for (const name of [
      'adapter/adapter_model.safetensors',
      'adapter/adapter_config.json',
      'checkpoint-16/state.json',
      'log.jsonl',
      'summary.json',
      'config.resolved.yaml',
    ])
      expect(files).toContain(name);
    expect(files.some((name) => name.startsWith('events.out.tfevents'))).toBe(true);
    expect(files.some((name) => name.startsWith('.'))).toBe(false);
  });

  test('lowers the loss', () => {
    const lines = readFileSync(space.path('out/log.jsonl'), 'utf8')
      .trimEnd()
      .split('\n')
      .map((line) => JSON.parse(line) as { step: number; loss: number });
    expect(lines.map(({ step }) => step)).toEqual(Array.from({ length: 16 }, (_, i) => i + 1));
    expect(lines.at(-1)!.loss).toBeLessThan(lines[0]!.loss * 0.8);
  });

  test('says what it will cost before the first step and after the third', () => {
    const before = trained.stderr.indexOf('this run needs about');
    const measured = trained.stderr.indexOf('measured: this run needs about');
    expect(before).toBeGreaterThanOrEqual(0);
    expect(before).toBeLessThan(trained.stderr.indexOf('step 1/16'));
    expect(measured).toBeGreaterThan(trained.stderr.indexOf('step 3/16'));
    expect(measured).toBeLessThan(trained.stderr.indexOf('step 4/16'));
  });

  test('leaves no text of the training rows in anything a user would share', async () => {
    expect(readFileSync(space.path('train.jsonl'), 'utf8')).toContain(mark);
    for (const name of space.filesBelow('out'))
      expect(readFileSync(space.path('out', name)).includes(mark), name).toBe(false);
    expect(trained.stdout + trained.stderr).not.toContain(mark);
    space.write(
      'bad.jsonl',
      `{"messages": [{"role": "user", "content": "${mark}"}, {"role": "${mark}${mark}", "content": 3}]}\n{"messages": "${mark}"\n`,
    );
    const failed = await run([
      'train',
      '-c',
      'run.yaml',
      '--set',
      'data.train=bad.jsonl',
      '--output-dir',
      'bad',
      '--verbose',
    ]);
    expect(failed.code).toBe(3);
    expect(failed.stderr).toMatch(/bad\.jsonl:1: .*role[\s\S]*bad\.jsonl:2: /);
    expect(failed.stderr).not.toContain(mark);
  });

  test('refuses to train over an earlier run, and does it when asked', async () => {
    const refused = await run(['train', '-c', 'run.yaml', '--max-steps', '1']);
    expect(refused.code).toBe(2);
    expect(refused.stderr).toMatch(/checkpoint-16[\s\S]*--resume auto/);
    expect(refused.stderr).not.toContain('    at ');
  });

  test('--dry-run and --print-config train nothing', async () => {
    const dry = await run(['train', '-c', 'run.yaml', '--dry-run', '--output-dir', 'dry', '--json']);
    expect(oneObject(dry.stdout)).toMatchObject({ status: 'planned', step: 0, estimate: { hours: null } });
    const printed = await run(['train', '-c', 'run.yaml', '--print-config']);
    expect(printed.stdout).toContain('learningRate: 0.005');
    expect(printed.stdout).toContain('adamBeta2: 0.999');
    expect(() => space.filesBelow('dry')).toThrow(/ENOENT/);
  });
});

describe('after training', () => {
  test('eval compares base and tuned on the same rows', async () => {
    const ended = await run(['eval', '-c', 'run.yaml', '--exact', '--rouge', '--samples', '2', '--json']);
    const object = oneObject(ended.stdout);
    expect(object).toMatchObject({
      command: 'eval',
      rows: 7,
      verdict: 'better',
      base: { exactMatch: 0 },
      exactMatchVerdict: expect.stringMatching(/no measurable gain|better/),
      rougeLVerdict: expect.stringMatching(/no measurable gain|better/),
    });
    const { base, tuned: after, lossDifference } = object as unknown as Record<string, Record<string, number>>;
    expect(after!.loss).toBeLessThan(base!.loss!);
    expect(lossDifference!.high).toBeLessThan(0);
    for (const type of ['rouge1', 'rouge2', 'rougeL', 'rougeLsum']) {
      const { low, mid, high } = (after as unknown as { rouge: Record<string, Record<string, number>> }).rouge[type]!;
      expect([low, mid, high]).toEqual([low, mid, high].toSorted((a, b) => a! - b!));
      expect(high).toBeLessThanOrEqual(1);
    }
    expect(object.samples).toHaveLength(2);
  });

  test('an interval that holds zero is reported as no measurable gain', async () => {
    // The same model twice: an adapter that was made with learning rate 0.
    const zero = await run([
      'train',
      '-c',
      'run.yaml',
      '--output-dir',
      'zero',
      '--max-steps',
      '1',
      '--set',
      'training.learningRate=0',
    ]);
    expect(zero.code).toBe(0);
    const ended = await run(['eval', '-m', 'base', '-a', 'zero', '-d', 'heldout.jsonl']);
    expect(ended.stdout).toContain('no measurable gain');
    expect(ended.stdout).not.toContain('better');
  });

  test('chat reads piped lines, /reset and /quit, and compares', async () => {
    const lines = '안녕하세요\n/reset\ncount 1\n/quit\nnever read\n';
    const ended = await run(['chat', ...tuned, '--compare', '--max-new-tokens', '8', '--json'], lines);
    expect(ended.code).toBe(0);
    const { turns } = oneObject(ended.stdout) as { turns: { user: string; assistant: string; base: string }[] };
    expect(turns.map(({ user }) => user)).toEqual(['안녕하세요', 'count 1']);
    expect(turns.every(({ base, assistant }) => base.isWellFormed() && assistant.isWellFormed())).toBe(true);
    const plain = await run(['chat', ...tuned, '--max-new-tokens', '4'], 'count 1\n');
    expect(plain.code).toBe(0);
    expect(plain.stdout).toMatch(/^model> /);
  });

  test('text that spells a special token is plain text', async () => {
    const ids = async (prompt: string): Promise<number[]> => {
      const ended = await run(['generate', '-m', 'base', '-p', prompt, '--max-new-tokens', '1', '--json']);
      return oneObject(ended.stdout).promptIds as number[];
    };
    const [plain, spelled] = [await ids('x'), await ids('<|end|>')];
    const special = plain.filter((id) => id >= 354);
    expect(special.length).toBeGreaterThan(0);
    expect(spelled.filter((id) => id >= 354)).toEqual(special);
  });

  test('generate is greedy by default, and a seed repeats a sample', async () => {
    const generate = async (...more: string[]): Promise<unknown> =>
      oneObject(
        (await run(['generate', ...tuned, '-p', 'count 2', '--max-new-tokens', '12', '--json', ...more])).stdout,
      ).ids;
    expect(await generate()).toEqual(await generate('--greedy'));
    const sampled = ['--temperature', '1.5', '--top-k', '40', '--top-p', '0.95', '--seed', '3'];
    expect(await generate(...sampled)).toEqual(await generate(...sampled));
  });

  test('merge makes a model folder that scores as base and adapter do, and replaces nothing unasked', async () => {
    const merged = await run(['merge', ...tuned, '--out', 'merged', '--json']);
    expect(oneObject(merged.stdout).files).toEqual([
      'config.json',
      'generation_config.json',
      'model.safetensors',
      'tokenizer.json',
      'tokenizer_config.json',
    ]);
    const again = await run(['merge', ...tuned, '--out', 'merged']);
    expect([again.code, again.stderr.includes('--force')]).toEqual([2, true]);
    expect((await run(['merge', ...tuned, '--out', 'merged', '--force'])).code).toBe(0);
    expect((await run(['merge', ...tuned, '--out', 'base', '--force'])).code).toBe(2);
    expect((await run(['merge', ...tuned, '--out', 'out', '--force'])).code).toBe(2);
    const sum = async (...model: string[]): Promise<number> =>
      oneObject((await run(['score', ...model, '--text', 'ab한ab', '--json'])).stdout).sum as number;
    const [one, two, base] = [await sum('-m', 'merged'), await sum(...tuned), await sum('-m', 'base')];
    // The merged weights are rounded to the base's bf16.
    expect(Math.abs(one - two)).toBeLessThan(0.05 * Math.abs(two));
    expect(Math.abs(one - base)).toBeGreaterThan(Math.abs(one - two));
  });

  test.each([
    ['base', 'model'], ['out/adapter', 'adapter'], ['out/checkpoint-16', 'checkpoint'], ['out', 'run'], ['base/model.safetensors', 'safetensors'],
  ])('inspect says that %s is a %s', async (path, kind) => {
    expect(oneObject((await run(['inspect', path, '--json'])).stdout)).toMatchObject({ command: 'inspect', kind });
  }); // biome-ignore format: a table

  test('init writes a configuration that trains, and does not overwrite', async () => {
    const made = await run(['init', 'train.jsonl', '-m', 'base', '-o', 'new.yaml', '--json']);
    expect(oneObject(made.stdout)).toMatchObject({ command: 'init', format: 'messages', rows: 24 });
    const checked = await run(['train', '-c', 'new.yaml', '--dry-run', '--json']);
    expect(oneObject(checked.stdout)).toMatchObject({ status: 'planned' });
    const again = await run(['init', 'train.jsonl', '-o', 'new.yaml']);
    expect([again.code, again.stderr.includes('--force')]).toEqual([2, true]);
    expect(readFileSync(space.path('new.yaml'), 'utf8')).toContain('# Peak learning rate');
  });

  test('data check and preview, doctor', async () => {
    const check = oneObject((await run(['data', 'check', 'train.jsonl', '-m', 'base', '--json'])).stdout);
    expect(check).toMatchObject({ command: 'data check', rows: 24, format: 'messages', report: { rows: 24 } });
    const preview = await run(['data', 'preview', 'heldout.jsonl', '-m', 'base', '--rows', '1']);
    expect(preview.stdout).toContain('[[ab한 <|end|>\n<|endoftext|>]]');
    const rows = oneObject(
      (await run(['data', 'preview', 'heldout.jsonl', '-m', 'base', '--rows', '2', '--json'])).stdout,
    );
    expect(rows).toMatchObject({ command: 'data preview', rows: [{ line: 1, trainedTokens: 9 }, { line: 2 }] });
    const examined = await run(['doctor', '--json']);
    expect(examined.code).toBe(0);
    const doctor = oneObject(examined.stdout);
    expect(doctor).toMatchObject({
      command: 'doctor',
      chosen: 'cpu',
      cpu: {
        found: true,
        details: { kernels: expect.arrayContaining(['matmul', 'attention']), switchedOff: [] },
        limits: { multiplyAddGflops: expect.any(Number), copyGbPerSecond: expect.any(Number) },
        missingForSpeed: expect.any(Array),
      },
    });
    expect(
      (doctor.webgpu as { found: boolean; missing?: string }).found ||
        (doctor.webgpu as { missing: string }).missing.length > 20,
    ).toBe(true);
  });
});
