import { createDynamicMap, dequantizeBlockwise, quantizeBlockwise, referenceBackend, tensor } from '@lorikeet/tensor';
import fc from 'fast-check';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { type CpuBackend, cpu } from './backend.ts';

let backend: CpuBackend;
beforeAll(async () => {
  backend = await cpu({ threads: 2 });
});
afterAll(() => backend.close());

const special = [Number.NaN, Number.POSITIVE_INFINITY, 0, -0, 1e-45, 1e-39, -1e-8, 3e38];
const element = fc.oneof(
  { weight: 9, arbitrary: fc.double({ min: -3, max: 3, noNaN: true }) },
  { weight: 1, arbitrary: fc.constantFrom(...special) },
);
const dtype = fc.constantFrom('f32' as const, 'f16' as const, 'bf16' as const);

describe('quantizeBlockwise and dequantizeBlockwise', () => {
  it('have the bits of the reference, for any numbers, block and map', async () => {
    expect(backend.kernelNames).toEqual(expect.arrayContaining(['quantizeBlockwise', 'dequantizeBlockwise']));
    await fc.assert(
      fc.asyncProperty(
        fc.array(element, { minLength: 1, maxLength: 300 }),
        fc.constantFrom(1, 3, 64, 256, 4096),
        fc.boolean(),
        dtype,
        dtype,
        async (values, blocksize, signed, from, to) => {
          const [mine, theirs] = await Promise.all(
            [backend, referenceBackend()].map(async (on) => {
              using code = tensor([...createDynamicMap(signed)], { backend: on });
              using x = tensor(values, { backend: on, dtype: from });
              const { quantized, absmax } = quantizeBlockwise(x, code, { blocksize });
              using back = dequantizeBlockwise(quantized, absmax, code, { blocksize, dtype: to });
              // A NaN's own bits are nobody's promise.
              const widened = Array.from((await back.data()) as Float32Array);
              const bytes = [await quantized.bytes(), await absmax.bytes()];
              quantized.dispose();
              absmax.dispose();
              return [...bytes, widened];
            }),
          );
          expect(mine).toEqual(theirs);
        },
      ),
      { numRuns: 150 },
    );
  });
  it('is the same over many chunks and blocks that do not end with them', async () => {
    const values = Float32Array.from({ length: 100_003 }, (_, i) => Math.sin(i * i) * Math.exp(Math.sin(i)));
    const [mine, theirs] = await Promise.all(
      [backend, referenceBackend()].map(async (on) => {
        using code = tensor([...createDynamicMap(true)], { backend: on });
        using x = tensor(values, { backend: on });
        const { quantized, absmax } = quantizeBlockwise(x, code, { blocksize: 100 });
        using back = dequantizeBlockwise(quantized, absmax, code, { blocksize: 100 });
        return Promise.all([quantized.bytes(), absmax.bytes(), back.bytes()]);
      }),
    );
    expect(mine).toEqual(theirs);
  });
  it('keeps the map apart from others of the same size, more than it keeps tables for', async () => {
    const x = tensor([0.5, 0.25, 1], { backend });
    for (let i = 1; i <= 9; i++) {
      const map = Float32Array.from({ length: 256 }, (_, k) => (k / 255) ** i);
      using code = tensor([...map], { backend });
      const { quantized } = quantizeBlockwise(x, code, { blocksize: 3 });
      const nearest = (v: number) =>
        map.reduce((best, m, k) => (Math.abs(m - v) < Math.abs(map[best]! - v) ? k : best), 0);
      const places = await quantized.data();
      [0.5, 0.25, 1].forEach((v, k) => expect(Math.abs(places[k]! - nearest(v))).toBeLessThanOrEqual(1));
    }
  });
});
