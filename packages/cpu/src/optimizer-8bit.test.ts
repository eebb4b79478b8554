import { adamw8bitUpdate, createDynamicMap, lion8bitUpdate, referenceBackend, tensor } from '@lorikeet/tensor';
import fc from 'fast-check';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { type CpuBackend, cpu } from './backend.ts';

let backend: CpuBackend;
beforeAll(async () => {
  backend = await cpu({ threads: 2 });
});
afterAll(() => backend.close());

const dtype = fc.constantFrom('f32' as const, 'f16' as const, 'bf16' as const);
const rates = {
  gradScale: 0.7, lr: 0.01, beta1: 0.9, beta2: 0.999, eps: 1e-8, weightDecay: 0.1, weightDecayAfter: 0, correction1: 0.1, correction2: 0.03,
}; // biome-ignore format: one step

/** Everything a step leaves behind: parameter, places, scales. */
async function steps(
  on: CpuBackend | ReturnType<typeof referenceBackend>,
  kind: 'adamw' | 'lion',
  { n, seed, param, grad }: { n: number; seed: number; param: 'f32' | 'f16' | 'bf16'; grad: 'f32' | 'f16' | 'bf16' },
): Promise<Uint8Array[]> {
  const wave = (k: number) =>
    Float32Array.from({ length: n }, (_, i) => Math.sin(seed + k + i * i) * Math.exp(2 * Math.sin(i + k)));
  const blocks = Math.ceil(n / 256);
  const p = tensor(wave(1), { backend: on, dtype: param });
  const moments = [true, false].map((signed) => ({
    state: tensor(new Uint8Array(n), { backend: on, dtype: 'u8' }),
    absmax: tensor(new Float32Array(blocks), { backend: on }),
    map: tensor([...createDynamicMap(signed)], { backend: on }),
  }));
  const [m, v] = moments as [(typeof moments)[0], (typeof moments)[0]];
  for (let step = 0; step < 3; step++) {
    using g = tensor(wave(step + 2), { backend: on, dtype: grad });
    const done = kind === 'adamw' ? adamw8bitUpdate(p, g, [m, v], rates) : lion8bitUpdate(p, g, m, rates);
    expect(done).toBe(true);
  }
  const tensors = [p, ...moments.flatMap(({ state, absmax }) => [state, absmax])];
  const bytes = await Promise.all(tensors.map((t) => t.bytes()));
  for (const t of [...tensors, ...moments.map(({ map }) => map)]) t.dispose();
  return bytes;
}

describe.each(['adamw', 'lion'] as const)('%s on 8-bit moments', (kind) => {
  it('has the bits of the reference, for any size and dtype', async () => {
    expect(backend.kernelNames).toContain(`${kind}8bit`);
    const size = fc.oneof(fc.integer({ min: 1, max: 20 }), fc.integer({ min: 250, max: 1100 }), fc.constant(20_001));
    await fc.assert(
      fc.asyncProperty(fc.record({ n: size, seed: fc.nat(1000), param: dtype, grad: dtype }), async (drawn) => {
        expect(await steps(backend, kind, drawn)).toEqual(await steps(referenceBackend(), kind, drawn));
      }),
      { numRuns: 25 },
    );
  });
});
