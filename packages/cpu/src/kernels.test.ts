import {
  attention,
  type Backend,
  crossEntropy,
  type DType,
  dropout,
  randomKey,
  referenceBackend,
  rmsNorm,
  rope,
  split,
  type Tensor,
  tensor,
  uniform,
  writeRows,
} from '@lorikeet/tensor';
import fc from 'fast-check';
import { afterAll, expect, test } from 'vitest';
import { cpu } from './index.ts';
import { drawFloats } from './testing/draw.ts';
import { draw, expectEqual as expectSame } from './testing/expect-equal.ts';

const backend = await cpu({ threads: 2 });
const reference = referenceBackend();
afterAll(() => backend.close());

type On = Backend;
const size = (shape: readonly number[]) => shape.reduce((a, b) => a * b, 1);
const expectEqual = (compute: (on: On) => readonly Tensor[], relative?: number, absolute?: number) =>
  expectSame(backend, compute, relative, absolute);

const dims = fc.array(fc.integer({ min: 1, max: 9 }), { maxLength: 4 });
const dtypes: DType[] = ['f32', 'f16', 'bf16', 'i32', 'u8', 'i8', 'u32'];

test('elementwise calls broadcast any shapes and mix any dtypes', async () => {
  const property = fc.asyncProperty(
    dims,
    fc.array(fc.boolean(), { minLength: 4, maxLength: 4 }),
    fc.nat(4),
    fc.constantFrom(...dtypes),
    fc.constantFrom(...dtypes),
    fc.nat(99),
    async (shape, ones, drop, a, b, seed) => {
      const other = shape.map((n, i) => (ones[i] ? 1 : n)).slice(Math.min(drop, shape.length));
      await expectEqual((on) => {
        const [x, y] = [draw(on, seed, shape, a), draw(on, seed + 1, other, b)];
        return [x.add(y), x.mul(y).cast('f32').sigmoid(), x.gt(y), x.maximum(y)];
      }, 1e-2);
    },
  );
  await fc.assert(property, { numRuns: 150 });
});

test('elementwise calls read column blocks in place, in their gradients too', async () => {
  await expectEqual((on) => {
    const wide = tensor(drawFloats(37 * 30, 5), { backend: on, shape: [37, 30], requiresGrad: true });
    const [gate, up] = split(wide, [13, 17]) as [Tensor, Tensor];
    const up13 = up.slice(1, 0, 13);
    const out = gate.swiglu(up13).add(gate.cast('bf16').cast('f32'));
    return [out, up.exp(), out.mul(out).sum().backward().of(wide)];
  }, 1e-5);
  const before = backend.team.memory.liveBytes;
  using wide = tensor(drawFloats(64 * 128, 5), { backend, shape: [64, 128] });
  const [gate, up] = split(wide, [64, 64]) as [Tensor, Tensor];
  backend.team.memory.resetPeak();
  using out = gate.swiglu(up);
  expect(out.size).toBe(64 * 64);
  // The tensor and the result, but no dense copy of either half.
  expect(backend.team.memory.peakBytes - before).toBeLessThan((64 * 128 + 1.5 * 64 * 64) * 4);
});

test('five axes that do not fold still compute', async () => {
  await expectEqual((on) => [draw(on, 1, [2, 3, 2, 3, 2]).add(draw(on, 2, [1, 3, 1, 3, 1]))]);
});

test('reductions over any axes, rows longer than a block included', async () => {
  const property = fc.asyncProperty(
    fc.array(fc.integer({ min: 1, max: 20 }), { minLength: 1, maxLength: 4 }),
    fc.nat(3),
    fc.nat(3),
    fc.nat(99),
    async (shape, i, j, seed) => {
      const axes = [...new Set([i % shape.length, j % shape.length])];
      await expectEqual(
        (on) => {
          const x = draw(on, seed, shape);
          // The rounding of a long sum grows with the root of its length, at least.
          const whole = x.sum().div(Math.sqrt(x.size));
          return [x.sum(axes), x.max(axes), x.argmax(axes[0]), whole, x.mean(axes)];
        },
        2e-6,
        2e-5,
      );
    },
  );
  await fc.assert(property, { numRuns: 100 });
  await expectEqual(
    (on) => [draw(on, 3, [2, 70_001]).sum([1]), draw(on, 3, [70_001]).max(), draw(on, 4, [300, 70]).sum([0])],
    1e-5,
  );
});

