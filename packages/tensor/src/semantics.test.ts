/** Corners where a library differs from PyTorch without anybody noticing. Expected values are PyTorch's. */
import { describe, expect, it } from 'vitest';
import {
  checkpoint,
  concat,
  crossEntropy,
  type DType,
  fromBytes,
  layerNorm,
  linearCrossEntropy,
  maximum,
  memory,
  noGrad,
  pow,
  randomKey,
  referenceBackend,
  rmsNorm,
  type Tensor,
  tensor,
  where,
  withRandom,
  writeRows,
  zeros,
} from './index.ts';

const backend = referenceBackend();
const of = (data: Parameters<typeof tensor>[0], dtype: DType = 'f32', requiresGrad = false): Tensor =>
  tensor(data, { backend, dtype, requiresGrad });
const { NaN: nan, POSITIVE_INFINITY: inf } = Number;

describe('dtypes of results', () => {
  it('mean and division of integers are floats whatever the counts', async () => {
    const x = of([[3], [4]], 'i32');
    expect(x.mean(1).dtype).toBe('f32');
    expect(await x.mean().item()).toBe(3.5);
    expect(x.div(2).dtype).toBe('f32');
  });
  it('mean does not overflow where the sum would', async () => {
    expect(
      await of([2 ** 31 - 1, 2 ** 31 - 1], 'i32')
        .mean()
        .item(),
    ).toBe(2 ** 31);
  });
  it('where has the dtype of what it chooses between', async () => {
    const condition = of([1, 0], 'u8');
    expect(where(condition, 1, -1).dtype).toBe('f32');
    expect(await where(condition, 1, -1).toArray()).toEqual([1, -1]);
    expect(where(condition, of([1, 2], 'i8'), of([3, 4], 'i8')).dtype).toBe('i8');
    expect(where(of([0.5, 0]), of([1, 2], 'i32'), 7).dtype).toBe('i32');
  });
  it('cumsum of small integers does not wrap, of bf16 rounds once', async () => {
    expect(await of([200, 100], 'u8').cumsum().toArray()).toEqual([200, 300]);
    const running = of(new Float32Array(300).fill(1), 'bf16').cumsum();
    expect(running.dtype).toBe('bf16');
    expect((await running.data())[299]).toBe(300);
  });
});

describe('norms of half precision', () => {
  const x = () => of([[300, -600, 1000]], 'f16');
  it('rmsNorm and layerNorm do not overflow where a square would', async () => {
    const weight = of([1, 1, 1], 'f16');
    const rms = Math.sqrt((300 ** 2 + 600 ** 2 + 1000 ** 2) / 3);
    expect(rmsNorm(x(), weight, 1e-5).dtype).toBe('f16');
    const normed = await rmsNorm(x(), weight, 1e-5).data();
    for (const [i, v] of [300, -600, 1000].entries()) expect(normed[i]).toBeCloseTo(v / rms, 3);
    const layer = await layerNorm(x(), weight, weight).data();
    expect(layer.every(Number.isFinite)).toBe(true);
  });
  it('softmax rounds once', async () => {
    const values = Float32Array.from({ length: 300 }, (_, i) => Math.fround(Math.sin(i) * 4));
    const half = of(values, 'bf16');
    const exact = await of([...(await half.data())])
      .softmax()
      .cast('bf16')
      .data();
    expect(await half.softmax().data()).toEqual(exact);
  });
});

describe('gradients at corners', () => {
  const gradient = async (x: Tensor, fn: (x: Tensor) => Tensor): Promise<unknown> =>
    fn(x).sum().backward().of(x).toArray();
  it('maximum shares at ties and passes nothing to the smaller', async () => {
    expect(await gradient(of([1, 2, 3], 'f32', true), (x) => maximum(x, 2))).toEqual([0, 0.5, 1]);
  });
  it('where gives each side its part only', async () => {
    expect(await gradient(of([1, 2], 'f32', true), (x) => where(of([1, 0], 'u8'), x, x.mul(10)))).toEqual([1, 10]);
  });
  it('relu is 0 at 0', async () => {
    expect(await gradient(of([-1, 0, 1], 'f32', true), (x) => x.relu())).toEqual([0, 0, 1]);
  });
  it('pow: base 0, exponent 0, negative bases', async () => {
    expect(await gradient(of([0, 0, -2], 'f32', true), (x) => x.pow(of([0, 2, 3])))).toEqual([0, 0, 12]);
    const byExponent = (a: number[], b: number[]): Promise<unknown> =>
      gradient(of(b, 'f32', true), (x) => pow(of(a), x));
    expect(await byExponent([0, 0, -2], [0, 3, 2])).toEqual([0, 0, nan]);
    expect(await byExponent([0], [-1])).toEqual([-inf]);
  });
  it('pow follows IEEE 754 where JavaScript does not', async () => {
    expect(
      await of([1, 1, -1, 0])
        .pow(of([nan, inf, inf, 0]))
        .toArray(),
    ).toEqual([1, 1, 1, 1]);
  });
});

