import {
  type Backend,
  crossEntropy,
  embedding,
  gather,
  layerNorm,
  linearCrossEntropy,
  rmsNorm,
  scatterAdd,
  sumSquares,
  type Tensor,
  tensor,
} from '@lorikeet/tensor';
import fc from 'fast-check';
import { afterAll, expect, test } from 'vitest';
import { cpu } from './index.ts';
import { drawFloats } from './testing/draw.ts';
import { draw, expectEqual } from './testing/expect-equal.ts';

const backend = await cpu({ threads: 2 });
afterAll(() => backend.close());

const leaf = (on: Backend, seed: number, ...shape: number[]): Tensor => {
  const t = draw(on, seed, shape);
  t.requiresGrad = true;
  return t;
};
const indices = (on: Backend, n: number, seed: number, ...shape: number[]) =>
  tensor(
    Int32Array.from(
      drawFloats(
        shape.reduce((a, b) => a * b, 1),
        seed,
        0,
        n,
      ),
      (v) => Math.min(n - 1, Math.floor(v)),
    ),
    { backend: on, shape, dtype: 'i32' },
  );

test('every kernel of rows and indices is in use here', () => {
  const names = backend.kernelNames;
  for (const name of ['rmsNorm', 'layerNorm'].flatMap((n) => [n, `${n}Grad`, `${n}WeightGrad`]))
    expect(names).toContain(name);
  for (const name of ['indexSelect', 'indexAdd', 'gather', 'scatterAdd', 'argmax', 'sum', 'sumSquares'])
    expect(names).toContain(name);
});

test('norms with the gradients of input, weight and bias', async () => {
  const sizes = [fc.integer({ min: 1, max: 70 }), fc.integer({ min: 2, max: 90 })] as const;
  const property = fc.asyncProperty(...sizes, fc.nat(99), fc.constantFrom(0, 40), async (rows, n, seed, shift) => {
    await expectEqual(
      backend,
      (on) => {
        const x = leaf(on, seed, rows, n);
        const [weight, bias] = [leaf(on, seed + 1, n), leaf(on, seed + 2, n)];
        const upstream = draw(on, seed + 3, [rows, n]);
        const layer = layerNorm(x.add(shift), weight, bias);
        const root = rmsNorm(x, weight, 1e-5);
        const [a, b] = [layer, root].map((t) => t.mul(upstream).sum().backward());
        return [layer, root, ...[x, weight, bias].map((t) => a!.of(t)), ...[x, weight].map((t) => b!.of(t))];
      },
      2e-5,
      2e-5,
    );
  });
  await fc.assert(property, { numRuns: 40 });
  // More rows than one block of partial sums.
  await expectEqual(
    backend,
    (on) => {
      const [x, weight] = [leaf(on, 3, 700, 130), leaf(on, 4, 130)];
      return [
        rmsNorm(x, weight, 1e-5)
          .mul(draw(on, 5, [700, 130]))
          .sum()
          .backward()
          .of(weight),
      ];
    },
    2e-5,
    2e-5,
  );
});

test('sums and maxima over columns, in several blocks of rows and of columns', async () => {
  for (const [outer, n, inner] of [
    [1, 5000, 3],
    [2, 300, 1030],
    [3, 9, 17],
    [1, 33_000, 1],
  ] as const)
    await expectEqual(
      backend,
      (on) => {
        const x = draw(on, n, [outer, n, inner]);
        const whole = draw(on, n, [outer, n, inner], 'i32');
        return [x.sum([1]).div(Math.sqrt(n)), x.max([1]), whole.sum([1])];
      },
      1e-5,
      1e-5,
    );
});

test('sums of squares, in several blocks', async () => {
  for (const n of [1, 19, 70_001]) await expectEqual(backend, (on) => [sumSquares(draw(on, n, [n])).div(n)], 1e-5);
});

test('argmax gives the first of equal elements and the first NaN', async () => {
  const property = fc.asyncProperty(fc.integer({ min: 1, max: 90 }), fc.nat(99), fc.nat(3), async (n, seed, nans) => {
    const values = drawFloats(3 * n, seed, -2, 2).map(Math.round);
    for (let i = 0; i < nans; i++) values[(seed * 7 + i * 13) % values.length] = Number.NaN;
    await expectEqual(backend, (on) => [tensor(values, { backend: on, shape: [3, n] }).argmax(-1)]);
  });
  await fc.assert(property, { numRuns: 60 });
  await expectEqual(backend, (on) => [tensor(new Float32Array(40).fill(-Infinity), { backend: on }).argmax()]);
});

