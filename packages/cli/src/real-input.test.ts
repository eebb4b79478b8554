/** What others made: a trained model in Phi-3 form without a chat template, stories as plain text, instructions as chats. */
import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { type Ended, lorikeet, oneObject } from './testing/command-line.ts';

const data = resolve(import.meta.dirname, '../../../../shared/data');
const model = join(data, 'stories260k/phi3');
const stories = join(data, 'tinystories-valid-sample/tinystories_val.txt');
const instructions = join(data, 'instruct-1100');
const isAbsent = ![model, stories, instructions].every((path) => existsSync(path));
const reason = 'skipped: shared/data is not there';

const dir = mkdtempSync(join(tmpdir(), 'lorikeet-real-'));
afterAll(() => rmSync(dir, { recursive: true }));
const run = (...args: string[]): Promise<Ended> => lorikeet([...args, '--json'], { cwd: dir });
const templatePath = join(dir, 'out/chats/adapter/chat_template.jinja');
const trainingLines = `
  overwriteOutputDir: true
  maxSteps: 40
  warmupSteps: 4
  lrSchedulerType: cosine
  saveStrategy: 'no'
  evalStrategy: 'no'
peft: {r: 8, loraAlpha: 16}
`;

interface Comparison {
  readonly base: { readonly loss: number };
  readonly tuned: { readonly loss: number };
  readonly verdict: string;
}

/** Trains, then measures base and adapter in a process of its own. */
async function trainAndEvaluate(config: string): Promise<Comparison> {
  const trained = await run('train', '-c', config);
  expect(trained).toMatchObject({ code: 0 });
  const evaluated = await run('eval', '-c', config, '--limit', '40');
  expect(evaluated).toMatchObject({ code: 0 });
  return oneObject(evaluated.stdout) as unknown as Comparison;
}

test('greedy text is the documented one, token by token', async (ctx) => {
  if (isAbsent) ctx.skip(reason);
  const { promptIds, ids } = JSON.parse(readFileSync(join(data, 'stories260k/greedy.json'), 'utf8')) as {
    promptIds: number[];
    ids: number[];
  };
  const options = ['--prompt', '', '--max-new-tokens', `${ids.length - 1}`];
  const made = await run('generate', '-m', model, '--greedy', '--raw', ...options);
  // The recording's ids begin with the prompt, a BOS.
  expect(oneObject(made.stdout)).toMatchObject({ promptIds, ids: ids.slice(1) });
  expect(oneObject(made.stdout).text).toMatch(
    /^Once upon a time, there was a little girl named Lily\. She loved to play outside in the park\./,
  );
});

test('stories as plain text: held-out loss falls', async (ctx) => {
  if (isAbsent) ctx.skip(reason);
  writeFileSync(
    join(dir, 'stories.yaml'),
    `model: ${model}
data: {train: ${stories}, testSize: 100, maxLength: 192}
training:
  outputDir: out/stories
  learningRate: 2.0e-3
  perDeviceTrainBatchSize: 8${trainingLines}`,
  );
  const { base, tuned, verdict } = await trainAndEvaluate('stories.yaml');
  expect(verdict).toBe('better');
  expect(tuned.loss).toBeLessThan(base.loss - 0.1);
  // The base's own template is no business of an adapter.
  expect(existsSync(join(dir, 'out/stories/adapter/chat_template.jinja'))).toBe(false);
});

