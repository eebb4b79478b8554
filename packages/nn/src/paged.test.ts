import { type CpuBackend, cpu } from '@lorikeet/cpu';
import { scope, tensor } from '@lorikeet/tensor';
import { afterAll, beforeAll, expect, it } from 'vitest';
import { AdamW, PagedAdamW } from './adamw.ts';
import { AdamW8bit, PagedAdamW8bit } from './adamw-8bit.ts';
import { Lion, Lion8bit, PagedLion, PagedLion8bit } from './lion.ts';

let backend: CpuBackend;
beforeAll(async () => {
  // Maps of 1 KiB stay in work memory, so that only state is counted.
  backend = await cpu({ threads: 1, storeFromBytes: 4096 });
});
afterAll(() => backend.close());

const storeBytes = (): number => backend.describe().storeBytes as number;
const wave = (n: number) => Float32Array.from({ length: n }, (_, i) => Math.sin(i));

/** Three steps; what they leave, and how much lies in the store then. */
async function train(Kind: typeof AdamW | typeof Lion, n: number) {
  const before = storeBytes();
  // Computed, not written: a parameter in work memory.
  using p = scope(() => tensor(wave(n), { backend }).mul(1));
  p.requiresGrad = true;
  using optimizer = new Kind([{ path: 'p', tensor: p }], { lr: 0.01, weightDecay: 0.1 });
  for (let i = 0; i < 3; i++) {
    using gradients = scope(() => p.mul(p).sum().backward());
    optimizer.step(gradients);
  }
  const stored = storeBytes() - before;
  const state = optimizer.stateDict().tensors;
  const bytes = await Promise.all([p, ...state.values()].map((t) => t.bytes()));
  return { bytes, stored, stateBytes: bytes.slice(1).reduce((sum, b) => sum + b.length, 0) };
}

const pairs = [
  [AdamW, PagedAdamW],
  [AdamW8bit, PagedAdamW8bit],
  [Lion, PagedLion],
  [Lion8bit, PagedLion8bit],
] as const;

it.each(pairs)('%o paged: the same bits, and its state rests in the store', async (Plain, Paged) => {
  if (backend.describe().storeLimitBytes === 0) return console.log('skipped: no 64-bit memory here');
  const [plain, paged] = [await train(Plain, 120_000), await train(Paged, 120_000)];
  expect(paged.bytes).toEqual(plain.bytes);
  expect(plain.stored).toBe(0);
  // All but the scales of 8-bit blocks, which are too small to be worth it.
  expect(paged.stored).toBeGreaterThan(0.98 * paged.stateBytes);
});

it('a parameter of less than 1e5 elements keeps its state in work memory', async () => {
  expect((await train(PagedAdamW, 99_999)).stored).toBe(0);
});