test('permute, slice, pad, concat and indexSelect move every dtype', async () => {
  const property = fc.asyncProperty(
    fc.shuffledSubarray([0, 1, 2, 3, 4], { minLength: 5 }),
    fc.array(fc.integer({ min: 1, max: 5 }), { minLength: 5, maxLength: 5 }),
    fc.constantFrom(...dtypes),
    fc.nat(4),
    fc.nat(99),
    async (axes, shape, dtype, axis, seed) => {
      await expectEqual((on) => {
        const x = draw(on, seed, shape, dtype);
        const n = shape[axis]!;
        const moved = x.permute(axes);
        const cut = x.slice(axis, Math.floor(n / 2), n);
        const indices = tensor(
          Array.from({ length: 4 }, (_, i) => (seed + i) % n),
          { backend: on, dtype: 'i32' },
        );
        return [moved, cut, cut.concat([x, cut], axis), x.indexSelect(indices, axis), x.pad(axis, 1, 2)];
      });
    },
  );
  await fc.assert(property, { numRuns: 80 });
});

test('kernels that write in place touch their rows alone', async () => {
  const target = tensor(new Float32Array(60).fill(7), { backend, shape: [10, 6] });
  writeRows(target, tensor(new Float32Array(12).fill(1), { backend, shape: [2, 6] }), 4);
  expect([...(await target.data())]).toEqual(Array.from({ length: 60 }, (_, i) => (i >= 24 && i < 36 ? 1 : 7)));
});

test('norms, softmax and cross-entropy with their gradients', async () => {
  const property = fc.asyncProperty(
    fc.integer({ min: 1, max: 40 }),
    fc.integer({ min: 3, max: 70 }),
    fc.nat(99),
    async (rows, n, seed) => {
      await expectEqual(
        (on) => {
          const x = tensor(drawFloats(rows * n, seed, -8, 8), { backend: on, shape: [rows, n], requiresGrad: true });
          const weight = tensor(drawFloats(n, seed + 1), { backend: on, dtype: seed % 2 ? 'bf16' : 'f32' });
          const labels = tensor(
            Int32Array.from({ length: rows }, (_, i) => (i % 3 === 2 ? -100 : (i * 7) % n)),
            { backend: on, dtype: 'i32' },
          );
          const upstream = draw(on, seed + 2, [rows, n]);
          const outs = [x.softmax(-1), x.logSoftmax(-1), rmsNorm(x, weight, 1e-5)];
          const losses = [
            crossEntropy(x, labels, { reduction: 'none' }),
            crossEntropy(x, labels, { labelSmoothing: 0.1 }),
          ];
          const gradients = [...outs.map((t) => t.mul(upstream).sum()), losses[1]!].map((t) => t.backward().of(x));
          return [...outs, ...losses, ...gradients];
        },
        1e-5,
        1e-5,
      );
    },
  );
  await fc.assert(property, { numRuns: 40 });
});

test('a label outside the classes is refused, not addressed', () => {
  const logits = draw(backend, 1, [2, 5]);
  const labels = tensor([0, 5], { backend, dtype: 'i32' });
  expect(() => crossEntropy(logits, labels)).toThrow('labels must be -100 or in 0 .. 4: got 5 at row 1');
  const ids = tensor([0, -1], { backend, dtype: 'i32' });
  expect(() => logits.indexSelect(ids, 0)).toThrow('indices must be in 0 .. 1: got -1');
});

