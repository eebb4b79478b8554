import { type Tensor, tensor } from '@lorikeet/tensor';
import fc from 'fast-check';
import { afterAll, expect, test } from 'vitest';
import { cpu } from './index.ts';

const backend = await cpu({ threads: 2 });
afterAll(() => backend.close());

/** Distance in units of the last place of the f32 nearest to the exact value; subnormals count in steps of 2^-149. */
function ulps(got: number, exact: number): number {
  if (Object.is(got, Math.fround(exact)) || (Number.isNaN(got) && Number.isNaN(exact))) return 0;
  const exponent = Math.max(-126, Math.floor(Math.log2(Math.abs(exact) || 2 ** -126)));
  return Math.abs(got - exact) / 2 ** (exponent - 23);
}

/** All magnitudes: `steps` floats spread evenly over the bit patterns from low to high, of both signs where asked. */
function spread(low: number, high: number, steps: number, signed: boolean): Float32Array {
  const bits = (x: number) => new Uint32Array(new Float32Array([x]).buffer)[0]!;
  const words = new Uint32Array(steps);
  for (let i = 0; i < steps; i++) words[i] = bits(low) + Math.round(((bits(high) - bits(low)) * i) / (steps - 1));
  const values = new Float32Array(words.buffer);
  return signed
    ? Float32Array.from({ length: 2 * steps }, (_, i) => (i < steps ? values[i]! : -values[i - steps]!))
    : values;
}

const sigmoid = (x: number) => (x >= 0 ? 1 / (1 + Math.exp(-x)) : Math.exp(x) / (1 + Math.exp(x)));
const steps = 200_001;

const functions: [
  name: string,
  apply: (x: Tensor) => Tensor,
  exact: (x: number) => number,
  x: Float32Array,
  limit: number,
][] = [
  ['exp', (x) => x.exp(), Math.exp, spread(1e-30, 104, steps, true), 1.5],
  ['log', (x) => x.log(), Math.log, spread(1e-45, 3e38, steps, false), 1.5],
  ['log near 1', (x) => x.log(), Math.log, spread(0.5, 2, steps, false), 1.5],
  ['sin', (x) => x.sin(), Math.sin, spread(1e-30, 1e6, steps, true), 2],
  ['cos', (x) => x.cos(), Math.cos, spread(1e-30, 1e6, steps, true), 2],
  ['tanh', (x) => x.tanh(), Math.tanh, spread(1e-30, 100, steps, true), 2],
  ['sigmoid', (x) => x.sigmoid(), sigmoid, spread(1e-30, 104, steps, true), 2.5],
  ['sqrt', (x) => x.sqrt(), Math.sqrt, spread(1e-45, 3e38, steps, false), 0.51],
  ['pow', (x) => x.pow(7.3), (v) => v ** Math.fround(7.3), spread(1e-5, 1e5, steps, false), 1.5],
  ['pow of a large result', (x) => x.mul(0).add(9.5).pow(x), (v) => 9.5 ** v, spread(1e-3, 39, steps, true), 1.5],
  ['rsqrt', (x) => x.rsqrt(), (v) => 1 / Math.sqrt(v), spread(1e-38, 3e38, steps, false), 1.5],
];

test.each(functions)('%s is accurate to a few units of the last place', async (_, apply, exact, x, limit) => {
  using input = tensor(x, { backend });
  using out = apply(input);
  const got = await out.data();
  let [worst, at] = [0, 0];
  for (let i = 0; i < x.length; i++) {
    const error = ulps(got[i]!, exact(x[i]!));
    if (!(error <= worst)) [worst, at] = [error, i];
  }
  expect(worst, `at ${x[at]}: ${got[at]}`).toBeLessThanOrEqual(limit);
});

test('gelu keeps its absolute accuracy where 1 + erf(x) is small', async () => {
  const x = spread(1e-6, 6, steps, true);
  const got = await tensor(x, { backend }).gelu().data();
  const reference = await import('@lorikeet/tensor').then(({ referenceBackend }) =>
    tensor(x, { backend: referenceBackend() }).gelu().data(),
  );
  for (let i = 0; i < x.length; i++)
    expect(Math.abs(got[i]! - reference[i]!)).toBeLessThan(2e-7 * Math.max(1, Math.abs(x[i]!)));
});

const at = async (apply: (x: Tensor) => Tensor, ...x: number[]) => [...(await apply(tensor(x, { backend })).data())];
const { POSITIVE_INFINITY: inf, NaN: nan } = Number;

test('infinities, zeros and NaN as IEEE 754 has them', async () => {
  expect(await at((x) => x.exp(), inf, -inf, nan, 0, 1000, -1000)).toEqual([inf, 0, nan, 1, inf, 0]);
  expect(await at((x) => x.log(), inf, 0, -1, nan, 1)).toEqual([inf, -inf, nan, nan, 0]);
  expect(await at((x) => x.tanh(), inf, -inf, nan, 0)).toEqual([1, -1, nan, 0]);
  expect(await at((x) => x.sigmoid(), inf, -inf, nan, 0)).toEqual([1, 0, nan, 0.5]);
  expect(await at((x) => x.sin(), inf, nan, 0)).toEqual([nan, nan, 0]);
  expect(await at((x) => x.maximum(0), nan, -1, 2)).toEqual([nan, 0, 2]);
  expect(await at((x) => x.pow(2), -3, 0, -0.5, inf)).toEqual([9, 0, 0.25, inf]);
  expect(await at((x) => x.pow(3), -2, 0, 2)).toEqual([-8, 0, 8]);
  expect(await at((x) => x.pow(-5), -2, 4)).toEqual([-(2 ** -5), 4 ** -5]);
  expect(await at((x) => x.pow(0.3), -2, 0, 1)).toEqual([nan, 0, 1]);
});

test('f16 and bf16 round to nearest even, subnormals, infinities and NaN included', async () => {
  const bits = fc.uint32Array({ minLength: 1, maxLength: 40 });
  await fc.assert(
    fc.asyncProperty(bits, async (words) => {
      const x = new Float32Array(words.buffer.slice(words.byteOffset, words.byteOffset + words.byteLength));
      const half = await tensor(x, { backend }).cast('f16').data();
      expect([...half]).toEqual([...new Float32Array(new Float16Array(x))]);
      const brain = await tensor(x, { backend }).cast('bf16').data();
      for (const [i, value] of x.entries()) {
        if (Number.isNaN(value)) expect(brain[i]).toBeNaN();
        else if (Number.isFinite(brain[i]!))
          expect(Math.abs(brain[i]! - value)).toBeLessThanOrEqual(Math.abs(value) * 2 ** -8 + 2 ** -133);
      }
    }),
    { numRuns: 300 },
  );
});
