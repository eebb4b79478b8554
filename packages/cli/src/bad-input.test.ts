/** Bad input gives its exit code and one clear message: no stack, nothing half-written. */
import { copyFileSync, existsSync, mkdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { Writable } from 'node:stream';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { runCli } from './program.ts';
import { makeWorkspace, type TestWorkspace } from './testing/workspace.ts';

let space: TestWorkspace;
beforeAll(async () => {
  space = await makeWorkspace();
});
afterAll(() => space[Symbol.dispose]());

/** Runs a command line in this process: faster than a process of its own, for errors that come before any work. */
async function attempt(args: readonly string[]): Promise<{ code: number; stdout: string; stderr: string }> {
  const texts = { stdout: '', stderr: '' };
  const recorder = (name: 'stdout' | 'stderr') =>
    new Writable({
      write: (chunk, _encoding, done) => {
        texts[name] += String(chunk);
        done();
      },
    }) as unknown as NodeJS.WriteStream;
  const code = await runCli(args, { stdout: recorder('stdout'), stderr: recorder('stderr') });
  return { code, ...texts };
}

/** The message in both forms, and nothing of a stack. */
async function refused(args: readonly string[], code: number): Promise<string> {
  const plain = await attempt(args);
  expect(plain.stderr).toMatch(/^(note: .*\n|this run needs.*\n)*error: /);
  expect(plain.stderr).not.toMatch(/^ {4}at /m);
  expect(plain.code).toBe(code);
  const json = await attempt([...args, '--json']);
  expect(json.stdout.trimEnd().split('\n')).toHaveLength(1);
  expect(JSON.parse(json.stdout)).toMatchObject({ error: { exitCode: code, message: expect.stringMatching(/\S/) } });
  return plain.stderr;
}

const config = (): string => space.path('run.yaml');
const set = (...pairs: string[]): string[] => pairs.flatMap((pair) => ['--set', pair]);

/** A copy of the tiny model with some files changed. */
function brokenModel(name: string, change: (dir: string) => void): string {
  const dir = space.path(name);
  mkdirSync(dir, { recursive: true });
  for (const file of [
    'config.json',
    'generation_config.json',
    'model.safetensors',
    'tokenizer.json',
    'tokenizer_config.json',
  ])
    copyFileSync(space.path('base', file), `${dir}/${file}`);
  change(dir);
  return dir;
}
const editJson = (path: string, edit: (json: Record<string, unknown>) => void): void => {
  const json = JSON.parse(readFileSync(path, 'utf8')) as Record<string, unknown>;
  edit(json);
  writeFileSync(path, JSON.stringify(json));
};

describe('options', () => {
  test.each([
    [['train']], [['nonsense']], [['train', '-c', 'x.yaml', '--max-steps', '0']], [['doctor', '--threads', 'two']], [['doctor', '--device', 'tpu']],
    [['generate', '-m', 'x', '-p', 'a', '--top-p', '2']], [['score', '-m', 'x', '--ids', '1,a']], [['score', '-m', 'x', '--ids', '1', '--text', 'a']],
    [['generate', '-p', 'a']], [['chat']], [['chat', '-m', 'x', '--compare']], [['merge', '-m', 'x', '-o', 'y']], [['eval']], [['data', 'check', 'no.jsonl']],
    [['inspect', 'no-such-file']], [['train', '-c', 'no.yaml']], [['generate', '-m', 'no-such-dir', '-p', 'a']], [['eval', '-d', 'no.jsonl', '-m', 'x']],
  ])('%j', async (args) => {
    await refused(args, 2);
  }); // biome-ignore format: a table

  test('--help and --version are no errors', async () => {
    expect((await attempt(['--version'])).code).toBe(0);
    expect((await attempt(['train', '--help'])).code).toBe(0);
    expect((await attempt([])).stdout).toContain('demo');
  });
});

describe('the folder of the model', () => {
  const commands = (dir: string): readonly (readonly string[])[] => [
    ['train', '-c', config(), ...set(`model.path=${JSON.stringify(dir)}`)],
    ['plan', '-c', config(), ...set(`model.path=${JSON.stringify(dir)}`)],
    ['quantize', '-m', dir, '-o', space.path('made')],
    ['merge', '-m', dir, '-a', space.path('adapter-only'), '-o', space.path('made')],
    ['generate', '-m', dir, '-p', 'a'],
  ];
  test('that is not there, or is no model, is an error of its own', async () => {
    mkdirSync(space.path('adapter-only'), { recursive: true });
    writeFileSync(space.path('adapter-only/adapter_config.json'), '{}');
    for (const args of commands(space.path('no-such-model')))
      expect(await refused(args, 2), args[0]!).toMatch(/model.*: must be a folder: there is none/);
    for (const args of commands(space.path('adapter-only')))
      expect(await refused(args, 3), args[0]!).toMatch(
        /model.*: must be the folder of a model: it holds no config\.json/,
      );
    expect(existsSync(space.path('made'))).toBe(false);
  });
});

describe('configuration and data', () => {
  test('a target that matches nothing lists the linears, before anything is loaded', async () => {
    const text = await refused(['train', '-c', config(), ...set('peft.targetModules=[q_proj]')], 2);
    expect(text).toMatch(/q_proj is part of qkv_proj here.*gate_up_proj/);
    expect(existsSync(space.path('out'))).toBe(false);
  });

  test('a run that cannot fit stops before loading, with what to change', async () => {
    const text = await refused(
      [
        'train',
        '-c',
        config(),
        ...set('data.maxLength=400', 'training.perDeviceTrainBatchSize=24', 'peft.r=100000000'),
      ],
      4,
    );
    expect(text).toMatch(/it needs about .*To change: .*set peft\.r: 50000000/);
  });

  const rows: readonly (readonly [name: string, content: string | Uint8Array, code: number, message: RegExp])[] = [
    ['empty', '', 3, /is empty/],
    ['blank lines', '\n\n  \n', 3, /is empty/],
    ['UTF-16', Buffer.from('\ufeff{"text": "a"}', 'utf16le'), 3, /UTF-16/],
    ['not JSON', '{"messages": [}\n', 3, /:1: must be JSON/],
    ['NUL byte', '{"text": "a\0"}\n', 3, /:1: .*NUL/],
    [
      'content null',
      '{"messages": [{"role": "user", "content": null}, {"role": "assistant", "content": "a"}]}',
      3,
      /:1: messages\[0\]\.content must be a text: got null/,
    ],
    ['no assistant', '{"messages": [{"role": "user", "content": "a"}]}', 3, /turn of the assistant/],
    ['prototype', '{"__proto__": {"messages": []}}', 3, /known format/],
    ['unknown format', '{"foo": 1}', 3, /known format/],
  ];
  test.each(rows)('data: %s', async (name, content, code, message) => {
    writeFileSync(space.path('rows.jsonl'), content);
    expect(
      await refused(['train', '-c', config(), ...set(`data.train=${JSON.stringify(space.path('rows.jsonl'))}`)], code),
      name,
    ).toMatch(message);
    expect(await refused(['data', 'check', space.path('rows.jsonl')], code), name).toMatch(message);
    expect(existsSync(space.path('out'))).toBe(false);
  });

  test('rows so long that nothing learned remains', async () => {
    expect(await refused(['train', '-c', config(), ...set('data.maxLength=4')], 3)).toMatch(
      /some token must be trained: none of 24 rows/,
    );
  });

  test('one row, and fewer rows than a batch, train', async () => {
    writeFileSync(space.path('one.jsonl'), `${readFileSync(space.path('train.jsonl'), 'utf8').split('\n')[0]}\n`);
    const one = `data.train=${JSON.stringify(space.path('one.jsonl'))}`;
    const ended = await attempt([
      'train',
      '-c',
      config(),
      '--output-dir',
      space.path('one'),
      '--max-steps',
      '2',
      ...set(one),
    ]);
    expect(ended.stderr).not.toContain('error');
    expect(ended.code).toBe(0);
  });

  test('held-out rows that are training rows are told', async () => {
    const same = `data.eval=${JSON.stringify(space.path('train.jsonl'))}`;
    const ended = await attempt(['train', '-c', config(), '--dry-run', ...set(same)]);
    expect(ended.stderr).toMatch(/held-out rows are training rows too/);
  });

  test('a bad row is left out and counted when asked', async () => {
    writeFileSync(space.path('some.jsonl'), `${readFileSync(space.path('train.jsonl'), 'utf8')}\n{"messages": 3}\n`);
    const options = set(`data.train=${JSON.stringify(space.path('some.jsonl'))}`, 'data.onBadRow=skip');
    const ended = await attempt(['train', '-c', config(), '--dry-run', '--json', ...options]);
    expect(JSON.parse(ended.stdout)).toMatchObject({ rows: 24 });
    expect(ended.stderr).toMatch(/left out 1 bad rows; the first: line 25/);
  });
});

describe('models', () => {
  const headers: readonly (readonly [name: string, bytes: Uint8Array, message: RegExp])[] = [
    ['7 bytes', new Uint8Array(7), /not a safetensors file \(7 bytes\)/],
    ['header of 2^64-1 bytes', new Uint8Array(64).fill(255), /must have at most 100000000 bytes/],
    ['header beyond the file', Uint8Array.of(200, 0, 0, 0, 0, 0, 0, 0, 0x7b), /must lie in the file/],
    ['header that is no JSON', Uint8Array.of(2, 0, 0, 0, 0, 0, 0, 0, 0x5b, 0x5d), /expected an object/],
    [
      'a name twice',
      withHeader(
        '{"a":{"dtype":"F32","shape":[0],"data_offsets":[0,0]},"a":{"dtype":"F32","shape":[0],"data_offsets":[0,0]}}',
        0,
      ),
      /duplicate key/,
    ],
    [
      'overlapping tensors',
      withHeader(
        '{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},"b":{"dtype":"F32","shape":[2],"data_offsets":[4,12]}}',
        12,
      ),
      /overlap/,
    ],
    [
      'dimensions that are not whole',
      withHeader('{"a":{"dtype":"F32","shape":[1.5],"data_offsets":[0,8]}}', 8),
      /whole|integer/,
    ],
    [
      'trailing bytes',
      withHeader('{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}', 12),
      /must end with the last tensor/,
    ],
  ];
  test.each(headers)('safetensors: %s', async (name, bytes, message) => {
    writeFileSync(space.path('x.safetensors'), bytes);
    expect(await refused(['inspect', space.path('x.safetensors')], 3), name).toMatch(message);
    const dir = brokenModel('model-header', (d) => writeFileSync(`${d}/model.safetensors`, bytes));
    expect(await refused(['generate', '-m', dir, '-p', 'a'], 3), name).toMatch(message);
  });

  test('an unknown dtype is listed by inspect and named by loading', async () => {
    writeFileSync(
      space.path('f8.safetensors'),
      withHeader('{"a":{"dtype":"F8_E4M3","shape":[8],"data_offsets":[0,8]}}', 8),
    );
    const listed = await attempt(['inspect', space.path('f8.safetensors')]);
    expect([listed.code, listed.stdout.includes('F8_E4M3')]).toEqual([0, true]);
    const dir = brokenModel('model-f8', (d) => {
      const bytes = readFileSync(`${d}/model.safetensors`);
      const header = bytes.subarray(8, 8 + bytes.readUInt32LE(0)).toString();
      // One weight of 359 x 32 two-byte elements becomes 359 x 64 of one byte: the file keeps its size.
      const changed = header.replace(
        /("lm_head\.weight":\{)"dtype":"BF16","shape":\[359,32\]/,
        '$1"dtype":"F8_E5M2","shape":[359,64]',
      );
      writeFileSync(
        `${d}/model.safetensors`,
        Buffer.concat([withHeader(changed, 0), bytes.subarray(8 + bytes.readUInt32LE(0))]),
      );
    });
    expect(await refused(['generate', '-m', dir, '-p', 'a'], 3)).toMatch(/lm_head\.weight: .*(F8_E5M2|\[359,64\])/);
  });

  test('an index that leaves its folder', async () => {
    const dir = brokenModel('model-index', (d) => {
      rmSync(`${d}/model.safetensors`);
      writeFileSync(`${d}/model.safetensors.index.json`, '{"weight_map": {"a": "../../x.safetensors"}}');
    });
    expect(await refused(['inspect', dir], 3)).toMatch(/has a part "\.\."/);
    expect(await refused(['generate', '-m', dir, '-p', 'a'], 3)).toMatch(/has a part "\.\."/);
  });

  const configs: readonly (readonly [name: string, edit: (json: Record<string, unknown>) => void, message: RegExp])[] =
    [
      [
        'another architecture',
        (json) => Object.assign(json, { model_type: 'llama', architectures: ['LlamaForCausalLM'] }),
        /model_type: expected "phi3", found "llama"/,
      ],
      [
        'another width',
        (json) => Object.assign(json, { hidden_size: 64 }),
        /embed_tokens\.weight: expected \[359,64\], found \[359,32\]/,
      ],
      ['no rope_theta', (json) => delete json.rope_theta, /rope_theta: expected a positive number/],
      ['a small vocabulary', (json) => Object.assign(json, { vocab_size: 300 }), /embed_tokens\.weight|vocab_size/],
    ];
  test.each(configs)('config.json: %s', async (name, edit, message) => {
    const dir = brokenModel(`model-${name.replaceAll(' ', '-')}`, (d) => editJson(`${d}/config.json`, edit));
    expect(await refused(['generate', '-m', dir, '-p', 'a'], 3)).toMatch(message);
  });

  test('NaN in a base weight: told when loading, refused in training', async () => {
    const dir = brokenModel('model-nan', (d) => {
      const bytes = readFileSync(`${d}/model.safetensors`);
      bytes.set([0xc0, 0x7f], bytes.length - 2);
      writeFileSync(`${d}/model.safetensors`, bytes);
    });
    const options = [...set(`model.path=${JSON.stringify(dir)}`), '--output-dir', space.path('nan')];
    const ended = await attempt(['train', '-c', config(), ...options]);
    expect(ended.code).toBe(6);
    expect(ended.stderr).toMatch(/base weights must be finite: \S+ holds 1 values/);
  });

  test('a learning rate of 1e30 stops at the first number that is not finite, with code 6', async () => {
    const options = [
      ...set('training.learningRate=1e30', 'training.maxGradNorm=0', 'training.saveSteps=1'),
      '--max-steps',
      '60',
    ];
    const ended = await attempt(['train', '-c', config(), '--output-dir', space.path('diverged'), ...options]);
    expect(ended.stderr).toMatch(/at step \d+ \(rows [\d, .]+\)[\s\S]*last good checkpoint is/);
    expect(ended.code).toBe(6);
  });

  test('a pickle is never opened', async () => {
    writeFileSync(space.path('pytorch_model.bin'), 'x');
    expect(await refused(['inspect', space.path('pytorch_model.bin')], 3)).toContain('pickle');
  });
});

function withHeader(header: string, dataBytes: number): Uint8Array {
  const text = new TextEncoder().encode(header);
  const bytes = new Uint8Array(8 + text.length + dataBytes);
  new DataView(bytes.buffer).setUint32(0, text.length, true);
  bytes.set(text, 8);
  return bytes;
}
