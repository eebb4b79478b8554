import { linearContract, Module, Linear as PlainLinear } from '@lorikeet/nn';
import { memory, noGrad, normal, randomKey, referenceBackend, type Tensor, tensor } from '@lorikeet/tensor';
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import * as lora from '../index.ts';
import { distance, numbers } from '../testing/numbers.ts';

const key = randomKey(3);
const backend = referenceBackend();

/** Random values in every tensor: an adapter that does something. */
function randomize<M extends Module>(module: M, seed = 1): M {
  const state = module
    .namedParameters()
    .map(({ path, tensor: t }) => [path, normal(t.shape, { backend, key: randomKey(seed, path) })] as const);
  module.loadStateDict(new Map(state));
  return module;
}

const framework = { describe, it };
linearContract('lora.Linear', framework, {
  backend: referenceBackend,
  make: (b) => new lora.Linear(6, 5, { r: 2, loraAlpha: 3, loraDropout: 0.5, backend: b, key }).eval(),
});
linearContract('lora.MergedLinear', framework, {
  backend: referenceBackend,
  make: (b) => {
    const layer = new lora.MergedLinear(4, 7, {
      r: 2,
      enableLora: [true, false, true],
      sliceSizes: [4, 2, 1],
      backend: b,
      key,
    });
    layer.lora_B = normal([5, 2], { backend: b, key, requiresGrad: true });
    return layer.eval();
  },
});

describe('the tutorial', () => {
  class Net extends Module {
    fc1 = new lora.Linear(4, 8, { r: 2, loraAlpha: 4, backend, key: key.fold('fc1') });
    head = PlainLinear.init(8, 3, { backend, key: key.fold('head') });
    forward(x: Tensor): Tensor {
      return this.head.forward(this.fc1.forward(x).relu());
    }
  }
  const paths = (state: ReadonlyMap<string, Tensor>): string[] => [...state.keys()];

  it('has the keys of a plain network and the adapter beside them', () => {
    expect(paths(new Net().stateDict())).toEqual([
      'fc1.weight',
      'fc1.bias',
      'fc1.lora_A',
      'fc1.lora_B',
      'head.weight',
      'head.bias',
    ]);
  });
  it('before marking only the adapted weight is frozen, as in loralib', () => {
    expect(
      new Net()
        .namedParameters()
        .filter(({ tensor: t }) => !t.requiresGrad)
        .map(({ path }) => path),
    ).toEqual(['fc1.weight']);
  });
  it.each([
    ['none', ['fc1.lora_A', 'fc1.lora_B']],
    ['all', ['fc1.bias', 'fc1.lora_A', 'fc1.lora_B', 'head.bias']],
    ['lora_only', ['fc1.bias', 'fc1.lora_A', 'fc1.lora_B']],
  ] as const)('markOnlyLoraAsTrainable and loraStateDict with bias %s', (bias, expected) => {
    const net = new Net();
    lora.markOnlyLoraAsTrainable(net, bias);
    expect(
      net
        .namedParameters()
        .filter(({ tensor: t }) => t.requiresGrad)
        .map(({ path }) => path),
    ).toEqual(expected);
    expect(paths(lora.loraStateDict(net, bias)).toSorted()).toEqual([...expected].toSorted());
    expect(lora.countTrainableParameters(net).trainable).toBe(
      expected.reduce((n, path) => n + net.stateDict().get(path)!.size, 0),
    );
  });
  it('lora_only keeps no bias of a convolution: it stands under conv, not beside lora_A', () => {
    const net = { conv: new lora.Conv2d(2, 2, 1, { r: 1, backend, key }) };
    const root = Object.assign(new (class extends Module {})(), net);
    expect(paths(lora.loraStateDict(root, 'lora_only'))).toEqual(['conv.lora_A', 'conv.lora_B']);
    expect(paths(lora.loraStateDict(root, 'all'))).toEqual(['conv.conv.bias', 'conv.lora_A', 'conv.lora_B']);
    lora.markOnlyLoraAsTrainable(root, 'lora_only');
    expect(net.conv.conv.bias!.requiresGrad).toBe(false);
  });
  it('a wrong bias mode is an error', () => {
    expect(() => lora.markOnlyLoraAsTrainable(new Net(), 'some' as 'all')).toThrow(
      "bias must be 'none', 'all' or 'lora_only'",
    );
    expect(() => lora.loraStateDict(new Net(), 'some' as 'all')).toThrow("bias must be 'none', 'all' or 'lora_only'");
  });
  it('base and then adapter, both with strict: false, give the trained network', async () => {
    const trained = randomize(new Net());
    const base = new Map([...trained.stateDict()].filter(([path]) => !path.includes('lora_')));
    const fresh = new Net();
    expect(fresh.loadStateDict(base, { strict: false }).missingKeys).toEqual(['fc1.lora_A', 'fc1.lora_B']);
    expect(fresh.loadStateDict(lora.loraStateDict(trained), { strict: false }).unexpectedKeys).toEqual([]);
    const x = normal([5, 4], { backend, key });
    expect(await numbers(fresh.forward(x))).toEqual(await numbers(trained.forward(x)));
  });
  it('gradients reach the adapter alone', () => {
    const net = randomize(new Net());
    lora.markOnlyLoraAsTrainable(net);
    const gradients = net
      .forward(normal([5, 4], { backend, key }))
      .sum()
      .backward();
    expect(
      net
        .namedParameters()
        .filter(({ tensor: t }) => gradients.has(t))
        .map(({ path }) => path),
    ).toEqual(['fc1.lora_A', 'fc1.lora_B']);
  });
  it('eval() and train() move nothing: merging is a call', async () => {
    const { fc1 } = randomize(new Net());
    const before = await numbers(fc1.weight);
    fc1.eval();
    expect(await numbers(fc1.weight)).toEqual(before);
    expect(fc1.merged).toBe(false);
  });
});

