import { describe, expect, it } from 'vitest';
import { referenceBackend, type Tensor } from './index.ts';
import { drawTensor } from './testing/draw.ts';
import { drawValues, gradcheck, gradientInputs, hostileBackend, opSuite, testedOps } from './testing/index.ts';

describe('reference backend in f32', () =>
  opSuite({ describe, it, expect }, { backend: async () => referenceBackend() }));
describe('hostile backend', () => opSuite({ describe, it, expect }, { backend: async () => hostileBackend() }));

describe('finite differences', () => {
  const backend = referenceBackend();
  for (const op of testedOps())
    op.samples.forEach((sample, i) => {
      const names = gradientInputs(op, sample);
      if (names.length === 0) return;
      it(`${op.name} ${i}`, async () => {
        const fixed = Object.fromEntries(
          Object.entries(sample.inputs).map(([n, input], k) => [n, drawTensor(input, 17 + k, backend, true)]),
        );
        const leaves = Object.entries(sample.inputs).flatMap(([name, input], k) =>
          names.includes(name)
            ? [{ name, shape: input.shape, values: Float64Array.from(drawValues(input, 17 + k)) }]
            : [],
        );
        const fn = (given: Tensor[]): Tensor => {
          const inputs = { ...fixed, ...Object.fromEntries(leaves.map((l, k) => [l.name, given[k]!])) };
          return op.call(inputs, sample.attributes ?? {})[0]!;
        };
        await gradcheck(backend, leaves, fn);
      });
    });
});

describe('the registry', () => {
  it('has samples for every op', () => {
    const bare = testedOps().filter((op) => op.samples.length === 0);
    expect(bare.map((op) => op.name)).toEqual([]);
  });
  it('names each op once, and gradients only for inputs that exist', () => {
    const names = testedOps().map((op) => op.name);
    expect(new Set(names).size).toBe(names.length);
    for (const op of testedOps()) for (const n of op.differentiable) expect(op.inputs).toContain(n);
  });
});
