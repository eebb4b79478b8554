import { matmul, split, type Tensor, tensor } from '@lorikeet/tensor';
import fc from 'fast-check';
import { afterAll, expect, test } from 'vitest';
import { cpu } from './index.ts';
import { drawFloats, drawIntegers } from './testing/draw.ts';

const backend = await cpu({ threads: 2 });
afterAll(() => backend.close());

interface Case {
  readonly m: number;
  readonly n: number;
  readonly k: number;
  readonly transposeA: boolean;
  readonly transposeB: boolean;
}

/** The product in f64 and the sum of absolute products, element by element. */
function exact(a: ArrayLike<number>, b: ArrayLike<number>, { m, n, k, transposeA, transposeB }: Case) {
  const [value, size] = [new Float64Array(m * n), new Float64Array(m * n)];
  for (let i = 0; i < m; i++)
    for (let j = 0; j < n; j++)
      for (let p = 0; p < k; p++) {
        const term = a[transposeA ? p * m + i : i * k + p]! * b[transposeB ? j * k + p : p * n + j]!;
        value[i * n + j]! += term;
        size[i * n + j]! += Math.abs(term);
      }
  return { value, size };
}

const stored = (rows: number, columns: number, transposed: boolean) => (transposed ? [columns, rows] : [rows, columns]);
const operands = (c: Case, a: Float32Array, b: Float32Array) =>
  [
    tensor(a, { backend, shape: stored(c.m, c.k, c.transposeA) }),
    tensor(b, { backend, shape: stored(c.k, c.n, c.transposeB) }),
  ] as const;

// Two 6x16 tiles and one more in each direction.
const cases = fc.record({
  m: fc.integer({ min: 1, max: 13 }),
  n: fc.integer({ min: 1, max: 33 }),
  k: fc.integer({ min: 1, max: 40 }),
  transposeA: fc.boolean(),
  transposeB: fc.boolean(),
});

test('small integers are exact for all transposes and all sizes to two tiles and one', async () => {
  await fc.assert(
    fc.asyncProperty(cases, fc.nat(1000), async (c, seed) => {
      const [x, y] = [drawIntegers(c.m * c.k, seed, 9), drawIntegers(c.k * c.n, seed + 1, 9)];
      using out = matmul(...operands(c, x, y), c);
      expect(await out.data()).toEqual(Float32Array.from(exact(x, y, c).value));
    }),
    { numRuns: 300 },
  );
});

/** reliability.md section 4, relaxed arithmetic: |error| <= sqrt(k) 2^-24 sum |a||b|. */
async function expectWithinBound(out: Tensor, x: ArrayLike<number>, y: ArrayLike<number>, c: Case): Promise<void> {
  const { value, size } = exact(x, y, c);
  const got = await out.data();
  for (let i = 0; i < got.length; i++) {
    const bound = Math.sqrt(c.k) * 2 ** -24 * size[i]! + 1e-38;
    if (!(Math.abs(got[i]! - value[i]!) <= bound))
      throw new Error(`element ${i} of ${JSON.stringify(c)}: ${got[i]} for ${value[i]}, bound ${bound}`);
  }
}

test.each([
  { m: 70, n: 150, k: 700, transposeA: false, transposeB: true },
  { m: 49, n: 33, k: 1025, transposeA: true, transposeB: false },
  { m: 200, n: 16, k: 257, transposeA: true, transposeB: true },
  { m: 800, n: 40, k: 64, transposeA: false, transposeB: false },
  { m: 1, n: 300, k: 1031, transposeA: false, transposeB: true },
  { m: 3, n: 65, k: 515, transposeA: false, transposeB: true },
  { m: 4, n: 66, k: 514, transposeA: false, transposeB: true },
  // Few rows of one operand: in tiles of 4, 5 and 6 rows, with the last steps of k alone, and B's in A's place.
  { m: 8, n: 70, k: 203, transposeA: false, transposeB: true },
  { m: 23, n: 45, k: 1029, transposeA: true, transposeB: true },
  { m: 90, n: 7, k: 260, transposeA: false, transposeB: true },
  { m: 91, n: 22, k: 321, transposeA: false, transposeB: false },
  // Thin products, turned round.
  { m: 301, n: 17, k: 300, transposeA: true, transposeB: false },
  { m: 300, n: 61, k: 40, transposeA: false, transposeB: false },
])('long sums stay within the error bound: %o', async (c) => {
  const [x, y] = [drawFloats(c.m * c.k, 5), drawFloats(c.k * c.n, 6)];
  using out = matmul(...operands(c, x, y), c);
  await expectWithinBound(out, x, y, c);
});