/** Every layer with what it is fed. */
const layers: readonly [name: string, make: () => Module & lora.LoraLayer & { forward(x: Tensor): Tensor }, x: Tensor][] = [
  ['Linear', () => new lora.Linear(4, 3, { r: 2, loraAlpha: 3, backend, key }), normal([5, 4], { backend, key })],
  ['Linear without bias', () => new lora.Linear(4, 3, { r: 5, bias: false, backend, key }), normal([2, 2, 4], { backend, key })],
  ['MergedLinear', () => new lora.MergedLinear(4, 9, { r: 2, enableLora: [true, false, true], backend, key }), normal([5, 4], { backend, key })],
  ['MergedLinear, unequal', () => new lora.MergedLinear(4, 9, { r: 2, enableLora: [false, true, true], sliceSizes: [5, 1, 3], backend, key }), normal([5, 4], { backend, key })],
  ['Embedding', () => new lora.Embedding(7, 3, { r: 2, loraAlpha: 3, backend, key }), tensor([0, 6, 6, 2], { backend, dtype: 'i32' })],
  ['Conv2d', () => new lora.Conv2d(4, 6, 3, { r: 2, stride: 2, padding: 1, groups: 2, backend, key }), normal([2, 4, 5, 6], { backend, key })],
  ['Conv1d', () => new lora.Conv1d(4, 6, 3, { r: 2, padding: 1, groups: 2, backend, key }), normal([2, 4, 7], { backend, key })],
]; // biome-ignore format: a table

