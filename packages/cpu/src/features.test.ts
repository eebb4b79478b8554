import { execFileSync } from 'node:child_process';
import { tensor } from '@lorikeet/tensor';
import { afterEach, expect, test } from 'vitest';
import { parseSwitches } from './features.ts';
import { cpu } from './index.ts';
import { drawIntegers } from './testing/draw.ts';

afterEach(() => {
  delete process.env.LORIKEET_CPU;
});

test('LORIKEET_CPU is a list of switches and a thread count; anything else is named', () => {
  expect(parseSwitches('')).toEqual({ switches: new Set(), threads: undefined });
  expect(parseSwitches('norevec, threads=3')).toEqual({ switches: new Set(['norevec']), threads: 3 });
  expect(() => parseSwitches('norevec,thread=3')).toThrow(
    'LORIKEET_CPU: must list revec, norevec, norelaxed, nomem64 or threads=N: got thread=3.',
  );
  expect(() => parseSwitches('threads=0')).toThrow('got threads=0');
});

test('options out of range are refused', async () => {
  await expect(cpu({ threads: 0 })).rejects.toThrow('threads must be an integer in 1 .. 256: got 0');
  await expect(cpu({ memoryLimitBytes: 1000 })).rejects.toThrow('memoryLimitBytes must be in');
});

test('revec turns revectorization on where the caller did not ask, and norevec wins', async () => {
  for (const [list, on] of [
    ['', false],
    ['revec', process.arch === 'x64'],
    ['revec,norevec', false],
  ] as const) {
    process.env.LORIKEET_CPU = list;
    await using backend = await cpu({ threads: 1 });
    expect(backend.describe().revectorize, list).toBe(on);
  }
});

test('the plainest variant computes the same integers and says what it is', async () => {
  process.env.LORIKEET_CPU = 'norevec,norelaxed,nomem64,threads=1';
  const backend = await cpu({ revectorize: 'auto' });
  const facts = backend.describe();
  expect(facts).toMatchObject({
    threads: 1,
    relaxedSimd: false,
    revectorize: false,
    storeLimitBytes: 0,
    switchedOff: [],
  });
  const [x, y] = [drawIntegers(30 * 40, 1, 4), drawIntegers(40 * 20, 2, 4)];
  using out = tensor(x, { backend, shape: [30, 40] }).matmul(tensor(y, { backend, shape: [40, 20] }));
  let sum = 0;
  for (let p = 0; p < 40; p++) sum += x[29 * 40 + p]! * y[p * 20 + 19]!;
  expect((await out.data()).at(-1)).toBe(sum);
  await backend.close();
});

test('without shared memory, as in a page that is not isolated, one thread computes', () => {
  const [index, tensors] = [new URL('./index.ts', import.meta.url).href, import.meta.resolve('@lorikeet/tensor')];
  const body = `
    delete globalThis.SharedArrayBuffer;
    const { cpu } = await import(${JSON.stringify(index)});
    const { tensor } = await import(${JSON.stringify(tensors)});
    const backend = await cpu({ threads: 4 });
    const { threads, sharedMemory, storeLimitBytes, switchedOff } = backend.describe();
    const x = tensor([[1, 2], [3, 4]], { backend });
    console.log(JSON.stringify([threads, sharedMemory, storeLimitBytes, switchedOff, await x.matmul(x).toArray()]));`;
  const text = execFileSync(process.execPath, ['--input-type=module', '-e', body], { encoding: 'utf8' });
  expect(JSON.parse(text)).toEqual([
    1,
    false,
    0,
    [],
    [
      [7, 10],
      [15, 22],
    ],
  ]);
});

test('a kernel that fails its self-test is left out, by name', async () => {
  const backend = await cpu({ threads: 1 });
  expect(backend.describe().switchedOff).toEqual([]);
  backend.disable('softmax');
  expect(backend.describe().switchedOff).toEqual(['softmax']);
  using out = tensor([[0, Math.log(3)]], { backend }).softmax(-1);
  const [a, b] = await out.data();
  expect([a, b].map((v) => v!.toFixed(5))).toEqual(['0.25000', '0.75000']);
  await backend.close();
});
