import { dequantize4bit, matmul, matmul4bit, quantize4bit, type Tensor, tensor } from '@lorikeet/tensor';
import fc from 'fast-check';
import { afterAll, expect, test } from 'vitest';
import { type CpuBackend, cpu } from './index.ts';
import { drawFloats } from './testing/draw.ts';
import { defaults, type KernelParameters, type ParameterName, readTuning, type Tuning, tunable } from './tuning.ts';

const plain = await cpu({ threads: 1 });
afterAll(() => plain.close());

const table = (parameters: Partial<KernelParameters> = {}): Tuning => ({
  version: 1,
  hardware: 'a test',
  date: '2026-11-26',
  parameters,
});

/** Any table: each parameter left out or drawn from its choices. */
const drawnTables = fc
  .record(
    Object.fromEntries(
      Object.entries(tunable).map(([name, { choices }]) => [name, fc.constantFrom(...(choices as readonly unknown[]))]),
    ),
    { requiredKeys: [] },
  )
  .map((parameters) => table(parameters as Partial<KernelParameters>));

interface Shape {
  readonly m: number;
  readonly n: number;
  readonly k: number;
}

/** A product in each form, near and far, with a second pair and a bias, batched, and from 4 bits. */
function products(backend: CpuBackend, { m, n, k }: Shape): Tensor[] {
  const made = (seed: number, ...shape: number[]) =>
    tensor(
      drawFloats(
        shape.reduce((x, y) => x * y, 1),
        seed,
      ),
      { backend, shape },
    );
  const [a, at, b, bt] = [made(1, m, k), made(1, k, m), made(2, k, n), made(2, n, k)];
  const [u, v, bias] = [made(3, m, 5), made(4, n, 5), made(5, n)];
  const given = { quantType: 'nf4', blocksize: 64 } as const;
  const weight = { ...quantize4bit(bt, given), ...given, shape: [n, k], dtype: 'bf16' } as const;
  return [
    matmul(a, b),
    matmul(at, b, { transposeA: true }),
    matmul(a, bt, { transposeB: true, add: [u, v], bias }),
    matmul(at, bt, { transposeA: true, transposeB: true }),
    matmul(a.cast('bf16'), bt.cast('bf16'), { transposeB: true }),
    matmul(made(6, 20, 30, 12), made(7, 20, 12, 25)),
    matmul4bit(a, weight),
    matmul(a, dequantize4bit(weight), { transposeB: true }),
  ];
}

const shapes = fc.record({
  m: fc.oneof(fc.integer({ min: 1, max: 70 }), fc.constantFrom(300, 800)),
  n: fc.oneof(fc.integer({ min: 1, max: 70 }), fc.constantFrom(300, 1100)),
  k: fc.oneof(fc.integer({ min: 1, max: 70 }), fc.constantFrom(300, 700)),
});

test('any table gives right results, and the same bits on any number of threads', async () => {
  await fc.assert(
    fc.asyncProperty(drawnTables, shapes, async (tuning, shape) => {
      const backends = await Promise.all(
        [1, 2, 4].map((threads) => cpu({ threads, tuning, storeFromBytes: 4096, memoryLimitBytes: 2 ** 28 })),
      );
      try {
        for (const backend of backends) expect(backend.describe().switchedOff).toEqual([]);
        const expected = await Promise.all(products(plain, shape).map((t) => t.data()));
        const [one, ...more] = await Promise.all(
          backends.map((backend) => Promise.all(products(backend, shape).map((t) => t.data()))),
        );
        for (const other of more) expect(other).toEqual(one);
        // The default table and this one add up in other orders.
        for (const [i, values] of expected.entries()) {
          const narrow = i === 4;
          for (let e = 0; e < values.length; e++) {
            const [got, want] = [one![i]![e]!, values[e]!];
            const bound = (narrow ? 2 ** -7 * Math.abs(want) : 0) + Math.sqrt(shape.k) * 2 ** -20 * Math.sqrt(shape.k);
            if (!(Math.abs(got - want) <= bound)) throw new Error(`product ${i}, element ${e}: ${got} for ${want}`);
          }
        }
      } finally {
        await Promise.all(backends.map((backend) => backend.close()));
      }
    }),
    { numRuns: 12 },
  );
}, 240_000);

test('the parameters that order sums are part of what a resumed run compares', async () => {
  const other = await cpu({ threads: 1, tuning: table({ 'matmul.blockK': 128 }) });
  expect(other.describe().determinism).not.toBe(plain.describe().determinism);
  expect(other.describe().tuning).toBe('a test, 2026-11-26');
  await other.close();
});

test('every default is one of its choices', () => {
  for (const [name, value] of Object.entries(defaults))
    expect(tunable[name as ParameterName].choices, name).toContain(value);
});

test.each([
  [null, 'must be an object'],
  [[], 'must be an object'],
  [{ ...table(), version: 2 }, 'version must be 1: got 2'],
  [{ ...table(), more: 1 }, 'got more'],
  [{ ...table(), date: 5 }, 'date must be a text: got 5'],
  [{ ...table(), parameters: 7 }, 'parameters must be an object: got 7'],
  [table({ 'matmul.blockM': 4 } as object), 'got matmul.blockM'],
  [table({ 'matmul.blockK': 250 } as object), 'matmul.blockK must be one of 128, 192, 256, 384, 512: got 250'],
])('a table that is none is refused: %j', (bad, message) => {
  expect(() => readTuning(bad)).toThrow(message);
});
