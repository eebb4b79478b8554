import {
  code4bit,
  dequantize4bit,
  fromBytes,
  matmul,
  matmul4bit,
  normal,
  randomKey,
  type Tensor,
  tensor,
  threefry2x32,
  type Weight4bit,
} from '@lorikeet/tensor';
import fc from 'fast-check';
import { afterAll, expect, test } from 'vitest';
import { cpu } from './index.ts';
import { drawFloats, drawIntegers } from './testing/draw.ts';

const near = await cpu({ threads: 2 });
/** Every weight, also its absmax, lies in the 64-bit store. */
const far = await cpu({ threads: 2, storeFromBytes: 1 });
/** The same where dense products go through the packed kernel at every size, as those from 4 bits do beyond four rows. */
const tuning = { version: 1, hardware: 'any', date: '2026-11-26', parameters: { 'dots.rows': 0 } } as const;
const packedNear = await cpu({ threads: 2, tuning });
const packedFar = await cpu({ threads: 2, storeFromBytes: 1, tuning });
afterAll(() => Promise.all([near, far, packedNear, packedFar].map((backend) => backend.close())));

test('no kernel is switched off, which would hide it behind its reference', () => {
  for (const backend of [near, far]) expect(backend.describe().switchedOff).toEqual([]);
});

const drawBytes = (count: number, seed: number): Uint8Array =>
  Uint8Array.from({ length: count }, (_, i) => threefry2x32(seed, 3, i, 0)[0] & 255);

/** Numbers half-way between two of bf16, the lower one even: what rounds half up is found out. */
const halfWay = (i: number): number => new Float32Array(Uint32Array.of(0x3f808000 + ((i % 16) << 17)).buffer)[0]!;

const weights = fc.record({
  out: fc.integer({ min: 1, max: 70 }),
  // Rows of whole groups of 32, whole blocks or neither.
  rowLength: fc.oneof(
    fc.integer({ min: 1, max: 20 }).map((n) => n * 32),
    fc.integer({ min: 1, max: 130 }),
  ),
  blocksize: fc.constantFrom(32, 64, 128, 512),
  nestedBlocksize: fc.option(fc.constantFrom(2, 256)),
  quantType: fc.constantFrom('nf4' as const, 'fp4' as const),
  dtype: fc.constantFrom('f32' as const, 'f16' as const, 'bf16' as const),
  seed: fc.nat(1000),
});
type Drawn = typeof weights extends fc.Arbitrary<infer T> ? T : never;

function makeWeight(backend: typeof near, drawn: Drawn): Weight4bit {
  const { out, rowLength, blocksize, nestedBlocksize, quantType, dtype, seed } = drawn;
  const count = out * rowLength;
  const blocks = Math.ceil(count / blocksize);
  const bytes = (values: Uint8Array, ...shape: number[]) => fromBytes(values, { backend, shape, dtype: 'u8' });
  const half = (count + 1) >> 1;
  const common = {
    packed: bytes(drawBytes(half, seed), half, 1),
    blocksize,
    quantType,
    dtype,
    shape: [out, rowLength],
  };
  const absmax = drawFloats(blocks, seed + 1, 0.1, 2).map((x, i) => (i % 3 === 0 ? halfWay(i) : x));
  if (!nestedBlocksize) return { ...common, shape: [out, rowLength], absmax: tensor(absmax, { backend }) };
  const nested = {
    absmax: tensor(drawFloats(Math.ceil(blocks / nestedBlocksize), seed + 2, 0.1, 0.5), { backend }),
    code: tensor(drawFloats(256, seed + 3, -1, 1), { backend }),
    offset: 0.8,
    blocksize: nestedBlocksize,
  };
  return { ...common, shape: [out, rowLength], absmax: bytes(drawBytes(blocks, seed + 4), blocks), nested };
}

const dispose = ({ packed, absmax, nested }: Weight4bit): void => {
  for (const t of [packed, absmax, nested?.absmax, nested?.code]) t?.dispose();
};

