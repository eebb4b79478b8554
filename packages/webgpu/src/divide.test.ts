import { scope, tensor } from '@lorikeet/tensor';
import fc from 'fast-check';
import { afterAll, describe, expect, it } from 'vitest';
import { describeOnAdapter, sharedBackend } from './testing/adapter.ts';

const vitest = { describe, it, afterAll };
const count = 4096;
const smallestNormal = 2 ** -126;

/** Floats of any bits, in three ranges: all, near 1, and whole numbers below 2^17. */
function draw(seed: number, range: number): Float32Array {
  const bits = new Uint32Array(count);
  const floats = new Float32Array(bits.buffer);
  let state = seed >>> 0;
  for (let i = 0; i < count; i++) {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    const mixed = Math.imul(state ^ (state >>> 15), 0x2c1b3c6d) >>> 0;
    if (range === 0) bits[i] = mixed;
    else if (range === 1) bits[i] = (mixed & 0x807fffff) | 0x3f800000;
    else floats[i] = (mixed % 131071) + 1;
  }
  return floats;
}

describeOnAdapter(vitest, 'division', () => {
  const shared = sharedBackend(vitest);
  it('rounds to nearest even, whatever the adapter does by itself', async () => {
    const backend = await shared();
    const seeds = fc.record({ a: fc.nat(), b: fc.nat(), range: fc.integer({ min: 0, max: 2 }) });
    await fc.assert(
      fc.asyncProperty(seeds, async ({ a, b, range }) => {
        const [top, by] = [draw(a, range), draw(b + 1, range)];
        using quotients = scope(() => tensor(top, { backend }).div(tensor(by, { backend })));
        const got = await quotients.data();
        for (let i = 0; i < count; i++) {
          const want = Math.fround(top[i]! / by[i]!);
          // Subnormal numbers may be flushed to zero on the way in and out.
          const isNormal = [top[i]!, by[i]!, want].every((x) => Math.abs(x) > smallestNormal && Number.isFinite(x));
          if (isNormal && got[i] !== want) expect(`${top[i]} / ${by[i]} = ${got[i]}`).toBe(`${want}`);
        }
      }),
      { numRuns: 30 },
    );
  });
});
