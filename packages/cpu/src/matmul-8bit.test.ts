import { type Backend, matmul8bit, quantizeRowwise, referenceBackend, scope, tensor } from '@lorikeet/tensor';
import { expectClose } from '@lorikeet/tensor/testing';
import fc from 'fast-check';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { type CpuBackend, cpu } from './backend.ts';

let backend: CpuBackend;
/** Every tensor that is written whole lies in the store. */
let stored: CpuBackend;
beforeAll(async () => {
  backend = await cpu({ threads: 2 });
  stored = await cpu({ threads: 2, storeFromBytes: 1 });
});
afterAll(async () => {
  await backend.close();
  await stored.close();
});

const wave = (n: number, seed: number, size: number) =>
  Float32Array.from({ length: n }, (_, i) => Math.sin(seed + i * i) * size + (i % 101 === seed % 101 ? 7 * size : 0));

describe('quantizeRowwise', () => {
  it('has the bits of the reference', async () => {
    expect(backend.kernelNames).toEqual(expect.arrayContaining(['quantizeRowwise', 'matmul8bit']));
    const element = fc.oneof(
      { weight: 9, arbitrary: fc.double({ min: -3, max: 3, noNaN: true }) },
      { weight: 1, arbitrary: fc.constantFrom(0, Number.NaN, Number.POSITIVE_INFINITY, 1e-45, 3e38) },
    );
    const drawn = fc.tuple(fc.integer({ min: 1, max: 5 }), fc.integer({ min: 1, max: 40 })).chain(([m, k]) =>
      fc.record({
        shape: fc.constant([m, k]),
        values: fc.array(element, { minLength: m * k, maxLength: m * k }),
        dtype: fc.constantFrom('f32' as const, 'f16' as const, 'bf16' as const),
      }),
    );
    await fc.assert(
      fc.asyncProperty(drawn, async ({ shape, values, dtype }) => {
        const [mine, theirs] = await Promise.all(
          [backend, referenceBackend()].map(async (on) => {
            using x = tensor(values, { backend: on, dtype });
            const { quantized, absmax } = scope(() => quantizeRowwise(x.reshape(shape)));
            const got = [[...(await quantized.data())], [...(await absmax.data())]];
            quantized.dispose();
            absmax.dispose();
            return got;
          }),
        );
        expect(mine).toEqual(theirs);
      }),
      { numRuns: 100 },
    );
  });
});

describe('matmul8bit', () => {
  const run = async (
    on: Backend,
    { m, n, k, seed, threshold }: Record<'m' | 'n' | 'k' | 'seed' | 'threshold', number>,
  ) => {
    using a = tensor(wave(m * k, seed, 1), { backend: on });
    using w = tensor(wave(n * k, seed + 1, 0.1), { backend: on });
    using bias = tensor(wave(n, seed + 2, 0.5), { backend: on });
    // Written whole, as a loader writes weights: where the backend has a store, it lies there.
    const made = scope(() => quantizeRowwise(w.reshape([n, k])));
    using quantized = tensor((await made.quantized.data()) as Int8Array, { backend: on, dtype: 'i8' });
    using out = scope(() =>
      matmul8bit(
        a.reshape([m, k]),
        { quantized: quantized.reshape([n, k]), absmax: made.absmax, dtype: 'f32' },
        { threshold, bias },
      ),
    );
    const data = await out.data();
    made.quantized.dispose();
    made.absmax.dispose();
    return data;
  };
  const size = (max: number) => fc.integer({ min: 1, max });
  const drawn = fc.record({ m: size(7), n: size(40), k: size(90), seed: fc.nat(500) });

  it('without outliers has the bits of the reference, from work memory and from the store', async () => {
    await fc.assert(
      fc.asyncProperty(drawn, async (sizes) => {
        const want = await run(referenceBackend(), { ...sizes, threshold: 0 });
        expect(await run(backend, { ...sizes, threshold: 0 })).toEqual(want);
        expect(await run(stored, { ...sizes, threshold: 0 })).toEqual(want);
      }),
      { numRuns: 40 },
    );
  });
  it('with outliers is within roundings of it', async () => {
    await fc.assert(
      fc.asyncProperty(drawn, fc.constantFrom(0.9, 2, 6), async (sizes, threshold) => {
        const want = await run(referenceBackend(), { ...sizes, threshold });
        expectClose(await run(backend, { ...sizes, threshold }), want, { relative: 1e-5, absolute: 1e-5 }, 'out');
      }),
      { numRuns: 40 },
    );
  });
  it('sums beyond what f32 counts in ones', async () => {
    const k = 4096;
    using a = tensor(new Float32Array(k).fill(1), { backend });
    using w = tensor(new Int8Array(k).fill(127).fill(126, 0, 1), { backend, dtype: 'i8' });
    using absmax = tensor([127], { backend });
    const weight = { quantized: w.reshape([1, k]), absmax, dtype: 'f32' as const };
    const out = await matmul8bit(a.reshape([1, k]), weight, { threshold: 0 }).item();
    const integers = 127 * (127 * (k - 1) + 126);
    expect(out).toBe(Math.fround(Math.fround(Math.fround(integers) * 127) * Math.fround(6.200124e-5)));
  });
});
