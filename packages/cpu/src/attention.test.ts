import { attention, referenceBackend, split, type Tensor, tensor } from '@lorikeet/tensor';
import fc from 'fast-check';
import { afterAll, expect, test } from 'vitest';
import { cpu } from './index.ts';
import { drawFloats } from './testing/draw.ts';

const backend = await cpu({ threads: 2 });
const reference = referenceBackend();
afterAll(() => backend.close());

interface Case {
  readonly kv: number;
  readonly group: number;
  readonly e: number;
  readonly lengths: readonly number[];
  readonly cached: readonly number[];
  readonly window: number | null;
  readonly causal: boolean;
  readonly seed: number;
  /** Standard scores are small; large ones make the running maximum move. */
  readonly size?: number;
}

/** out, log-sum-exp, dq and the gradient of the tensor whose column blocks are k and v. */
function compute(on: typeof backend | typeof reference, c: Case): Tensor[] {
  const { kv, group, e, lengths, cached, window, causal, seed, size = 1 } = c;
  const keyLengths = lengths.map((n, i) => n + cached[i % cached.length]!);
  const [t, s] = [lengths, keyLengths].map((list) => list.reduce((a, b) => a + b, 0)) as [number, number];
  const h = kv * group;
  const made = (offset: number, shape: number[], scale = 1) =>
    tensor(
      drawFloats(
        shape.reduce((a, b) => a * b, 1),
        seed + offset,
        -scale,
        scale,
      ),
      { backend: on, shape, requiresGrad: true },
    );
  const q = made(0, [t, h, e], size);
  const both = made(1, [s, 2 * kv * e]);
  const [k, v] = split(both, [kv * e, kv * e]).map((x) => x.reshape([s, kv, e])) as [Tensor, Tensor];
  const out = attention(q, k, v, { lengths, keyLengths, slidingWindow: window, causal });
  const gradients = out
    .mul(made(2, [t, h, e]))
    .sum()
    .backward();
  return [out, gradients.of(q), gradients.of(both)];
}

/** Against the reference in f64; differences relative to the largest value of each result. */
async function check(c: Case, tolerance = 1e-5): Promise<void> {
  const [mine, theirs] = [compute(backend, c), compute(reference, c)];
  for (const [i, result] of mine.entries()) {
    const [got, expected] = [await result.data(), await theirs[i]!.data()];
    let scale = 0.1;
    for (const value of expected) scale = Math.max(scale, Math.abs(value));
    for (let k = 0; k < expected.length; k++)
      if (!(Math.abs(got[k]! - expected[k]!) <= tolerance * scale))
        throw new Error(`result ${i}, element ${k} of [${result.shape}]: ${got[k]}, expected ${expected[k]}`);
  }
}

const cases = (length: fc.Arbitrary<number>, cached: fc.Arbitrary<number>) =>
  fc.record({
    kv: fc.integer({ min: 1, max: 3 }),
    group: fc.integer({ min: 1, max: 3 }),
    e: fc.oneof(fc.integer({ min: 1, max: 40 }), fc.constantFrom(64, 96)),
    lengths: fc.array(length, { minLength: 1, maxLength: 3 }),
    cached: fc.array(cached, { minLength: 1, maxLength: 3 }),
    window: fc.option(fc.integer({ min: 1, max: 130 })),
    causal: fc.boolean(),
    seed: fc.nat(99),
    size: fc.constantFrom(1, 1, 30),
  });

test('blocks of queries and keys, their borders, windows and gradients', async () => {
  const lengths = fc.oneof(fc.integer({ min: 9, max: 130 }), fc.integer({ min: 180, max: 210 }));
  const property = fc.asyncProperty(cases(lengths, fc.nat(60)), (c) => check(c, 2e-5));
  await fc.assert(property, { numRuns: 8 });
});

test('few queries with many keys, beside sequences of many queries', async () => {
  const few = fc.integer({ min: 0, max: 8 });
  const lengths = fc.oneof({ weight: 4, arbitrary: few }, { weight: 1, arbitrary: fc.integer({ min: 9, max: 40 }) });
  const cached = fc.integer({ min: 1, max: 400 });
  const property = fc.asyncProperty(
    cases(lengths, cached).filter((c) => c.lengths.some((n) => n > 0)),
    (c) => check(c, 2e-5),
  );
  await fc.assert(property, { numRuns: 30 });
});

test('the kernels run: a self-test that switched one off would leave these tests to its composition', () => {
  expect(backend.describe().switchedOff).toEqual([]);
});

const plain = { kv: 2, group: 1, e: 32, cached: [0], window: null, causal: true, seed: 1 };

test('the widest heads, one head in parts, and heads that need no parts', async () => {
  await check({ ...plain, e: 256, lengths: [130] }, 2e-5);
  await check({ ...plain, e: 255, lengths: [1, 3], cached: [150] }, 2e-5);
  await check({ ...plain, kv: 1, lengths: [500] }, 2e-5);
  await check({ ...plain, kv: 1, group: 4, lengths: [250], window: 100 }, 2e-5);
  await check({ ...plain, kv: 16, e: 8, lengths: [150] }, 2e-5);
});

test('keys that no query sees get zero gradients', async () => {
  const c = { ...plain, lengths: [20, 0], cached: [150, 40], window: 10 };
  const [, , both] = compute(backend, c);
  const values = await both!.data();
  const width = 2 * c.kv * c.e;
  const touched = (row: number) => values.slice(row * width, (row + 1) * width).some((x) => x !== 0);
  const first = Array.from({ length: 210 }, (_, i) => i).filter(touched);
  expect(first).toEqual(Array.from({ length: 29 }, (_, i) => 141 + i));
});

test('scores far apart give neither infinities nor NaN, and NaN stays in its rows', async () => {
  // A score of some thousands is itself rounded by 2e-4.
  await check({ ...plain, lengths: [120], size: 3000 }, 2e-3);
  await check({ ...plain, lengths: [2], cached: [300], size: 3000 }, 2e-3);
  for (const lengths of [[40], [3]]) {
    const shape = [lengths[0]!, 2, 32];
    const values = drawFloats(shape[0]! * 64, 1);
    values[64] = Number.NaN;
    const q = tensor(values, { backend, shape });
    const k = tensor(drawFloats(shape[0]! * 64, 2), { backend, shape });
    const out = await attention(q, k, k, { lengths }).data();
    expect(out.slice(0, 64).some(Number.isNaN)).toBe(false);
    expect(out.slice(64, 96).every(Number.isNaN)).toBe(true);
    expect(out.slice(96, 128).some(Number.isNaN)).toBe(false);
  }
});
