import {
  decision4bit,
  dequantize4bit,
  fromBytes,
  quantize4bit,
  referenceBackend,
  type Tensor,
  tensor,
} from '@lorikeet/tensor';
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

test('values half-way between two of the dtype round to even', async () => {
  // Code 1 times absmax: a bf16 and a half unit, an f16 and a half unit, and their neighbours.
  const bits = [0x3f808000, 0x3f818000, 0x3f808001, 0x3f801000, 0x3f803000, 0x33000000, 0x33c00000, 0x477ff000];
  const absmax = new Float32Array(Uint32Array.from(bits).buffer);
  const packed = new Uint8Array(32 * bits.length).map((_, i) => (i % 2 === 0 ? 0xff : (i * 37) & 255));
  for (const dtype of ['f32', 'bf16', 'f16'] as const) {
    const run = async (backend: typeof near | typeof reference) => {
      const weight = {
        packed: fromBytes(packed, { backend, shape: [packed.length, 1], dtype: 'u8' }),
        absmax: tensor(absmax, { backend }),
        ...({ quantType: 'nf4', blocksize: 64, shape: [bits.length, 64], dtype } as const),
      };
      using dense = dequantize4bit(weight);
      return dense.data();
    };
    expect(await run(near)).toEqual(await run(reference));
  }
});

test('the last, shorter block divides by absmax, full ones multiply by its reciprocal', async () => {
  const { borders } = decision4bit('nf4');
  /** Numbers that the two ways put on different sides of a border, for one absmax. */
  const between = (absmax: number): number[] => {
    const reciprocal = Math.fround(1 / absmax);
    const near = Array.from(borders).flatMap((b) =>
      [-1, 0, 1].map((d) => Math.fround(b * absmax * (1 + d * 2 ** -23))),
    );
    return near.filter((x) => {
      const [divided, multiplied] = [Math.fround(x / absmax), Math.fround(x * reciprocal)];
      return borders.some((b) => divided <= b !== multiplied <= b);
    });
  };
  const drawn = drawFloats(200, 8, 1, 2);
  const absmax = drawn.reduce((best, x) => (between(x).length > between(best).length ? x : best));
  expect(between(absmax).length).toBeGreaterThan(0);
  const short = [absmax, ...between(absmax)];
  const full = [...short, ...new Array<number>(32 - short.length).fill(0)];
  const run = async (backend: typeof near | typeof reference) => {
    using x = tensor([...full, ...short], { backend });
    const made = quantize4bit(x, { quantType: 'nf4', blocksize: 32 });
    return made.packed.data();
  };
  const got = await run(near);
  expect(got).toEqual(await run(reference));
  expect(got.subarray(16, 16 + (short.length >> 1))).not.toEqual(got.subarray(0, short.length >> 1));
});