describe.each(layers)('lora.%s', (_, make, x) => {
  it('begins as the plain layer, exactly', async () => {
    const layer = make();
    const adapted = await numbers(layer.forward(x));
    layer.enabled = false;
    expect(await numbers(layer.forward(x))).toEqual(adapted);
  });
  it('gives the same merged, and the very same weight after unmerging', async () => {
    const layer = randomize(make());
    const weightOf = (): Tensor => [...layer.stateEntries()].find(([path]) => path.endsWith('weight'))![1];
    const [before, adapted] = [await numbers(weightOf()), layer.forward(x)];
    await layer.merge();
    expect(layer.merged).toBe(true);
    expect(await numbers(weightOf())).not.toEqual(before);
    expect(await distance(layer.forward(x), adapted)).toBeLessThan(1e-5);
    layer.unmerge();
    expect(await numbers(weightOf())).toEqual(before);
    expect(await numbers(layer.forward(x))).toEqual(await numbers(adapted));
  });
  it('keeps nothing but its result', () => {
    const layer = randomize(make());
    const run = (): void => noGrad(() => layer.forward(x).dispose());
    run();
    const before = memory(backend).liveBytes;
    run();
    expect(memory(backend).liveBytes).toBe(before);
  });
  it('turned off gives the plain layer', async () => {
    const layer = randomize(make());
    const adapted = await numbers(layer.forward(x));
    lora.setAdapterEnabled(layer, false);
    expect(await numbers(layer.forward(x))).not.toEqual(adapted);
  });
  it('merges and unmerges only in turn', async () => {
    const layer = randomize(make());
    expect(() => layer.unmerge()).toThrow('must be merged: it is not');
    await layer.merge();
    await expect(layer.merge()).rejects.toThrow('must not be merged yet');
  });
});

describe('MergedLinear', () => {
  it('is a Linear for each enabled slice, side by side, for any slices', async () => {
    const slice = fc.record({ size: fc.integer({ min: 1, max: 5 }), on: fc.boolean() });
    await fc.assert(
      fc.asyncProperty(
        fc.array(slice, { minLength: 1, maxLength: 4 }),
        fc.integer({ min: 1, max: 3 }),
        async (slices, r) => {
          const sizes = slices.map(({ size }) => size);
          const out = sizes.reduce((a, b) => a + b, 0);
          const options = { r, loraAlpha: 2, backend, key };
          const whole = randomize(
            new lora.MergedLinear(4, out, { ...options, enableLora: slices.map(({ on }) => on), sliceSizes: sizes }),
          );
          const x = normal([3, 4], { backend, key: randomKey(9) });
          let [row, n, at] = [0, 0, 0];
          const parts = slices.map(({ size, on }) => {
            const part = new lora.Linear(4, size, { ...options, r: on ? r : 0 });
            part.weight = whole.weight.slice(0, row, row + size);
            part.bias = whole.bias!.slice(0, row, (row += size));
            if (on) {
              part.lora_A = whole.lora_A!.slice(0, n * r, ++n * r);
              part.lora_B = whole.lora_B!.slice(0, at, (at += size));
            }
            return part.forward(x);
          });
          const [first, ...rest] = parts;
          expect(await distance(whole.forward(x), rest.length ? first!.concat(rest, 1) : first!)).toBeLessThan(1e-5);
        },
      ),
      { numRuns: 40 },
    );
  });
  it.each([
    [{ enableLora: [] }, 'enableLora must have an entry'],
    [{ enableLora: [true, false] }, '2 does not divide 9. Give sliceSizes.'],
    [{ enableLora: [true, false], sliceSizes: [4, 4] }, 'sum to outFeatures 9: got [4, 4]'],
    [{ enableLora: [true], sliceSizes: [4, 5] }, 'must be 1 whole numbers'],
  ])('refuses %j', (slices, message) => {
    expect(() => new lora.MergedLinear(4, 9, { r: 2, backend, key, ...slices })).toThrow(message);
  });
});

describe('Embedding', () => {
  it('gives the padding id no gradient', async () => {
    const layer = randomize(new lora.Embedding(5, 3, { r: 2, paddingIdx: 0, backend, key }));
    const gradients = layer.forward([0, 2, 0]).sum().backward();
    const columns = (await gradients.of(layer.lora_A!).toArray()) as number[][];
    expect(columns.every((row) => row[0] === 0 && row[2] !== 0 && row[1] === 0)).toBe(true);
  });
});
