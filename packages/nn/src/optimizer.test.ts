import {
  type Backend,
  type Call,
  memory,
  NonFiniteError,
  referenceBackend,
  scope,
  type Tensor,
  type TensorData,
  tensor,
} from '@lorikeet/tensor';
import { expectClose } from '@lorikeet/tensor/testing';
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { Adafactor } from './adafactor.ts';
import { AdamW, type AdamWOptions } from './adamw.ts';
import { AdamW8bit } from './adamw-8bit.ts';
import { clipGradNorm } from './clip-grad-norm.ts';
import { Lion, Lion8bit } from './lion.ts';
import { decayGroups, isDecayed, type Optimizer } from './optimizer.ts';
import { optimizerByName, optimizers } from './optimizer-by-name.ts';
import { SGD, type SGDOptions } from './sgd.ts';

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
// The same, torch.optim.AdamW([p], lr=0.1, weight_decay=0) and then p *= 1 - 0.1 * 0.1;
//   SGD([p], lr=0.1, momentum=0.9, nesterov=True, weight_decay=0.01);  SGD([p], lr=0.1, momentum=0.9, dampening=0.5)
const torchDecayAfter = [
  [0.396000009899999, -0.8910000049499998, 1.8810000033],
  [0.2964869952870405, -0.7830900098505001, 1.7699042229163655],
  [0.1986800085375237, -0.676259114701995, 1.6657624906607658],
];
const torchNesterov = [
  [0.48005, -0.9601, 1.9392],
  [0.43263290499999996, -0.90326581, 1.8810955200000001],
  [0.35056756198049993, -0.8312629239609999, 1.8214726865120001],
];
const torchDampening = [
  [0.49, -0.98, 1.97],
  [0.471, -0.952, 1.9355],
  [0.43889999999999996, -0.9168, 1.89945],
];
// bitsandbytes 0.50.2 on a CPU, f32, lr=0.1, weight_decay=0.1, min_8bit_size=0: Lion and Lion8bit (the same), AdamW8bit.
const bnbLion = [
  [0.39500001072883606, -0.8899999856948853, 1.8799999952316284],
  [0.2910500168800354, -0.7810999751091003, 1.761199951171875],
  [0.18813952803611755, -0.6732889413833618, 1.6435879468917847],
];
const bnbAdamW8bit = [
  [0.39500001072883606, -0.8899999856948853, 1.8799999952316284],
  [0.29459986090660095, -0.7807027697563171, 1.767982006072998],
  [0.19615629315376282, -0.6724815964698792, 1.662986397743225],
];
// transformers 5.23.0: Adafactor([p], lr=0.1, weight_decay=0.1, scale_parameter=False, relative_step=False)
const transformersAdafactor = [
  [0.395, -0.89, 1.88],
  [0.269850065668745, -0.7811, 1.794929077251251],
  [0.13720119338341433, -0.673289, 1.722834959564163],
];
const adamw = (options: AdamWOptions) => (tensor: Tensor) =>
  new AdamW([{ path: 'p', tensor }], { lr: 0.1, ...options });
const sgd = (options: SGDOptions) => (tensor: Tensor) =>
  new SGD([{ path: 'p', tensor }], { lr: 0.1, momentum: 0.9, ...options });
const blockwise = { lr: 0.1, weightDecay: 0.1, min8bitSize: 0 };
const kinds: Record<string, { make: (p: Tensor) => Optimizer; want: number[][]; dtype?: 'f32' }> = {
  AdamW: { make: adamw({ weightDecay: 0.1 }), want: torchAdamW },
  'AdamW with decay after the step': { make: adamw({ weightDecay: 0.1, decayOrder: 'after' }), want: torchDecayAfter },
  AdamW8bit: { make: (tensor) => new AdamW8bit([{ path: 'p', tensor }], blockwise), want: bnbAdamW8bit, dtype: 'f32' },
  Lion: { make: (tensor) => new Lion([{ path: 'p', tensor }], blockwise), want: bnbLion, dtype: 'f32' },
  Lion8bit: { make: (tensor) => new Lion8bit([{ path: 'p', tensor }], blockwise), want: bnbLion, dtype: 'f32' },
  Adafactor: {
    make: (tensor) =>
      new Adafactor([{ path: 'p', tensor }], { lr: 0.1, weightDecay: 0.1, scaleParameter: false, relativeStep: false }),
    want: transformersAdafactor,
  },
  SGD: { make: sgd({ weightDecay: 0.01 }), want: torchSGD },
  'SGD with nesterov': { make: sgd({ nesterov: true, weightDecay: 0.01 }), want: torchNesterov },
  'SGD with dampening': { make: sgd({ dampening: 0.5 }), want: torchDampening },
};
const grads = (s: number): number[] => [0.1 * s, -0.2, 0.3 / s];

