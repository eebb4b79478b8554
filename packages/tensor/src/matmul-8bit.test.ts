import { describe, expect, it } from 'vitest';
import {
  dequantizeRowwise,
  matmul8bit,
  quantizeRowwise,
  referenceBackend,
  scope,
  type Tensor,
  tensor,
} from './index.ts';

import { expectClose } from './testing/index.ts';

const backend = referenceBackend();
const exact = { relative: 0, absolute: 0 };
const a = [
  [0.5, -1.25, 3, 7],
  [1, 0.1, -0.2, 0.3],
  [-6.5, 2, 0, 0.25],
];
const weight = tensor([[0.1, 0.2, -0.3, 0.4], [-0.05, 0.6, 0.7, -0.8]], { backend }); // biome-ignore format: a matrix
const quantize = (w: Tensor) => ({ ...quantizeRowwise(w.cast('f16')), dtype: 'f16' as const });

// bitsandbytes 0.50.2, torch 2.15.0 on a CPU: int8_vectorwise_quant(weight.half()), then MatMul8bitLt of `a` in f32.
const outputs = {
  0: [1.7035021781921387, -4.301538467407227, 0.2999383807182312, -0.3660651445388794, -0.1503659039735794, 1.3170311450958252],
  6: [1.6999547481536865, -4.275700092315674, 0.30024927854537964, -0.36668968200683594, -0.15192407369613647, 1.3241076469421387],
}; // biome-ignore format: a table
const gradient = [0.05038139596581459, 0.7998046278953552, 0.3999023139476776, -0.39990234375];

describe('quantizeRowwise', () => {
  it('is int8_vectorwise_quant', async () => {
    const { quantized, absmax } = quantize(weight);
    expect([...(await quantized.data())]).toEqual([32, 64, -95, 127, -8, 95, 111, -127]);
    expect(await absmax.toArray()).toEqual([0.39990234375, 0.7998046875]);
  });
});

describe('matmul8bit', () => {
  it.each([0, 6] as const)('with threshold %s is MatMul8bitLt, forward and the gradient of a', async (threshold) => {
    const x = tensor(a, { backend, requiresGrad: true });
    const out = matmul8bit(x, quantize(weight), { threshold });
    const tolerance = threshold === 0 ? exact : { relative: 1e-6, absolute: 1e-7 };
    expectClose(await out.data(), outputs[threshold], tolerance, 'out');
    const given = await out.sum().backward().of(x).data();
    expectClose(given, [...gradient, ...gradient, ...gradient], { relative: 1e-6, absolute: 0 }, 'gradient');
  });
  it('adds a second product and a bias, over any leading axes', async () => {
    const x = tensor(a, { backend });
    const [u, v] = [tensor([[1], [2], [3]], { backend }), tensor([[10], [100]], { backend })];
    const bias = tensor([0.25, -0.5], { backend });
    const out = matmul8bit(x.reshape([3, 1, 4]), quantize(weight), { threshold: 0, add: [u, v], bias });
    expect(out.shape).toEqual([3, 1, 2]);
    const want = outputs[0].map(
      (value, i) => value + [10, 100][i % 2]! * (Math.floor(i / 2) + 1) + [0.25, -0.5][i % 2]!,
    );
    expectClose(await out.data(), want, { relative: 1e-6, absolute: 0 }, 'out');
  });
  it('keeps an outlier column exact where 8 bits would drown the rest', async () => {
    const rows = tensor([[1000, 0.5, 0.25], [900, -0.5, 0.125]], { backend }); // biome-ignore format: a matrix
    const w = quantize(tensor([[0, 1, 1]], { backend }));
    const worst = async (threshold: number) => {
      const got = await scope(() => matmul8bit(rows, w, { threshold })).data();
      return Math.max(Math.abs(got[0]! - 0.75), Math.abs(got[1]! + 0.375));
    };
    expect(await worst(6)).toBeLessThan(0.01);
    expect(await worst(0)).toBeGreaterThan(0.3);
  });
  it('sums in integers: 127 * 127 * 4096 is past what f32 counts in ones', async () => {
    const k = 4096;
    const ones = (last: number) =>
      tensor(
        Array.from({ length: k }, (_, i) => (i === k - 1 ? last : 127)),
        { backend },
      );
    const x = ones(1).reshape([1, k]);
    const w = quantize(ones(-1).reshape([1, k]));
    const out = await matmul8bit(x, w, { threshold: 0 }).item();
    const integers = 127 * 127 * (k - 1) - 1;
    expect(out).toBeCloseTo(integers * 127 * 127 * 6.200124e-5, -2);
  });
});

describe('dequantizeRowwise', () => {
  it('is quantized * absmax / 127', async () => {
    const w = quantize(weight);
    const back = dequantizeRowwise({ ...w, dtype: 'f32' });
    expectClose(await back.data(), await weight.data(), { relative: 0, absolute: 0.8 / 127 / 2 + 1e-3 }, 'back');
    expect(dequantizeRowwise(w).dtype).toBe('f16');
  });
});