describe('order', () => {
  it('argmax and topk take NaN for the largest and the first of equals', async () => {
    expect(await of([1, nan, 3, nan]).argmax().item()).toBe(1);
    const { values, indices } = of([2, nan, 5, 5]).topk(3);
    expect(await indices.toArray()).toEqual([1, 2, 3]);
    expect(await values.toArray()).toEqual([nan, 5, 5]);
  });
  it('topk never repeats a place, not even among -infinity', async () => {
    const { values, indices } = of([[-inf, 5, -inf, -inf]]).topk(4);
    expect(await indices.toArray()).toEqual([[1, 0, 2, 3]]);
    expect(await values.toArray()).toEqual([[5, -inf, -inf, -inf]]);
  });
  it('topk of integers is exact beyond 2^24', async () => {
    expect(
      await of([2 ** 24, 2 ** 24 + 1, -(2 ** 30)], 'i32')
        .topk(2)
        .indices.toArray(),
    ).toEqual([1, 0]);
  });
});

describe('empty and scalar', () => {
  it('topk of none still depends on its tensor', async () => {
    const x = of([[1, 2]], 'f32', true);
    expect(await x.topk(0).values.sum().backward().of(x).toArray()).toEqual([[0, 0]]);
  });
  it('sums of nothing are 0, means of nothing NaN', async () => {
    const x = zeros([2, 0], { backend });
    expect(await x.sum(1).toArray()).toEqual([0, 0]);
    expect(await x.mean().item()).toBe(nan);
    expect(() => x.max(1)).toThrow('at least one element');
  });
  it('empty tensors broadcast, concatenate, slice and multiply', async () => {
    const x = zeros([0, 3], { backend });
    expect(x.add(of([1, 2, 3])).shape).toEqual([0, 3]);
    expect(await concat([x, of([[1, 2, 3]])]).toArray()).toEqual([[1, 2, 3]]);
    expect(of([[1, 2]]).slice(0, 1).shape).toEqual([0, 2]);
    expect(await zeros([2, 0], { backend }).matmul(x).toArray()).toEqual([[0, 0, 0], [0, 0, 0]]); // biome-ignore format: a matrix
    expect(() => of([1, 2]).add(zeros([0], { backend }))).toThrow('shapes must broadcast');
  });
  it('scalars reduce, reshape and say what they lack', async () => {
    const x = of(4, 'f32', true);
    expect(await x.mul(x).sum().backward().of(x).item()).toBe(8);
    expect(x.reshape([1, 1]).shape).toEqual([1, 1]);
    expect(() => x.slice(0, 0, 1)).toThrow('slice: the tensor must have an axis 0: got a scalar');
    expect(() => x.topk(1)).toThrow('got a scalar');
  });
});

describe('refusals', () => {
  it.each<[string, () => unknown]>([
    ['slice: integers with 0 <= start', () => of([1, 2, 3]).slice(0, 0.5, 2)],
    ['pad: before and after must be integers', () => of([1]).pad(0, -1, 0)],
    ['split: sizes must be integers', () => of([[1, 2]]).split([3, -1])],
    ['gather: indices must have', () => zeros([2, 3, 4], { backend }).gather(zeros([3, 2, 4], { backend, dtype: 'i32' }), 2)],
    ['scatterAdd: source and indices', () => zeros([2, 3], { backend }).scatterAdd(zeros([2, 1], { backend, dtype: 'i32' }), zeros([2, 2], { backend }), 1)],
    ['sum: axes must differ: got [0, 0]', () => of([[1]]).sum([0, -2])],
    ["gelu: approximate must be 'none' or 'tanh': got 'fast'", () => of([1]).gelu({ approximate: 'fast' as 'tanh' })],
    ['add: input b must be a tensor or a number: got undefined', () => of([1]).add(undefined as unknown as number)],
    ['chunkRows must be an integer', () => linearCrossEntropy(of([[1]]), of([[1]]), [0], { chunkRows: 0 })],
    ['normalizer must be a finite', () => linearCrossEntropy(of([[1]]), of([[1]]), [0], { normalizer: 0 })],
    ['writeRows: the target must own its rows', () => writeRows(of([[1, 2], [3, 4]]).split([1, 1])[1]!, of([[9]]), 0)],
    ['must fit into', () => writeRows(of([[1], [2]]), of([[9]]), 0.5)],
    ['fromBytes: [2] f32 needs 8 bytes', () => fromBytes(new Uint8Array(7), { backend, shape: [2] })],
    ['tensor: shape [3] must hold the data: got 2 numbers', () => tensor([1, 2], { backend, shape: [3] })],
    ['tensor: data must be numbers', () => of(['a'] as unknown as number[])],
    ['Only reshape takes -1', () => zeros([-1], { backend })],
    ['withRandom: fn must be synchronous', () => withRandom(randomKey(1), async () => 1)],
    ['checkpoint: fn must be synchronous', () => checkpoint((async (x: Tensor) => x) as unknown as (x: Tensor) => Tensor, of([1]))],
    ['requiresGrad: the dtype must be floating', () => of([1], 'i32', true)],
  ])('%s', (message, run) => expect(run).toThrow(message)); // biome-ignore format: a table
});

