import { memory, NonFiniteError, referenceBackend, scope, type Tensor, tensor } from '@lorikeet/tensor';
import { expectClose } from '@lorikeet/tensor/testing';
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { AdamW } from './adamw.ts';
import { clipGradNorm } from './clip-grad-norm.ts';
import { decayGroups, isDecayed, type Optimizer } from './optimizer.ts';
import { SGD } from './sgd.ts';

const backend = referenceBackend();
const leaf = (values: readonly number[], dtype: 'f32' | 'f64' | 'bf16' = 'f64'): Tensor =>
  tensor(values, { backend, dtype, requiresGrad: true });
const gradientOf = (p: Tensor, values: readonly number[]) =>
  p
    .mul(tensor(values, { backend, dtype: p.dtype === 'f64' ? 'f64' : 'f32' }))
    .sum()
    .backward();

// torch 2.15.0, f64: p = [0.5, -1, 2]; three steps with grad = [0.1 s, -0.2, 0.3 / s], s = 1, 2, 3.
//   AdamW([p], lr=0.1, weight_decay=0.1);  SGD([p], lr=0.1, momentum=0.9, weight_decay=0.01)
const torchAdamW = [
  [0.395000009999999, -0.8900000049999998, 1.8800000033333333],
  [0.294531813421253, -0.7811000099500002, 1.767982043349864],
  [0.19578637731062998, -0.6732890148505, 1.662986374404814],
];
const torchSGD = [
  [0.4895, -0.979, 1.968],
  [0.4595605, -0.939121, 1.922232],
  [0.40215538949999996, -0.882290779, 1.869118568],
];
const kinds: Record<string, { make: (p: Tensor) => Optimizer; want: number[][] }> = {
  AdamW: { make: (tensor) => new AdamW([{ path: 'p', tensor }], { lr: 0.1, weightDecay: 0.1 }), want: torchAdamW },
  SGD: {
    make: (tensor) => new SGD([{ path: 'p', tensor }], { lr: 0.1, momentum: 0.9, weightDecay: 0.01 }),
    want: torchSGD,
  },
};
const grads = (s: number): number[] => [0.1 * s, -0.2, 0.3 / s];

describe.each(Object.entries(kinds))('%s', (_name, { make, want }) => {
  it('does the steps of torch.optim', async () => {
    const p = leaf([0.5, -1, 2]);
    const optimizer = make(p);
    for (let s = 1; s <= 3; s++) {
      using gradients = gradientOf(p, grads(s));
      optimizer.step(gradients);
      expectClose(await p.data(), want[s - 1]!, { relative: 1e-12, absolute: 1e-12 }, `step ${s}`);
    }
    expect(optimizer.stepCount).toBe(3);
  });
  it('continues from saved state bit for bit', async () => {
    const p = leaf([0.5, -1, 2], 'f32');
    const optimizer = make(p);
    for (let s = 1; s <= 2; s++) optimizer.step(gradientOf(p, grads(s)));
    const saved = optimizer.stateDict();
    const tensors = new Map(
      await Promise.all(
        [...saved.tensors].map(
          async ([k, t]) => [k, { dtype: t.dtype, shape: t.shape, bytes: await t.bytes() }] as const,
        ),
      ),
    );
    const q = leaf([...(await p.data())], 'f32');
    const resumed = make(q);
    resumed.loadStateDict({ steps: { ...saved.steps }, tensors });
    optimizer.step(gradientOf(p, grads(3)));
    resumed.step(gradientOf(q, grads(3)));
    expect(await q.bytes()).toEqual(await p.bytes());
  });
  it('state outlives the scope of a step; nothing else does', () => {
    const p = leaf([1, 2, 3], 'f32');
    const optimizer = make(p);
    const step = () => scope(() => optimizer.step(gradientOf(p, [1, 1, 1])));
    step();
    const before = memory(backend).liveBytes;
    for (let i = 0; i < 5; i++) step();
    expect(memory(backend).liveBytes).toBe(before);
    optimizer.dispose();
    expect(memory(backend).liveBytes).toBeLessThan(before);
  });
  it('refuses state of other parameters, with all problems', () => {
    const optimizer = make(leaf([1, 2]));
    const other = tensor([1, 2, 3], { backend });
    expect(() =>
      optimizer.loadStateDict({
        steps: { p: 1, q: 1 },
        tensors: new Map([
          ['p.exp_avg', other],
          ['p.momentum_buffer', other],
        ]),
      }),
    ).toThrow(/expected \[2\], got \[3\][\s\S]*q: not a parameter of this optimizer[\s\S]*unexpected/);
  });
});

