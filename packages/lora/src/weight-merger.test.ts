import { memory, normal, randomKey, referenceBackend, type Tensor } from '@lorikeet/tensor';
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { numbers } from './testing/numbers.ts';
import { WeightMerger } from './weight-merger.ts';

describe('WeightMerger', () => {
  it('gives the same bits for any block size, and frees what it made', async () => {
    const size = fc.integer({ min: 1, max: 9 });
    await fc.assert(
      fc.asyncProperty(size, size, fc.integer({ min: 1, max: 30 }), async (rows, columns, blockElements) => {
        const backend = referenceBackend();
        const draw = (name: string): Tensor => normal([rows, columns], { backend, key: randomKey(1, name) });
        const [weight, update] = [draw('weight'), draw('update')];
        weight.requiresGrad = true;
        const target = {
          path: () => 'layer',
          weight: () => weight,
          delta: (start: number, end: number) => update.slice(0, start, end),
        };
        const [before, live] = [await numbers(weight), memory(backend).liveBytes];
        const merger = new WeightMerger(target, blockElements);
        await merger.merge();
        const change = await numbers(update);
        expect(await numbers(weight)).toEqual(before.map((v, i) => Math.fround(v + change[i]!)));
        expect(memory(backend).liveBytes).toBe(live);
        merger.unmerge();
        expect(await numbers(weight)).toEqual(before);
        expect(memory(backend).liveBytes).toBe(live);
      }),
      { numRuns: 30 },
    );
  });
  it('without the original nothing can be put back', async () => {
    const backend = referenceBackend();
    const weight = normal([2, 2], { backend, key: randomKey(1) });
    const merger = new WeightMerger({
      path: () => 'a.b',
      weight: () => weight,
      delta: (start, end) => weight.slice(0, start, end),
    });
    await merger.merge({ keepOriginal: false });
    expect(() => merger.unmerge()).toThrow('a.b must have its original weight: it was merged with keepOriginal: false');
  });
});
