import { describe, expect, it } from 'vitest';
import { createDynamicMap, dequantizeBlockwise, quantizeBlockwise, referenceBackend, scope, tensor } from './index.ts';

const backend = referenceBackend();

describe('createDynamicMap', () => {
  it('is the published signed map', () => {
    const map = createDynamicMap(true);
    expect(map.length).toBe(256);
    expect([map[0], map[127], map[255]]).toEqual([-0.99296875, 0, 1].map(Math.fround));
    expect(map[126]).toBeCloseTo(-5.5e-7, 12);
    expect(map.reduce((a, b) => a + b, 0)).toBeCloseTo(1, 6);
  });
  it('is the published unsigned map', () => {
    const map = createDynamicMap(false);
    expect([map[0], map[1], map[255]]).toEqual([0, 3.2500003044333425e-7, 1]);
    expect(map.reduce((a, b) => a + b, 0)).toBeCloseTo(75.1053, 4);
  });
  it('ascends', () => {
    for (const map of [createDynamicMap(true), createDynamicMap(false)])
      for (let i = 1; i < 256; i++) expect(map[i]!).toBeGreaterThan(map[i - 1]!);
  });
});

// bitsandbytes 0.50.2 on a CPU: quantize_blockwise(torch.tensor(x), code=create_dynamic_map(signed=True), blocksize=64)
const recorded = [
  { x: [0, 0, 0], quantized: [0, 0, 0], absmax: 0, back: [-0, -0, -0] },
  { x: [0, 1, -1e-7], quantized: [131, 255, 123], absmax: 1, back: [2.1249998098937795e-5, 1, -2.1249998098937795e-5] },
  { x: [Number.NaN, 1, 2], quantized: [0, 219, 255], absmax: 2, back: [-1.985937476158142, 1.001562476158142, 2] },
  { x: [Number.POSITIVE_INFINITY, 1, -1], quantized: [0, 131, 131], absmax: Number.POSITIVE_INFINITY },
  { x: [1e-45, 0], quantized: [255, 0], absmax: 1.401298464324817e-45 },
];

describe('quantizeBlockwise', () => {
  const code = tensor([...createDynamicMap(true)], { backend });
  it.each(recorded)('of $x is what bitsandbytes gives', async ({ x, quantized, absmax, back }) => {
    const got = quantizeBlockwise(tensor(x, { backend }), code, { blocksize: 64 });
    expect([...(await got.quantized.data())]).toEqual(quantized);
    expect(await got.absmax.toArray()).toEqual([absmax]);
    const again = dequantizeBlockwise(got.quantized, got.absmax, code, { blocksize: 64 });
    if (back) expect([...(await again.data())]).toEqual(back);
  });
  it('scales each block by its own largest value, the last short one too', async () => {
    const x = tensor([1, 2, 100, 200, 3], { backend });
    const { quantized, absmax } = quantizeBlockwise(x, code, { blocksize: 2 });
    expect(await absmax.toArray()).toEqual([2, 200, 3]);
    expect([...(await quantized.data())]).toEqual([219, 255, 219, 255, 255]);
  });
  it('returns to within half a step of the map', async () => {
    const values = Float32Array.from({ length: 1000 }, (_, i) => Math.sin(i) * Math.exp(Math.cos(3 * i)));
    const back = scope(() => {
      const { quantized, absmax } = quantizeBlockwise(tensor(values, { backend }), code, { blocksize: 100 });
      return dequantizeBlockwise(quantized, absmax, code, { blocksize: 100, dtype: 'f64' });
    });
    const got = await back.data();
    for (const [i, value] of values.entries()) {
      const largest = Math.max(...values.slice(i - (i % 100), i - (i % 100) + 100).map(Math.abs));
      // Steps are largest in the top decade: 0.9 / 64.
      expect(Math.abs(got[i]! - value)).toBeLessThanOrEqual(largest * (0.9 / 64 / 2 + 2e-5));
    }
  });
});
