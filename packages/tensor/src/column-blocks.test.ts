/** A column block gives every op the values and gradients of its dense copy. */
import { describe, expect, it } from 'vitest';
import {
  attention,
  type Backend,
  concat,
  referenceBackend,
  scope,
  type Tensor,
  tensor,
  where,
  writeRows,
} from './index.ts';
import { hostileBackend } from './testing/index.ts';

const wide = (backend: Backend): Tensor =>
  tensor(
    Float32Array.from({ length: 6 * 14 }, (_, i) => ((i * 37) % 23) / 7 - 1.5),
    { backend, shape: [6, 14], requiresGrad: true },
  );

/** Functions of a block [6, 4] and a second one [6, 4]. */
const cases: Record<string, (x: Tensor, y: Tensor) => Tensor> = {
  'a view of a view': (x) => x.split([1, 3])[1]!.split([2, 1])[0]!.mul(2),
  'rows of a block': (x) => x.slice(0, 2, 5).slice(0, 1).exp(),
  'one row of a block': (x) => x.slice(0, 3, 4).reshape([-1]).sin(),
  'columns of a block': (x) => x.slice(1, 1, 3),
  'a block as heads': (x) => x.reshape([6, 2, 2]).mul(3),
  'heads of a block, some rows, as rows again': (x) => x.reshape([6, 2, 2]).slice(0, 1, 4).reshape([3, 4]).tanh(),
  'a block flattened': (x) => x.reshape([-1]).cumsum(),
  'a block regrouped': (x) => x.reshape([3, 8]).softmax(),
  'one column as a vector': (x) => x.split([1, 3])[0]!.reshape([6]).mul(2).add(1),
  'two blocks': (x, y) => x.mul(y).add(y),
  'where of blocks': (x, y) => where(x.gt(0), x, y),
  broadcast: (x, y) => x.slice(0, 0, 1).add(y),
  swiglu: (x, y) => x.swiglu(y),
  permute: (x) => x.reshape([6, 2, 2]).permute([1, 2, 0]),
  transpose: (x) => x.transpose(),
  pad: (x) => x.pad(0, 1, 2),
  concat: (x, y) => concat([x, y, x], 1),
  stack: (x, y) => x.stack([y], 1),
  expand: (x) => x.expand([2, 6, 4]),
  cast: (x) => x.cast('bf16').cast('f32'),
  contiguous: (x) => x.contiguous().mul(2),
  sum: (x) => x.sum(0),
  max: (x) => x.max(1),
  mean: (x) => x.reshape([6, 2, 2]).mean([0, 2]),
  rmsNorm: (x, y) => x.rmsNorm(y.slice(0, 2, 3).reshape([4]), 1e-5),
  layerNorm: (x, y) => x.layerNorm(y.slice(0, 2, 3).reshape([4]), y.slice(0, 1, 2).reshape([4])),
  softmax: (x) => x.softmax(),
  logSoftmax: (x) => x.logSoftmax(0),
  matmul: (x, y) => x.matmul(y, { transposeB: true }),
  'matmul transposed': (x, y) => x.matmul(y, { transposeA: true }),
  'matmul with a pair and a bias': (x, y) =>
    x.matmul(y, { transposeB: true, add: [y, x], bias: x.split([1, 3])[0]!.reshape([6]) }),
  attention: (x, y) => attention(x.reshape([6, 2, 2]), y.reshape([6, 2, 2]), x.reshape([6, 2, 2]), { lengths: [2, 4] }),
  rope: (x, y) => x.reshape([6, 1, 4]).rope(y.split([2, 2])[0]!.cos(), y.split([2, 2])[0]!.sin()),
  indexSelect: (x) => x.indexSelect(tensor([5, 0, 5], { backend: x.backend, dtype: 'i32' })),
  gather: (x) => x.gather(x.argmax(0, { keepDims: true }), 0),
  topk: (x) => x.topk(2).values,
  scatterAdd: (x, y) => x.scatterAdd(y.argmax(0, { keepDims: true }), y.slice(0, 0, 1), 0),
  crossEntropy: (x) => x.crossEntropy(tensor([0, 1, 2, 3, -100, 1], { backend: x.backend, dtype: 'i32' })).reshape([1]),
};

async function outcome(backend: Backend, run: (x: Tensor, y: Tensor) => Tensor, dense: boolean) {
  const all = wide(backend);
  const [out, g] = scope(() => {
    const [, x, , y] = all.split([1, 4, 2, 4, 3]) as [Tensor, Tensor, Tensor, Tensor];
    expect([x.isContiguous, y.isContiguous]).toEqual([false, false]);
    const made = dense ? run(x.contiguous(), y.contiguous()) : run(x, y);
    const weights = Float32Array.from({ length: made.size }, (_, i) => Math.cos(i));
    return [made, made.backward(tensor(weights, { backend, shape: made.shape }))] as const;
  });
  return { shape: out.shape, values: await out.data(), gradient: await g.of(all).data() };
}

describe.each([
  ['reference', referenceBackend],
  ['hostile', hostileBackend],
] as const)('%s backend', (_, open) => {
  it.each(Object.keys(cases))('%s', async (name) => {
    const backend = open();
    expect(await outcome(backend, cases[name]!, false)).toEqual(await outcome(backend, cases[name]!, true));
  });
  it('rows written into a slice land in the whole; into a block they are refused', async () => {
    const backend = open();
    const target = tensor([[1, 2], [3, 4], [5, 6]], { backend }); // biome-ignore format: a matrix
    writeRows(target.slice(0, 1), tensor([[7, 8]], { backend }), 1);
    writeRows(target, tensor([[0, 9], [0, 10]], { backend }).split([1, 1])[1]!.concat([tensor([[1], [2]], { backend })], 1), 0); // biome-ignore format: a line
    expect(await target.toArray()).toEqual([[9, 1], [10, 2], [7, 8]]); // biome-ignore format: a matrix
    const rows = tensor([[1, 2, 3]], { backend }).split([1, 2])[1]!;
    writeRows(target, rows, 2);
    expect(await target.slice(0, 2).toArray()).toEqual([[2, 3]]);
    expect(() => writeRows(target.split([1, 1])[0]!, tensor([[0]], { backend }), 0)).toThrow('column block [3, 1]');
  });
});
