import { decode, randomKey } from '@lorikeet/tensor';
import { describe, expect, it } from 'vitest';
import { bf16Rows, normalTable } from './random-weights.ts';

const table = normalTable(1);
const spread = { deviation: 0.02, rowSpread: 0.3 };
const drawn = (shape: readonly [number, number], path = 'w', how = spread): Float32Array => {
  const pieces = Array.from(bf16Rows(shape, how, randomKey(1, path), table), (piece) => piece.slice());
  return decode(Buffer.concat(pieces), 'bf16') as Float32Array;
};
const deviationOf = (values: Float32Array): number =>
  Math.sqrt(values.reduce((sum, v) => sum + v * v, 0) / values.length);

describe('bf16Rows', () => {
  it('gives the same bytes for a key, others for another, in pieces of whole rows', () => {
    const shape = [4000, 1024] as const;
    const values = drawn(shape);
    expect(values).toHaveLength(4000 * 1024);
    expect(drawn(shape)).toEqual(values);
    expect(drawn([4, 1024], 'other')).not.toEqual(values.slice(0, 4096));
    const sizes = Array.from(bf16Rows(shape, spread, randomKey(1, 'w'), table), ({ length }) => length);
    expect(sizes).toEqual([2048 * 1024 * 2, 1952 * 1024 * 2]);
  });

  it('is normal in each row, with a scale of its own', () => {
    const values = drawn([256, 4096]);
    const rows = Array.from({ length: 256 }, (_, i) => deviationOf(values.subarray(i * 4096, (i + 1) * 4096)));
    const logs = rows.map((deviation) => Math.log(deviation / 0.02));
    const mean = logs.reduce((a, b) => a + b) / 256;
    expect(Math.abs(mean)).toBeLessThan(0.08);
    expect(Math.sqrt(logs.reduce((sum, log) => sum + (log - mean) ** 2, 0) / 256)).toBeCloseTo(0.3, 1);
    const even = drawn([64, 4096], 'w', { deviation: 1, rowSpread: 0 });
    expect(deviationOf(even)).toBeCloseTo(1, 1);
    expect(even.filter((v) => Math.abs(v) > 1).length / even.length).toBeCloseTo(0.317, 2);
    expect(even.every(Number.isFinite)).toBe(true);
  });
});