describe('instructions as chats, with a template by name', () => {
  let compared: Comparison;
  beforeAll(async () => {
    if (isAbsent) return;
    const [train, held] = ['train', 'valid'].map((part) => join(instructions, `messages.${part}.jsonl`));
    writeFileSync(
      join(dir, 'chats.yaml'),
      `model: {path: ${model}, chatTemplate: plain}
data: {train: ${train}, eval: ${held}, maxLength: 256}
training:
  outputDir: out/chats
  learningRate: 5.0e-3
  perDeviceTrainBatchSize: 8${trainingLines}`,
    );
    compared = await trainAndEvaluate('chats.yaml');
  });

  test('held-out loss falls', (ctx) => {
    if (isAbsent) ctx.skip(reason);
    expect(compared.verdict).toBe('better');
    expect(compared.tuned.loss).toBeLessThan(compared.base.loss - 1);
  });

  test('the adapter brings its template to generate and chat', async (ctx) => {
    if (isAbsent) ctx.skip(reason);
    expect(readFileSync(templatePath, 'utf8')).toContain('eos_token');
    const asked = ['--adapter', 'out/chats', '--greedy', '--max-new-tokens', '24', '--prompt', 'What is an atom?'];
    const made = oneObject((await run('generate', ...asked)).stdout);
    const chat = await lorikeet(['chat', '-a', 'out/chats', '--greedy', '--max-new-tokens', '24', '--json'], {
      cwd: dir,
      input: 'What is an atom?\n',
    });
    expect(oneObject(chat.stdout)).toMatchObject({ turns: [{ user: 'What is an atom?', assistant: made.text }] });
  });

  test('where a right answer ends, the tuned model is readier to end', async (ctx) => {
    if (isAbsent) ctx.skip(reason);
    const held = join(instructions, 'messages.valid.jsonl');
    const shown = await run('data', 'preview', held, '-m', model, '--chat-template', 'plain', '--rows', '1');
    const [row] = oneObject(shown.stdout).rows as [{ tokens: { id: number; token: string; trained: boolean }[] }];
    expect(row.tokens.at(-1)).toMatchObject({ token: '</s>', trained: true });
    const ids = row.tokens.map(({ id }) => id).join(',');
    const endOf = async (...which: string[]) => {
      const { tokens } = oneObject((await run('score', ...which, '--ids', ids)).stdout);
      return (tokens as { logprob: number }[]).at(-1)!.logprob;
    };
    const [base, tuned] = [await endOf('-m', model), await endOf('-a', 'out/chats')];
    expect(tuned).toBeGreaterThan(base + 2);
  });

  test('the merged model has the template, and says the same', async (ctx) => {
    if (isAbsent) ctx.skip(reason);
    expect((await run('merge', '-a', 'out/chats', '-o', 'merged')).code).toBe(0);
    expect(readFileSync(join(dir, 'merged/chat_template.jinja'), 'utf8')).toBe(readFileSync(templatePath, 'utf8'));
    const asked = ['--greedy', '--chat', '--max-new-tokens', '24', '--prompt', 'Convert 3 meters to feet.'];
    const [merged, adapted] = [
      await run('generate', '-m', 'merged', ...asked),
      await run('generate', '-a', 'out/chats', ...asked),
    ];
    expect(oneObject(merged.stdout).text).toBe(oneObject(adapted.stdout).text);
  });

  test('a template file, with the key as Python spells it, does the same', async (ctx) => {
    if (isAbsent) ctx.skip(reason);
    const lines = readFileSync(join(dir, 'chats.yaml'), 'utf8')
      .replace(', chatTemplate: plain', '')
      .replace('training:\n', `training:\n  chat_template_path: ${templatePath}\n`);
    writeFileSync(join(dir, 'file.yaml'), lines);
    const [byFile, byName] = [
      await run('train', '-c', 'file.yaml', '--dry-run'),
      await run('train', '-c', 'chats.yaml', '--dry-run'),
    ];
    expect(byFile.code).toBe(0);
    const tokensOf = ({ stdout }: Ended) => (oneObject(stdout).estimate as { tokens: number }).tokens;
    expect(tokensOf(byFile)).toBe(tokensOf(byName));
  });

  test('init chooses a template for a model that has none', async (ctx) => {
    if (isAbsent) ctx.skip(reason);
    const rows = join(instructions, 'instruction-data.json');
    expect((await run('init', rows, '-m', model, '-o', 'new.yaml')).code).toBe(0);
    expect(readFileSync(join(dir, 'new.yaml'), 'utf8')).toMatch(/chatTemplate: plain/);
    expect((await run('train', '-c', 'new.yaml', '--dry-run')).code).toBe(0);
  });
});

