import { fromBytes, normal, randomKey, referenceBackend, type Tensor, tensor } from '@lorikeet/tensor';
import { hostileBackend } from '@lorikeet/tensor/testing';
import { describe, expect, it } from 'vitest';
import { isLinearLike, Linear, plainWeightOf } from './linear.ts';
import { linearContract } from './linear-contract.ts';
import { ToyInt8Linear } from './testing/toy-int8-linear.ts';

const framework = { describe, it };
const key = randomKey(7);

linearContract('dense f32 with bias', framework, {
  backend: referenceBackend,
  make: (backend) => Linear.init(6, 5, { backend, key }),
});
linearContract('dense on the hostile backend', framework, {
  backend: hostileBackend,
  make: (backend) => Linear.init(6, 5, { backend, key }),
});
linearContract('dense bf16, frozen', framework, {
  backend: referenceBackend,
  make: (backend) => Linear.init(4, 3, { backend, key, dtype: 'bf16', bias: false, requiresGrad: false }),
});
linearContract('toy int8', framework, {
  backend: referenceBackend,
  make: async (backend) => {
    const rows = (await normal([5, 6], { backend, key }).toArray()) as number[][];
    return ToyInt8Linear.from(rows, backend);
  },
});

describe('Linear', () => {
  const backend = referenceBackend();
  it('computes x W^T + b', async () => {
    const layer = new Linear(
      tensor(
        [
          [1, 2],
          [3, 4],
          [5, 6],
        ],
        { backend },
      ),
      tensor([10, 20, 30], { backend }),
    );
    expect(await layer.forward(tensor([[1, -1]], { backend })).toArray()).toEqual([[9, 19, 29]]);
  });
  it('is initialised on +-1/sqrt(inFeatures), the same for the same key', async () => {
    const make = (): Linear => Linear.init(16, 400, { backend, key });
    const values = await make().weight.data();
    expect(Math.max(...values.map(Math.abs))).toBeLessThanOrEqual(0.25);
    expect(Math.max(...values.map(Math.abs))).toBeGreaterThan(0.245);
    expect(await make().weight.data()).toEqual(values);
  });
  it('refuses a weight that is not a float matrix, and a bias of another length', () => {
    const codes = fromBytes(new Uint8Array(4), { backend, dtype: 'u8', shape: [2, 2] });
    expect(() => new Linear(codes)).toThrow('Linear: weight must be [out, in] of floats: got [2, 2] u8');
    const weight = tensor([[1, 2]], { backend });
    expect(() => new Linear(weight, tensor([1, 2], { backend }))).toThrow('Linear: bias must be [1]: got [2]');
  });
  it('shows a plain weight only when that is all it multiplies by', () => {
    const plain = Linear.init(4, 3, { backend, key, bias: false });
    expect(plainWeightOf(plain)).toBe(plain.weight);
    expect(plainWeightOf(Linear.init(4, 3, { backend, key }))).toBeNull();
    const adapted = Object.assign(Linear.init(4, 3, { backend, key, bias: false }), { lora_A: plain.weight as Tensor });
    expect(plainWeightOf(adapted)).toBeNull();
    expect(plainWeightOf(ToyInt8Linear.from([[1, 2]], backend))).toBeNull();
    expect(isLinearLike(plain)).toBe(true);
    expect(isLinearLike({ stateEntries: () => [] })).toBe(false);
  });
});