test('gather, scatterAdd and embedding with their gradients, indices repeated or never named', async () => {
  const sizes = {
    outer: fc.integer({ min: 1, max: 3 }),
    m: fc.integer({ min: 1, max: 40 }),
    n: fc.integer({ min: 1, max: 12 }),
  };
  const property = fc.asyncProperty(
    fc.record({ ...sizes, inner: fc.constantFrom(1, 3, 70, 2100), seed: fc.nat(99) }),
    async ({ outer, m, n, inner, seed }) => {
      await expectEqual(
        backend,
        (on) => {
          const x = leaf(on, seed, outer, n, inner);
          const places = indices(on, n, seed + 1, outer, m, inner);
          const picked = gather(x, places, 1);
          const source = leaf(on, seed + 2, outer, m, inner);
          const added = scatterAdd(x, places, source, 1);
          const rows = embedding(indices(on, n, seed + 3, m), x.reshape([outer * n, inner]));
          const seeds = [picked, added, rows].map((t, i) => draw(on, seed + 4 + i, t.shape));
          const [a, b, c] = [picked, added, rows].map((t, i) => t.mul(seeds[i]!).sum().backward());
          return [picked, added, rows, a!.of(x), b!.of(x), b!.of(source), c!.of(x)];
        },
        1e-5,
        1e-5,
      );
    },
  );
  await fc.assert(property, { numRuns: 25 });
  const x = draw(backend, 1, [1, 4, 2]);
  const wrong = tensor([0, 4], { backend, shape: [1, 1, 2], dtype: 'i32' });
  expect(() => gather(x, wrong, 1)).toThrow('gather: indices must be in 0 .. 3: got 4');
  expect(() => scatterAdd(x, wrong, draw(backend, 2, [1, 1, 2]), 1)).toThrow('indices must be in 0 .. 3: got 4');
});

test('cross-entropy of wide rows: extreme logits, infinities, and rows to ignore that hold NaN', async () => {
  await expectEqual(
    backend,
    (on) => {
      const values = drawFloats(6 * 5001, 1, -90, 90);
      values[7] = 3e4;
      values[5001 + 3] = Number.NEGATIVE_INFINITY;
      values.fill(Number.NaN, 2 * 5001, 3 * 5001);
      const logits = tensor(values, { backend: on, shape: [6, 5001], requiresGrad: true });
      const labels = tensor([7, 9, -100, 0, 5000, 44], { backend: on, dtype: 'i32' });
      const losses = crossEntropy(logits, labels, { reduction: 'none' });
      return [losses, crossEntropy(logits, labels).backward().of(logits)];
    },
    1e-5,
    1e-5,
  );
});

test('the gradient of cross-entropy holds no subnormal numbers, which would slow the products after it', async () => {
  const logits = tensor(drawFloats(4 * 3000, 1, -120, 0), { backend, shape: [4, 3000], requiresGrad: true });
  const labels = tensor([1, 2, 3, 4], { backend, dtype: 'i32' });
  const gradient = await crossEntropy(logits, labels, { labelSmoothing: 0 }).backward().of(logits).data();
  expect([...gradient].filter((v) => v !== 0 && Math.abs(v) < 2 ** -126)).toEqual([]);
  expect([...gradient].some((v) => v > 0 && v < 1e-20)).toBe(true);
});

test('linear + cross-entropy in chunks skips masked rows: same loss and gradients as of the other rows alone', async () => {
  const labels = Int32Array.from({ length: 50 }, (_, i) => (i % 3 === 0 ? -100 : (i * 7) % 90));
  await expectEqual(
    backend,
    (on) => {
      const [hidden, weight] = [leaf(on, 1, 50, 24), leaf(on, 2, 90, 24)];
      const loss = linearCrossEntropy(hidden, weight, labels, { chunkRows: 16 });
      const gradients = loss.backward();
      return [loss, gradients.of(hidden), gradients.of(weight)];
    },
    1e-5,
    1e-5,
  );
  const given = (rows: Int32Array) => {
    const kept = [...rows.keys()].filter((i) => rows[i] !== -100);
    const all = draw(backend, 1, [50, 24]);
    const picked = all.indexSelect(tensor(kept, { backend, dtype: 'i32' }), 0);
    return linearCrossEntropy(
      picked,
      draw(backend, 2, [90, 24]),
      kept.map((i) => rows[i]!),
    ).data();
  };
  const whole = linearCrossEntropy(draw(backend, 1, [50, 24]), draw(backend, 2, [90, 24]), labels);
  expect(await whole.data()).toEqual(await given(labels));
});

test('two gradients of one op come from one pass, column blocks and broadcasting included', async () => {
  const apply: ((a: Tensor, b: Tensor) => Tensor)[] = [
    (a, b) => a.swiglu(b),
    (a, b) => a.mul(b),
    (a, b) => a.div(b.abs().add(1)),
    (a, b) => a.abs().add(0.5).pow(b),
    (a, b) => a.maximum(b),
  ];
  for (const op of apply)
    for (const shape of [[6, 37], [37], [6, 1]])
      await expectEqual(
        backend,
        (on) => {
          const wide = leaf(on, 3, 6, 74);
          const other = leaf(on, 4, ...shape);
          const out = op(wide.slice(1, 37, 74), other);
          const gradients = out
            .mul(draw(on, 5, [6, 37]))
            .sum()
            .backward();
          return [out, gradients.of(wide), gradients.of(other)];
        },
        1e-5,
        1e-5,
      );
});
