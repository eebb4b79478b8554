import { dequantize4bit, quantize4bit, referenceBackend, type Tensor, tensor } from '@lorikeet/tensor';
import { afterAll, expect, test } from 'vitest';
import { cpu } from './index.ts';
import { drawFloats } from './testing/draw.ts';

const near = await cpu({ threads: 2 });
/** Weights lie in the 64-bit store. */
const far = await cpu({ threads: 2, storeFromBytes: 1 });
const reference = referenceBackend();
afterAll(() => Promise.all([near.close(), far.close()]));

test('no kernel is switched off, which would hide it behind its reference', () => {
  for (const backend of [near, far]) expect(backend.describe().switchedOff).toEqual([]);
});

// More than a task's 64 K elements, the last block short and of odd length.
const count = 70_003;

test.each(['f32', 'bf16', 'f16'] as const)(
  'several tasks of %s, blocks of all sizes, bit for bit the reference',
  async (dtype) => {
    const values = drawFloats(count, 1);
    // Zeros, subnormal numbers, NaN and infinities, each in a block of its own.
    values.fill(0, 128, 256);
    for (let i = 256; i < 384; i++) values[i]! *= 1e-40;
    values[400] = Number.NaN;
    values[500] = Number.NEGATIVE_INFINITY;
    for (const quantType of ['nf4', 'fp4'] as const)
      for (const blocksize of [32, 64, 4096]) {
        const run = async (backend: typeof near | typeof reference) => {
          using wide = tensor(values, { backend, shape: [1, count] });
          using drawn = wide.cast(dtype);
          using x = tensor((await drawn.data()) as Float32Array, { backend, dtype, shape: [1, count] });
          const made = quantize4bit(x, { quantType, blocksize });
          using dense = dequantize4bit({ ...made, quantType, blocksize, shape: [1, count], dtype });
          const results = [];
          for (const t of [made.packed, made.absmax, dense] as Tensor[]) results.push(await t.data());
          made.packed.dispose();
          made.absmax.dispose();
          return results;
        };
        const want = await run(reference);
        expect(await run(near)).toEqual(want);
        expect(await run(far)).toEqual(want);
      }
  },
);

test('rows of a matrix, from any element on', async () => {
  for (const backend of [near, far])
    for (const [rows, width] of [
      [9, 96],
      [40, 37],
    ] as const) {
      const kind = { quantType: 'nf4', blocksize: 64, shape: [rows, width], dtype: 'bf16' } as const;
      using x = tensor(drawFloats(rows * width, 5), { backend, shape: [rows, width] });
      const made = quantize4bit(x, kind);
      using all = dequantize4bit({ ...made, ...kind });
      for (const [start, end] of [
        [0, 1],
        [3, 8],
        [rows - 1, rows],
        [2, 2],
      ] as const) {
        using part = dequantize4bit({ ...made, ...kind }, [start, end]);
        using want = all.slice(0, start, end);
        expect(await part.data()).toEqual(await want.data());
      }
      made.packed.dispose();
      made.absmax.dispose();
    }
});