test('more than four rows: bit for bit the product with the dequantized matrix, in both directions', async () => {
  await fc.assert(
    fc.asyncProperty(
      weights,
      fc.integer({ min: 5, max: 15 }),
      fc.boolean(),
      fc.boolean(),
      async (drawn, m, transposeB, isFar) => {
        const backend = isFar ? packedFar : packedNear;
        const weight = makeWeight(backend, drawn);
        const [n, k] = transposeB ? weight.shape : [weight.shape[1], weight.shape[0]];
        using a = tensor(drawFloats(m * k, drawn.seed + 5), { backend, shape: [m, k] });
        using u = tensor(drawFloats(m * 3, drawn.seed + 6), { backend, shape: [m, 3] });
        using v = tensor(drawFloats(3 * n, drawn.seed + 7), { backend, shape: transposeB ? [n, 3] : [3, n] });
        using bias = tensor(drawFloats(n, drawn.seed + 8), { backend });
        using dense = dequantize4bit(weight);
        using got = matmul4bit(a, weight, { transposeB, add: [u, v], bias });
        using want = matmul(a, dense, { transposeB, add: [u, v], bias });
        expect(await got.data()).toEqual(await want.data());
        dispose(weight);
      },
    ),
    { numRuns: 200 },
  );
});

test('blocks of k and of columns, edges included', async () => {
  const drawn = { out: 300, rowLength: 608, blocksize: 64, nestedBlocksize: 256, quantType: 'nf4', seed: 3 } as const;
  for (const backend of [near, far])
    for (const dtype of ['bf16', 'f32'] as const)
      for (const transposeB of [true, false]) {
        const weight = makeWeight(backend, { ...drawn, dtype });
        const k = transposeB ? 608 : 300;
        using a = tensor(drawFloats(50 * k, 1), { backend, shape: [50, k] });
        using dense = dequantize4bit(weight);
        using got = matmul4bit(a, weight, { transposeB });
        using want = matmul(a, dense, { transposeB });
        expect(await got.data()).toEqual(await want.data());
        dispose(weight);
      }
});

/** reliability.md section 4, relaxed arithmetic: |error| <= sqrt(k) 2^-24 sum |a||b|; one more unit, which counts where k is 2. */
function expectWithinBound(got: ArrayLike<number>, a: ArrayLike<number>, w: ArrayLike<number>, k: number): void {
  const n = w.length / k;
  for (let cell = 0; cell < got.length; cell++) {
    const [row, column] = [Math.floor(cell / n), cell % n];
    let [value, size] = [0, 0];
    for (let p = 0; p < k; p++) {
      const term = a[row * k + p]! * w[column * k + p]!;
      value += term;
      size += Math.abs(term);
    }
    expect(Math.abs(got[cell]! - value)).toBeLessThanOrEqual((Math.sqrt(k) + 1) * 2 ** -24 * size);
  }
}

test('up to four rows: within the bound of the dequantized product, each row as if it were alone', async () => {
  await fc.assert(
    fc.asyncProperty(
      weights,
      fc.integer({ min: 1, max: 4 }),
      fc.constantFrom('f32', 'bf16'),
      async (drawn, m, dtype) => {
        const k = drawn.rowLength;
        const values = drawFloats(m * k, drawn.seed + 5);
        const results: Float32Array[] = [];
        for (const backend of [near, far]) {
          const weight = makeWeight(backend, drawn);
          using wide = tensor(values, { backend, shape: [m, k] });
          using a = wide.cast(dtype as 'f32');
          using dense = dequantize4bit(weight);
          using got = matmul4bit(a, weight);
          const all = (await got.data()) as Float32Array;
          if (got.dtype === 'f32') expectWithinBound(all, await a.data(), await dense.data(), k);
          for (let row = 0; row < m; row++) {
            using alone = a.slice(0, row, row + 1);
            using one = matmul4bit(alone, weight);
            expect(await one.data()).toEqual(all.subarray(row * drawn.out, (row + 1) * drawn.out));
          }
          results.push(all);
          dispose(weight);
        }
        expect(results[1]).toEqual(results[0]);
      },
    ),
    { numRuns: 150 },
  );
});

