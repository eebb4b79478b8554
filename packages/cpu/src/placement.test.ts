import { matmul, memory, scope, tensor } from '@lorikeet/tensor';
import { afterAll, expect, test } from 'vitest';
import { type CpuBackend, type CpuOptions, cpu } from './index.ts';
import { drawFloats, drawIntegers } from './testing/draw.ts';

const opened: CpuBackend[] = [];
const open = async (options: CpuOptions) => {
  const backend = await cpu(options);
  opened.push(backend);
  return backend;
};
afterAll(() => Promise.all(opened.map((backend) => backend.close())));

const facts = (backend: CpuBackend) =>
  backend.describe() as { storeBytes: number; storeLimitBytes: number; liveBytes: number };
const [n, k] = [70, 600];

test.each(['f32', 'bf16', 'f16'] as const)(
  'weights of %s beyond 4 GiB give the bits of weights in work memory',
  async (dtype) => {
    const far = await open({ threads: 2, storeFromBytes: 64 * 1024 });
    const near = await open({ threads: 2, storeFromBytes: Number.POSITIVE_INFINITY });
    // Reserved, never touched: the weights then lie where 32 bits do not reach.
    far.team.store!.allocate(5 * 2 ** 30);
    const empty = facts(far).storeBytes;
    for (const m of [1, 3, 50]) {
      const results = [far, near].map((backend) =>
        scope(() => {
          const w = tensor(drawFloats(n * k, 1), { backend, dtype, shape: [n, k] });
          if (backend === far) expect(facts(far).storeBytes).toBeGreaterThanOrEqual(empty + n * k * 2);
          const x = tensor(drawFloats(m * k, 2), { backend, shape: [m, k] });
          const y = tensor(drawFloats(m * n, 3), { backend, shape: [m, n] });
          const ids = tensor([69, 0, 33], { backend, dtype: 'i32' });
          const outs = [matmul(x, w, { transposeB: true }), matmul(y, w), w.indexSelect(ids, 0)];
          // No kernel casts out of the store: these rows are borrowed as a copy.
          return [...outs, w.slice(0, 20, 50).cast('f32')];
        }),
      );
      for (const [i, t] of results[0]!.entries()) expect(await t.data()).toEqual(await results[1]![i]!.data());
      for (const t of results.flat()) t.dispose();
    }
    expect(facts(far).storeBytes).toBe(empty);
    expect(facts(near).storeBytes).toBe(0);
  },
);

test('more weights than work memory holds', async () => {
  const backend = await open({ threads: 2, memoryLimitBytes: 2 ** 24 });
  const weights = Array.from({ length: 12 }, (_, i) =>
    tensor(drawIntegers(2 ** 20, i, 3), { backend, shape: [1024, 1024] }),
  );
  expect(facts(backend).storeBytes).toBeGreaterThan(48 * 2 ** 20);
  const x = tensor(drawIntegers(2 * 1024, 99, 3), { backend, shape: [2, 1024] });
  for (const [i, w] of weights.entries()) {
    using out = matmul(x, w, { transposeB: true });
    const [a, b] = [drawIntegers(2 * 1024, 99, 3), drawIntegers(2 ** 20, i, 3)];
    let expected = 0;
    for (let p = 0; p < 1024; p++) expected += a[1024 + p]! * b[5 * 1024 + p]!;
    expect((await out.data())[1024 + 5]).toBe(expected);
  }
  for (const w of weights) w.dispose();
  expect(memory(backend).liveTensors).toBe(1);
});

test('a weight that another op reads whole moves to work memory, rows of it are borrowed', async () => {
  const backend = await open({ threads: 2, storeFromBytes: 64 * 1024 });
  const w = tensor(drawFloats(n * k, 1), { backend, shape: [n, k] });
  const [stored, work] = [facts(backend).storeBytes, facts(backend).liveBytes];
  using part = w.slice(0, 3, 9).mul(2);
  expect(facts(backend).storeBytes).toBe(stored);
  expect(facts(backend).liveBytes - work).toBeLessThan(2 * 6 * k * 4);
  expect((await part.data())[0]).toBe(2 * drawFloats(n * k, 1)[3 * k]!);
  using whole = w.mul(2);
  expect(facts(backend).storeBytes).toBe(stored - n * k * 4 - 64);
  expect((await whole.data()).at(-1)).toBe(2 * drawFloats(n * k, 1).at(-1)!);
});

test('without 64-bit memories everything lies in work memory and its limit is named', async () => {
  process.env.LORIKEET_CPU = 'nomem64,threads=1';
  try {
    const backend = await open({ memoryLimitBytes: 2 ** 24 });
    expect(facts(backend).storeLimitBytes).toBe(0);
    expect(() => tensor(new Float32Array(2 ** 22), { backend })).toThrow(/bytes asked, \d+ live, limit 16777216/);
  } finally {
    delete process.env.LORIKEET_CPU;
  }
});