describe('losses', () => {
  const labels = (list: number[]): Tensor => of(list, 'i32');
  it('are 0 with gradient 0 where every row is ignored, NaN in such a row or not', async () => {
    const logits = of([[nan, 1], [2, 3]], 'f32', true); // biome-ignore format: a matrix
    const loss = crossEntropy(logits, labels([-100, -100]));
    expect(await loss.item()).toBe(0);
    expect(await loss.backward().of(logits).toArray()).toEqual([[0, 0], [0, 0]]); // biome-ignore format: a matrix
    const hidden = of([[1, 2]], 'f32', true);
    const fused = linearCrossEntropy(hidden, of([[1, 0], [0, 1]]), [-100]); // biome-ignore format: a matrix
    expect(await fused.item()).toBe(0);
    expect(await fused.backward().of(hidden).toArray()).toEqual([[0, 0]]);
  });
  it.each(['f16', 'bf16'] as const)('of %s are computed in f32', async (dtype) => {
    const values = [[0.3, -1.7, 2.1], [1.1, 0.4, -0.6]]; // biome-ignore format: a matrix
    const table = [[1.3, 0.2, -0.7], [-0.4, 0.9, 1.6], [0.1, -1.2, 0.8]]; // biome-ignore format: a matrix
    const run = async (kind: DType) => {
      const [hidden, weight] = [of(values, dtype), of(table, dtype)].map((x) => x.cast(kind)) as [Tensor, Tensor];
      for (const x of [hidden, weight]) {
        x.requiresGrad = false;
        expect(x.dtype).toBe(kind);
      }
      hidden.requiresGrad = true;
      weight.requiresGrad = true;
      const loss = linearCrossEntropy(hidden, weight, [2, 0]);
      const gradients = loss.backward();
      expect([loss.dtype, gradients.of(hidden).dtype, gradients.of(weight).dtype]).toEqual(['f32', 'f32', 'f32']);
      const direct = crossEntropy(hidden.cast('f32').matmul(weight, { transposeB: true }), labels([2, 0]));
      return [await loss.item(), await direct.item(), ...(await gradients.of(weight).data())];
    };
    expect(await run(dtype)).toEqual(await run('f32'));
  });
});

describe('memory without a scope', () => {
  const inputs = (): Tensor[] => [
    tensor([[[1, 2, 3], [4, 5, 6]]], { backend, requiresGrad: true }),
    tensor([[[0, 1, 0], [1, 0, 1]]], { backend, dtype: 'i32' }),
  ]; // biome-ignore format: matrices
  const calls: Record<string, (x: Tensor, i: Tensor) => Tensor | Tensor[]> = {
    sum: (x) => x.sum([0, 2]),
    mean: (x) => x.mean(1),
    max: (x) => x.max([0, 2]),
    argmax: (x) => x.argmax(1),
    cumsum: (x) => x.cumsum(1),
    softmax: (x) => x.softmax(1),
    logSoftmax: (x) => x.logSoftmax(-1),
    layerNorm: (x) => x.layerNorm(zeros([3], { backend }), zeros([3], { backend })),
    cast: (x) => x.cast('i32'),
    stack: (x) => x.stack([x, x], 1),
    concat: (x) =>
      concat(
        Array.from({ length: 9 }, () => x),
        1,
      ),
    gather: (x, i) => x.gather(i, 1),
    scatterAdd: (x, i) => x.scatterAdd(i, x, 2),
    indexSelect: (x, i) => x.indexSelect(i, 1),
    topk: (x) => Object.values(x.topk(2)),
    reshape: (x) => x.reshape([2, 3]).split([1, 2])[1]!.reshape([-1]),
    crossEntropy: (x) => crossEntropy(x.reshape([2, 3]), zeros([2], { backend, dtype: 'i32' })),
    linearCrossEntropy: (x) => linearCrossEntropy(x.reshape([2, 3]), x.reshape([2, 3]), [0, 1]),
  };
  // What a case itself leaves behind: weights, labels and reshaped handles of x.
  const own: Record<string, number> = { layerNorm: 2, crossEntropy: 1 };
  it.each(Object.keys(calls))('%s leaves nothing but its result', (name) => {
    for (const record of [true, false]) {
      const before = memory(backend).liveTensors;
      const [x, i] = inputs() as [Tensor, Tensor];
      const run = (): Tensor[] => [calls[name]!(x, i)].flat();
      for (const t of record ? run() : noGrad(run)) t.dispose();
      i.dispose();
      x.dispose();
      const held = name === 'reshape' || name === 'crossEntropy' || name === 'linearCrossEntropy' ? 1 : 0;
      expect(memory(backend).liveTensors - before).toBe((own[name] ?? 0) + held);
    }
  });
});