test('attention and its gradients: segments, groups, windows, caches, column blocks', async () => {
  const shapes = fc.record({
    kv: fc.integer({ min: 1, max: 2 }),
    group: fc.integer({ min: 1, max: 3 }),
    e: fc.integer({ min: 1, max: 24 }),
    lengths: fc.array(fc.integer({ min: 1, max: 110 }), { minLength: 1, maxLength: 3 }),
    cached: fc.nat(80),
    window: fc.option(fc.integer({ min: 1, max: 90 })),
    causal: fc.boolean(),
    seed: fc.nat(99),
  });
  const property = fc.asyncProperty(shapes, async ({ kv, group, e, lengths, cached, window, causal, seed }) => {
    const h = kv * group;
    const keyLengths = lengths.map((n) => n + cached);
    const [t, s] = [lengths, keyLengths].map((list) => list.reduce((a, b) => a + b, 0)) as [number, number];
    await expectEqual(
      (on) => {
        const q = tensor(drawFloats(t * h * e, seed), { backend: on, shape: [t, h, e], requiresGrad: true });
        const both = tensor(drawFloats(s * kv * e * 2, seed + 1), {
          backend: on,
          shape: [s, 2 * kv * e],
          requiresGrad: true,
        });
        const [k, v] = split(both, [kv * e, kv * e]).map((x) => x.reshape([s, kv, e])) as [Tensor, Tensor];
        const out = attention(q, k, v, { lengths, keyLengths, slidingWindow: window, causal });
        const gradients = out
          .mul(draw(on, seed + 2, [t, h, e]))
          .sum()
          .backward();
        return [out, gradients.of(q), gradients.of(both)];
      },
      1e-5,
      // With a window of 1 the gradient of q is a difference of equal sums: what is left is their rounding.
      1e-5,
    );
  });
  await fc.assert(property, { numRuns: 30 });
});

test('rope turns column blocks and back', async () => {
  const property = fc.asyncProperty(
    fc.integer({ min: 1, max: 30 }),
    fc.integer({ min: 1, max: 3 }),
    fc.integer({ min: 2, max: 24 }),
    fc.nat(99),
    async (t, h, e, seed) => {
      const p = Math.max(1, Math.floor(e / 2) - (seed % 2));
      await expectEqual((on) => {
        const wide = tensor(drawFloats(t * 2 * h * e, seed), {
          backend: on,
          shape: [t, 2 * h * e],
          requiresGrad: true,
        });
        const x = split(wide, [h * e, h * e])[1]!.reshape([t, h, e]);
        const out = rope(x, draw(on, seed + 1, [t, p]), draw(on, seed + 2, [t, p]));
        return [
          out,
          out
            .mul(draw(on, seed + 3, [t, h, e]))
            .sum()
            .backward()
            .of(wide),
        ];
      });
    },
  );
  await fc.assert(property, { numRuns: 40 });
});

test('dropout and uniform give the bits of the reference', async () => {
  const key = randomKey(11, 'mask');
  for (const shape of [[1], [37], [300, 129]]) {
    const [mine, theirs] = [backend, reference].map((on) =>
      dropout(tensor(new Float32Array(size(shape)).fill(1), { backend: on, shape }), 0.3, key),
    );
    expect(await mine!.data()).toEqual(await theirs!.data());
    const [a, b] = [backend, reference].map((on) => uniform(shape, { backend: on, key }));
    expect(await a!.data()).toEqual(await b!.data());
  }
});

test('work memory holds nothing when all tensors are gone', async () => {
  const run = () => {
    const x = tensor(drawFloats(3000, 1), { backend, shape: [60, 50] });
    const w = tensor(drawFloats(2000, 2), { backend, shape: [40, 50] });
    const out = x.matmul(w, { transposeB: true });
    const soft = out.softmax(-1);
    for (const t of [x, w, out, soft]) t.dispose();
  };
  run();
  const before = backend.team.memory.liveBytes;
  for (let i = 0; i < 50; i++) run();
  expect(backend.team.memory.liveBytes).toBe(before);
});