describe.each(Object.entries(kinds))('%s', (_name, { make, want, dtype = 'f64' as const }) => {
  it('does the steps of its Python reference', async () => {
    const p = leaf([0.5, -1, 2], dtype);
    const tolerance = dtype === 'f64' ? { relative: 1e-12, absolute: 1e-12 } : { relative: 3e-7, absolute: 0 };
    const optimizer = make(p);
    for (let s = 1; s <= 3; s++) {
      using gradients = gradientOf(p, grads(s));
      optimizer.step(gradients);
      expectClose(await p.data(), want[s - 1]!, tolerance, `step ${s}`);
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
});

describe('loadStateDict', () => {
  const one = (values: readonly number[]) => [{ path: 'p', tensor: leaf(values) }];
  it('refuses state of other parameters, with all problems', () => {
    const other = tensor([1, 2, 3], { backend });
    expect(() =>
      new AdamW(one([1, 2])).loadStateDict({
        steps: { p: 1, q: 1 },
        tensors: new Map([
          ['p.exp_avg', other],
          ['p.momentum_buffer', other],
        ]),
      }),
    ).toThrow(/expected \[2\], got \[3\][\s\S]*exp_avg_sq: missing[\s\S]*q: not a parameter[\s\S]*unexpected/);
  });
  it('refuses 32-bit state where 8-bit state belongs', () => {
    const tensors = new Map(['state1', 'absmax1'].map((name) => [`p.${name}`, tensor([1, 2], { backend })]));
    expect(() => new Lion8bit(one([1, 2]), { min8bitSize: 0 }).loadStateDict({ steps: { p: 1 }, tensors })).toThrow(
      /state1: expected u8, got f32[\s\S]*absmax1: expected \[1\], got \[2\]/,
    );
  });
});

describe('8-bit state', () => {
  it('is bytes, a scale a 256 elements, and full state for small or named parameters', () => {
    const parameters = ['big', 'small', 'named'].map((path) => ({
      path,
      tensor: leaf(new Array<number>(path === 'small' ? 4095 : 4100).fill(1), 'f32'),
    }));
    const optimizer = new AdamW8bit(parameters, { keep32bit: new Set(['named']) });
    optimizer.step(
      scope(() =>
        parameters
          .map(({ tensor: p }) => p.sum())
          .reduce((a, b) => a.add(b))
          .backward(),
      ),
    );
    const state = optimizer.stateDict().tensors;
    const spec = (key: string) => `${state.get(key)?.dtype} [${state.get(key)?.shape}]`;
    expect(spec('big.state1')).toBe('u8 [4100]');
    expect(spec('big.absmax2')).toBe('f32 [17]');
    expect([spec('small.state2'), spec('named.state1')]).toEqual(['f32 [4095]', 'f32 [4100]']);
    expect(state.has('small.absmax1')).toBe(false);
  });
});

describe('a backend without a kernel for 8-bit steps', () => {
  it('composes them, within roundings of the kernel', async () => {
    const bare = referenceBackend();
    const composing = {
      ...bare,
      supports: (call: Call) => !/^(adamw|lion)8bit$/.test(call.op.name) && bare.supports(call),
    };
    for (const kind of [AdamW8bit, Lion8bit]) {
      const run = async (on: Backend): Promise<TensorData> => {
        const p = tensor(
          Float32Array.from({ length: 600 }, (_, i) => Math.sin(i)),
          { backend: on, requiresGrad: true },
        );
        const optimizer = new kind([{ path: 'p', tensor: p }], { ...blockwise, lr: 0.01 });
        for (let i = 0; i < 5; i++) optimizer.step(scope(() => p.mul(p).mul(p).sum().backward()));
        return p.data();
      };
      const [fused, composed] = [await run(bare), await run(composing)];
      expectClose(composed, fused, { relative: 1e-5, absolute: 1e-5 }, kind.name);
    }
  });
});

describe('optimizerByName', () => {
  it.each(Object.keys(optimizers))('%s lowers a parabola', async (name) => {
    const p = leaf([3, -2, 1], 'f32');
    const settings = { lr: 0.05, betas: [0.9, 0.99], eps: 1e-8, weightDecay: 0, keep32bit: new Set<string>() } as const;
    using optimizer = optimizerByName(name)([{ path: 'p', tensor: p }], settings);
    for (let i = 0; i < 30; i++) optimizer.step(scope(() => p.mul(p).sum().backward()));
    const left = Array.from((await p.data()) as Float32Array, Math.abs);
    expect(left[0]).toBeLessThan(2.2);
    expect(left[1]).toBeLessThan(1.2);
  });
  it('refuses a name that it does not know, listing all', () => {
    expect(() => optimizerByName('adamx')).toThrow(/must be one of adamw_torch, .*sgd: got adamx/);
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
    expect(() => new Lion([p], { betas: [0.9, 1] })).toThrow('betas must be in [0, 1)');
    expect(() => new SGD([p], { nesterov: true })).toThrow('nesterov needs a momentum above 0');
    expect(() => new Adafactor([p], { lr: 1 })).toThrow('lr must be given exactly where relativeStep is false');
    expect(() => new Adafactor([p], { lr: 1, relativeStep: false, warmupInit: true })).toThrow('needs relativeStep');
    expect(() => new AdamW8bit([p], { min8bitSize: -1 })).toThrow('min8bitSize must be at least 0');
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

// transformers 5.23.0, f64: the gradients of a [2, 3] matrix are [0.1 s, -0.2, 0.3 / s, 0.05, -0.4 s, 0.2].
//   Adafactor([p], lr=0.1, weight_decay=0.1, scale_parameter=False, relative_step=False);  Adafactor([p], beta1=0.9, warmup_init=True)
describe('Adafactor of a matrix', () => {
  const last = {
    factored: [-0.05483817760257273, -0.819852960564738, 1.6722759832594583, 0.8774847483525886, 0.28741278147882493, -2.110748581636031],
    relative: [0.4999977128300004, -0.9999993778618845, 1.9999988957237647, 0.9999996268571593, 1.1978404468048227e-6, -2.0000007059538056],
  }; // biome-ignore format: a table
  it.each([
    ['factored', { lr: 0.1, weightDecay: 0.1, scaleParameter: false, relativeStep: false }],
    ['relative', { beta1: 0.9, warmupInit: true }],
  ] as const)('%s is that of transformers', async (name, options) => {
    const p = tensor([[0.5, -1, 2], [1, 0, -2]], { backend, dtype: 'f64', requiresGrad: true }); // biome-ignore format: a matrix
    const optimizer = new Adafactor([{ path: 'p', tensor: p }], options);
    for (let s = 1; s <= 3; s++) {
      const given = tensor([[0.1 * s, -0.2, 0.3 / s], [0.05, -0.4 * s, 0.2]], { backend, dtype: 'f64' }); // biome-ignore format: a matrix
      optimizer.step(scope(() => p.mul(given).sum().backward()));
    }
    expectClose(await p.data(), last[name], { relative: 1e-12, absolute: 1e-13 }, name);
    expect([...optimizer.stateDict().tensors].map(([key, t]) => [key, ...t.shape])).toEqual([
      ...(name === 'relative' ? [['p.exp_avg', 2, 3]] : []),
      ['p.exp_avg_sq_row', 2],
      ['p.exp_avg_sq_col', 3],
    ]);
  });
});
