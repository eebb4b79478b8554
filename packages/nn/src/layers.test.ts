import { normal, randomKey, referenceBackend, type Tensor, tensor } from '@lorikeet/tensor';
import { expectClose } from '@lorikeet/tensor/testing';
import { describe, expect, it } from 'vitest';
import { Conv1d, Conv2d } from './conv.ts';
import { Embedding } from './embedding.ts';
import { kaimingUniform, normalInit } from './initialize.ts';
import { LayerNorm, RMSNorm } from './norm.ts';

const backend = referenceBackend();
const key = randomKey(3);
const close = { relative: 1e-5, absolute: 1e-6 };

describe('Embedding', () => {
  const table = (): Tensor =>
    tensor(
      [
        [1, 2],
        [3, 4],
        [5, 6],
      ],
      { backend, requiresGrad: true },
    );
  it('the padding row gets no gradient, the others count their uses', async () => {
    for (const ids of [Int32Array.of(2, 1, 1, 0), tensor([2, 1, 1, 0], { backend, dtype: 'i32' })]) {
      const layer = new Embedding(table(), { paddingIdx: 1 });
      const out = layer.forward(ids);
      expect(await out.toArray()).toEqual([
        [5, 6],
        [3, 4],
        [3, 4],
        [1, 2],
      ]);
      expect(await out.sum().backward().of(layer.weight).toArray()).toEqual([
        [1, 1],
        [0, 0],
        [1, 1],
      ]);
    }
    const plain = new Embedding(table());
    expect(await plain.forward([1, 1]).sum().backward().of(plain.weight).toArray()).toEqual([
      [0, 0],
      [2, 2],
      [0, 0],
    ]);
  });
  it('refuses ids outside the table and a padding row outside it', () => {
    expect(() => new Embedding(table()).forward([3])).toThrow('ids must be in 0 .. 2: got 3');
    expect(() => new Embedding(table(), { paddingIdx: 3 })).toThrow('paddingIdx must be null or in 0 .. 2: got 3');
  });
  it('starts as N(0, 1)', async () => {
    const values = [...(await Embedding.init(200, 50, { backend, key }).weight.data())];
    const mean = values.reduce((s, v) => s + v, 0) / values.length;
    const variance = values.reduce((s, v) => s + (v - mean) ** 2, 0) / values.length;
    expect(Math.abs(mean)).toBeLessThan(0.03);
    expect(Math.abs(variance - 1)).toBeLessThan(0.05);
  });
});

describe('norms', () => {
  it('have the statistics they promise', async () => {
    const x = normal([4, 32], { backend, key, mean: 3 });
    const rms = (await RMSNorm.init(32, { backend, eps: 0 }).forward(x).toArray()) as number[][];
    for (const row of rms) expect(row.reduce((s, v) => s + v * v, 0) / 32).toBeCloseTo(1, 5);
    const layer = (await LayerNorm.init(32, { backend, eps: 0 }).forward(x).toArray()) as number[][];
    for (const row of layer) {
      expect(row.reduce((s, v) => s + v, 0)).toBeCloseTo(0, 4);
      expect(row.reduce((s, v) => s + v * v, 0) / 32).toBeCloseTo(1, 5);
    }
  });
  it('train their weights', () => {
    const layer = LayerNorm.init(8, { backend });
    const gradients = layer
      .forward(normal([2, 8], { backend, key }))
      .sum()
      .backward();
    expect([gradients.has(layer.weight), gradients.has(layer.bias)]).toEqual([true, true]);
  });
});

describe('convolutions', () => {
  it('a kernel of size 1 is a matmul over channels', async () => {
    const layer = Conv1d.init(3, 5, 1, { backend, key });
    const x = normal([2, 3, 4], { backend, key: key.fold('x') });
    const want = layer.weight
      .reshape([1, 5, 3])
      .matmul(x)
      .add(layer.bias!.reshape([5, 1]));
    expectClose(await layer.forward(x).data(), await want.data(), close, 'conv1d of size 1');
  });
  it('shapes follow stride, padding, dilation and groups', () => {
    const layer = Conv2d.init(4, 6, [3, 2], { backend, key, stride: 2, padding: [1, 0], dilation: [2, 1], groups: 2 });
    expect(layer.weight.shape).toEqual([6, 2, 3, 2]);
    expect(layer.forward(normal([1, 4, 9, 8], { backend, key })).shape).toEqual([1, 6, 4, 4]);
  });
  it('a weight given instead is used, and gradients reach it', async () => {
    const layer = Conv2d.init(1, 1, 2, { backend, key, bias: false, requiresGrad: false });
    const weight = tensor(
      [
        [
          [
            [1, 0],
            [0, 1],
          ],
        ],
      ],
      { backend, requiresGrad: true },
    );
    const out = layer.forward(
      tensor(
        [
          [
            [
              [1, 2],
              [3, 4],
            ],
          ],
        ],
        { backend },
      ),
      weight,
    );
    expect(await out.toArray()).toEqual([[[[5]]]]);
    expect(await out.sum().backward().of(weight).toArray()).toEqual([
      [
        [
          [1, 2],
          [3, 4],
        ],
      ],
    ]);
  });
  it('refuses a weight of another rank', () => {
    expect(() => new Conv2d(tensor([[1]], { backend }))).toThrow('Conv2d: weight must have 4 axes');
  });
});

describe('initialisers', () => {
  it('kaimingUniform keeps to sqrt(6 / ((1 + a^2) fanIn))', async () => {
    const values = await kaimingUniform([50, 24], { backend, key, a: 0 }).data();
    const largest = Math.max(...values.map(Math.abs));
    expect(largest).toBeLessThanOrEqual(0.5);
    expect(largest).toBeGreaterThan(0.49);
  });
  it('normalInit has the std asked for', async () => {
    const values = [...(await normalInit([100, 100], { backend, key, std: 0.02 }).data())];
    expect(Math.sqrt(values.reduce((s, v) => s + v * v, 0) / values.length)).toBeCloseTo(0.02, 3);
  });
});