test.each([3, 40])('16-bit weights are widened exactly, %i rows', async (m) => {
  for (const dtype of ['bf16', 'f16'] as const) {
    const c = { m, n: 37, k: 90, transposeA: false, transposeB: true };
    const x = drawFloats(c.m * c.k, 7);
    using w = tensor(drawFloats(c.n * c.k, 8), { backend, dtype, shape: [c.n, c.k] });
    using a = tensor(x, { backend, shape: [m, c.k] });
    using out = matmul(a, w, c);
    await expectWithinBound(out, x, await w.data(), c);
    using both = matmul(a.cast(dtype), w, c);
    expect(both.dtype).toBe(dtype);
    const narrow = await both.data();
    const wide = exact(await a.cast(dtype).data(), await w.data(), c).value;
    for (let i = 0; i < narrow.length; i++)
      expect(Math.abs(narrow[i]! - wide[i]!)).toBeLessThan(0.01 * (1 + Math.abs(wide[i]!)));
  }
});

test.each([3, 60])('a second pair and a bias are summed into the tile, %i rows', async (m) => {
  const [n, k, r] = [50, 96, 4];
  const parts = {
    x: drawIntegers(m * k, 1, 5),
    w: drawIntegers(n * k, 2, 5),
    u: drawIntegers(m * r, 3, 5),
    v: drawIntegers(n * r, 4, 5),
    bias: drawIntegers(n, 5, 5),
  };
  const t = (values: Float32Array, ...shape: number[]) => tensor(values, { backend, shape });
  using out = matmul(t(parts.x, m, k), t(parts.w, n, k), {
    transposeB: true,
    add: [t(parts.u, m, r), t(parts.v, n, r)],
    bias: t(parts.bias, n),
  });
  const base = exact(parts.x, parts.w, { m, n, k, transposeA: false, transposeB: true }).value;
  const second = exact(parts.u, parts.v, { m, n, k: r, transposeA: false, transposeB: true }).value;
  expect(await out.data()).toEqual(Float32Array.from(base, (value, i) => value + second[i]! + parts.bias[i % n]!));
});

test.each([1, 2, 4, 8, 17])(
  '%i rows with a weight in the store have the bits of those with one in work memory',
  async (m) => {
    const [n, k] = [701, 1000];
    for (const dtype of ['f32', 'bf16'] as const) {
      using a = tensor(drawFloats(m * k, 1), { backend, shape: [m, k] });
      using far = tensor(drawFloats(n * k, 2), { backend, dtype, shape: [n, k] });
      using near = far.mul(1);
      const options = { transposeB: true };
      expect(await matmul(a, far, options).data()).toEqual(await matmul(a, near, options).data());
    }
  },
);

test('without a step of k the result is the bias', async () => {
  const bias = drawFloats(5, 1);
  const empty = (...shape: number[]) => tensor(new Float32Array(0), { backend, shape });
  using out = matmul(empty(3, 0), empty(0, 5), { bias: tensor(bias, { backend }) });
  expect(await out.data()).toEqual(Float32Array.from({ length: 15 }, (_, i) => bias[i % 5]!));
});

test('column blocks are read in place', async () => {
  const [m, n, k] = [30, 20, 24];
  const wide = tensor(drawIntegers(m * 3 * k, 1, 5), { backend, shape: [m, 3 * k] });
  const w = tensor(drawIntegers(n * k, 2, 5), { backend, shape: [n, k] });
  const middle = split(wide, [k, k, k])[1]!;
  expect(middle.isContiguous).toBe(false);
  using inPlace = matmul(middle, w, { transposeB: true });
  using copied = matmul(middle.contiguous(), w, { transposeB: true });
  expect(await inPlace.data()).toEqual(await copied.data());
});

test('batch axes broadcast, in the middle too', async () => {
  const a = tensor(drawIntegers(2 * 3 * 4 * 5, 1, 5), { backend, shape: [2, 3, 4, 5] });
  for (const shape of [
    [5, 6],
    [3, 5, 6],
    [2, 1, 5, 6],
    [1, 3, 5, 6],
  ]) {
    const size = shape.reduce((x, y) => x * y, 1);
    const b = tensor(drawIntegers(size, 2, 5), { backend, shape });
    const whole = (await b.expand([2, 3, 5, 6]).data()) as Float32Array;
    const got = await matmul(a, b).data();
    const all = (await a.data()) as Float32Array;
    for (let i = 0; i < 6; i++) {
      const c = { m: 4, n: 6, k: 5, transposeA: false, transposeB: false };
      const expected = exact(all.subarray(i * 20, i * 20 + 20), whole.subarray(i * 30, i * 30 + 30), c).value;
      expect(got.slice(i * 24, i * 24 + 24)).toEqual(Float32Array.from(expected));
    }
  }
});

test.each(['bf16', 'f16'] as const)(
  'results of %s are right where columns are no multiple of the tile',
  async (dtype) => {
    const [m, n, k] = [300, 33, 7];
    const [a, b] = [drawIntegers(m * k, 21, 4), drawIntegers(n * k, 22, 4)];
    const { value } = exact(a, b, { m, n, k, transposeA: false, transposeB: true });
    const [x, w] = [tensor(a, { backend, dtype, shape: [m, k] }), tensor(b, { backend, dtype, shape: [n, k] })];
    using out = matmul(x, w, { transposeB: true });
    expect(Array.from(await out.data())).toEqual(Array.from(value, (v) => v + 0));
  },
);