describe('groups', () => {
  it('have their own rate and decay; lrFactor scales all', async () => {
    const [a, b] = [leaf([1]), leaf([1])];
    const optimizer = new SGD(
      [
        { parameters: [{ path: 'a', tensor: a }], lr: 0.1 },
        { parameters: [{ path: 'b', tensor: b }], weightDecay: 1 },
      ],
      { lr: 0.01 },
    );
    optimizer.step(a.add(b).sum().backward(), { lrFactor: 0.5 });
    expect(await a.item()).toBeCloseTo(1 - 0.05, 12);
    expect(await b.item()).toBeCloseTo(1 - 0.005 * 2, 12);
  });
  it('a parameter that backward did not reach stays', async () => {
    const [a, b] = [leaf([1]), leaf([1])];
    const optimizer = new AdamW([
      { path: 'a', tensor: a },
      { path: 'b', tensor: b },
    ]);
    optimizer.step(a.sum().backward());
    expect(await b.item()).toBe(1);
    expect(optimizer.stateDict().steps).toEqual({ a: 1 });
  });
  it('refuse frozen or repeated parameters and bad settings', () => {
    const a = leaf([1]);
    const p = { path: 'a', tensor: a };
    expect(() => new AdamW([p, p])).toThrow('a stands in two');
    expect(() => new AdamW([{ path: 'f', tensor: tensor([1], { backend }) }])).toThrow('f is frozen');
    expect(() => new AdamW([p], { lr: -1 })).toThrow('lr and weightDecay must be at least 0: got -1');
    expect(() => new AdamW([p], { betas: [1, 0.9] })).toThrow('betas must be in [0, 1)');
  });
  it('norms and biases are not decayed', () => {
    const names = [
      'model.layers.0.input_layernorm.weight',
      'model.norm.weight',
      'lm_head.bias',
      'q_norm.weight',
      'model.layers.0.mlp.down_proj.weight',
      'lora_A',
    ];
    expect(names.filter(isDecayed)).toEqual(names.slice(4));
    const groups = decayGroups(
      names.map((path) => ({ path, tensor: leaf([1]) })),
      0.1,
    );
    expect(groups.map((g) => [g.parameters.length, g.weightDecay])).toEqual([
      [2, 0.1],
      [4, 0],
    ]);
  });
  it('16-bit parameters keep f32 state', async () => {
    const p = leaf([1, 2], 'bf16');
    const optimizer = new AdamW([{ path: 'p', tensor: p }], { lr: 0.5 });
    optimizer.step(gradientOf(p, [1, -1]));
    expect(optimizer.stateDict().tensors.get('p.exp_avg')!.dtype).toBe('f32');
    expect([...(await p.data())]).toEqual([0.494140625, 2.484375]);
  });
});

describe('clipGradNorm', () => {
  it('is the L2 norm over all parameters and the coefficient of torch', async () => {
    await fc.assert(
      fc.asyncProperty(
        fc.array(fc.array(fc.double({ min: -100, max: 100, noNaN: true }), { minLength: 1, maxLength: 5 }), {
          minLength: 1,
          maxLength: 4,
        }),
        fc.double({ min: 0.01, max: 1000, noNaN: true }),
        async (values, maxNorm) => {
          const parameters = values.map((v, i) => ({ path: `p${i}`, tensor: leaf(v.map(() => 1)) }));
          using gradients = scope(() =>
            parameters
              .map(({ tensor: p }, i) => p.mul(tensor(values[i]!, { backend, dtype: 'f64' })).sum())
              .reduce((a, b) => a.add(b))
              .backward(),
          );
          const { norm, scale } = await clipGradNorm(gradients, parameters, maxNorm);
          expect(norm).toBeCloseTo(Math.hypot(...values.flat()), 6);
          expect(scale).toBe(Math.min(1, maxNorm / (norm + 1e-6)));
        },
      ),
      { numRuns: 20 },
    );
  });
  it('leaves nothing behind and measures without a limit', async () => {
    const p = leaf([3, 4]);
    using gradients = scope(() => p.mul(p).mul(0.5).sum().backward());
    const before = memory(backend).liveTensors;
    expect(await clipGradNorm(gradients, [{ path: 'p', tensor: p }])).toEqual({ norm: 5, scale: 1 });
    expect(memory(backend).liveTensors).toBe(before);
  });
  it('names the first parameter that is not finite', async () => {
    const parameters = [1, Number.NaN, Number.POSITIVE_INFINITY].map((v, i) => ({
      path: `layers.${i}.weight`,
      tensor: leaf([v]),
      v,
    }));
    using gradients = scope(() =>
      parameters
        .map(({ tensor: p, v }) => p.mul(v).sum())
        .reduce((a, b) => a.add(b))
        .backward(),
    );
    const clip = clipGradNorm(gradients, parameters, 1);
    await expect(clip).rejects.toThrow(NonFiniteError);
    await expect(clip).rejects.toThrow('2 of 3 parameters are not, the first is layers.1.weight');
  });
  it('refuses a limit that is not above 0', async () => {
    const p = leaf([1]);
    await expect(clipGradNorm(p.sum().backward(), [{ path: 'p', tensor: p }], 0)).rejects.toThrow(
      'maxNorm must be null or above 0: got 0',
    );
  });
});