describe('without a template', () => {
  const rows = join(instructions, 'messages.valid.jsonl');
  const cases: readonly (readonly [string, readonly string[], string])[] = [
    ['train', ['train', '-c', 'none.yaml'], 'Set model.chatTemplate: plain'],
    ['eval', ['eval', '-m', model, '-d', rows], 'Add --chat-template plain'],
    ['chat', ['chat', '-m', model], 'Add --chat-template plain'],
    ['generate --chat', ['generate', '-m', model, '--chat', '--prompt', 'a'], 'Add --chat-template plain'],
    ['data preview', ['data', 'preview', rows, '-m', model], 'Add --chat-template plain'],
  ];
  for (const [name, args, fix] of cases)
    test(`${name} says how to give one`, async (ctx) => {
      if (isAbsent) ctx.skip(reason);
      writeFileSync(join(dir, 'none.yaml'), `model: ${model}\ndata: {train: ${rows}}\n`);
      const { code, stdout } = await run(...args);
      expect(code).toBe(2);
      expect(oneObject(stdout)).toMatchObject({ error: { fix: expect.stringContaining(fix) } });
    });

  test('a template whose tokens the model lacks, two at once, and a path without one are refused', async (ctx) => {
    if (isAbsent) ctx.skip(reason);
    const refused = async (...set: string[]) => {
      const { code, stdout } = await run('train', '-c', 'none.yaml', ...set.flatMap((s) => ['--set', `model.${s}`]));
      expect([2, 3]).toContain(code);
      return (oneObject(stdout).error as { message: string }).message;
    };
    writeFileSync(join(dir, 'none.yaml'), `model: ${model}\ndata: {train: ${rows}}\n`);
    expect(await refused('chatTemplate=phi3')).toContain('<|assistant|>');
    expect(await refused('chatTemplate=plain', 'chatTemplatePath=x')).toContain('not both');
    expect(await refused('chatTemplatePath=nowhere.jinja')).toContain('there is nothing');
    expect(await refused(`chatTemplatePath=${model}`)).toContain('the folder has none');
  });
});

test('the planned memory is what the process takes', async (ctx) => {
  if (isAbsent) ctx.skip(reason);
  writeFileSync(
    join(dir, 'plan.yaml'),
    `model: ${model}
data: {train: ${stories}, testSize: 0, packing: true, maxLength: 1024, maxRows: 1000}
training: {outputDir: out/plan, perDeviceTrainBatchSize: 8, maxSteps: 2, saveStrategy: 'no'}
`,
  );
  const planned = oneObject((await run('train', '-c', 'plan.yaml', '--dry-run')).stdout);
  const trained = oneObject((await run('train', '-c', 'plan.yaml')).stdout);
  const expectedBytes = (planned.estimate as { peakBytes: number }).peakBytes;
  // The process itself, JavaScript's heap above all, comes and goes by tens of MiB.
  expect(expectedBytes / (trained.peakBytes as number)).toBeGreaterThan(0.75);
  expect(expectedBytes / (trained.peakBytes as number)).toBeLessThan(1.35);
});

test('what cannot fit stops before anything is loaded, and says what to change', async (ctx) => {
  if (isAbsent) ctx.skip(reason);
  writeFileSync(
    join(dir, 'huge.yaml'),
    `model: ${model}
data: {train: ${stories}, packing: true, maxLength: 100000}
training: {outputDir: out/huge, perDeviceTrainBatchSize: 4000}
`,
  );
  const { code, stdout, stderr } = await run('train', '-c', 'huge.yaml');
  expect(code).toBe(4);
  const { message } = oneObject(stdout).error as { message: string };
  expect(message).toMatch(
    /must fit into .* of memory.* needs about .*activations .*To change: .*perDeviceTrainBatchSize: \d+ and training\.gradientAccumulationSteps: 2 \(saves .*B\)/,
  );
  expect(stderr).not.toContain('parameters');
  expect(existsSync(join(dir, 'out/huge'))).toBe(false);
});