test('a second pair and a bias for one row', async () => {
  const drawn = { out: 70, rowLength: 192, blocksize: 64, nestedBlocksize: 256, quantType: 'nf4', seed: 3 } as const;
  const weight = makeWeight(near, { ...drawn, dtype: 'bf16' });
  using a = tensor(drawFloats(192, 1), { backend: near, shape: [1, 192] });
  using u = tensor(drawFloats(8, 2), { backend: near, shape: [1, 8] });
  using v = tensor(drawFloats(70 * 8, 3), { backend: near, shape: [70, 8] });
  using bias = tensor(drawFloats(70, 4), { backend: near });
  using plain = matmul4bit(a, weight);
  using second = matmul(u, v, { transposeB: true });
  using want = plain.add(bias).add(second);
  using got = matmul4bit(a, weight, { add: [u, v], bias });
  expect(await got.data()).toEqual(await want.data());
  dispose(weight);
});

/** absmax of every element: what the code 1 dequantizes to. */
async function absmaxes(backend: typeof near, weight: Weight4bit): Promise<ArrayLike<number>> {
  const one = code4bit(weight.quantType).indexOf(1);
  const bytes = new Uint8Array(weight.packed.size).fill(one * 17);
  using packed = fromBytes(bytes, { backend, shape: weight.packed.shape, dtype: 'u8' });
  using dense = dequantize4bit({ ...weight, packed, dtype: 'f32' });
  return dense.data();
}

test('int8: the product of bytes and 14-bit codes, each row as if it were alone', async () => {
  const whole = weights.map((drawn) => ({ ...drawn, rowLength: Math.ceil(drawn.rowLength / 32) * 32 }));
  await fc.assert(
    fc.asyncProperty(whole, fc.integer({ min: 1, max: 4 }), async (drawn, m) => {
      const { rowLength: k, out, quantType, seed } = drawn;
      // Whole numbers whose largest magnitude in every group is 127 are bytes without loss.
      const values = drawIntegers(m * k, seed + 5, 127).map((x, i) => (i % 32 === 5 ? 127 : x));
      const code = code4bit(quantType).map((c) => Math.round(c * 8191) / 8191);
      const results: Float32Array[] = [];
      for (const backend of [near, far]) {
        const weight = makeWeight(backend, drawn);
        using a = tensor(values, { backend, shape: [m, k] });
        using got = matmul4bit(a, weight, { computeDtype: 'int8' });
        const all = (await got.data()) as Float32Array;
        const packed = await weight.packed.data();
        const absmax = await absmaxes(backend, weight);
        for (let cell = 0; cell < all.length; cell++) {
          const [row, column] = [Math.floor(cell / out), cell % out];
          let [value, size] = [0, 0];
          for (let p = 0; p < k; p++) {
            const at = column * k + p;
            const nibble = at % 2 === 0 ? packed[at >> 1]! >> 4 : packed[at >> 1]! & 15;
            const term = values[row * k + p]! * code[nibble]! * absmax[at]!;
            value += term;
            size += Math.abs(term);
          }
          expect(Math.abs(all[cell]! - value)).toBeLessThanOrEqual(2e-6 * size);
        }
        for (let row = 0; row < m; row++) {
          using alone = a.slice(0, row, row + 1);
          using one = matmul4bit(alone, weight, { computeDtype: 'int8' });
          expect(await one.data()).toEqual(all.subarray(row * out, (row + 1) * out));
        }
        results.push(all);
        dispose(weight);
      }
      expect(results[1]).toEqual(results[0]);
    }),
    { numRuns: 100 },
  );
});

test('int8 errs by less than 1 % on normal activations, and an infinity stays visible', async () => {
  const drawn = { out: 256, rowLength: 3072, blocksize: 64, nestedBlocksize: 256, quantType: 'nf4', seed: 9 } as const;
  const weight = makeWeight(near, { ...drawn, dtype: 'bf16' });
  using a = normal([1, 3072], { backend: near, key: randomKey(4) });
  using exact = matmul4bit(a, weight);
  using got = matmul4bit(a, weight, { computeDtype: 'int8' });
  using difference = got.sub(exact);
  const norm = async (t: Tensor) => Math.hypot(...(await t.data()));
  expect((await norm(difference)) / (await norm(exact))).toBeLessThan(0.01);
  const values = (await a.data()) as Float32Array;
  values[77] = Number.POSITIVE_INFINITY;
  using broken = tensor(values, { backend: near, shape: [1, 3072] });
  using result = matmul4bit(broken, weight, { computeDtype: 'int8' });
  expect((await result.data()).every((x) => !Number.isFinite(x))).toBe(true);
  dispose(weight);
});
