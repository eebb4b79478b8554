import { AdamW, loadStateDict } from '@lorikeet/nn';
import { memory, noGrad, randomKey, referenceBackend, scope, type Tensor, withRandom } from '@lorikeet/tensor';
import { hostileBackend } from '@lorikeet/tensor/testing';
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { loraLayers } from '../lora-layer.ts';
import { countTrainableParameters, markOnlyLoraAsTrainable, printTrainableParameters } from '../mark-trainable.ts';
import { mergeAdapter, mergeAndUnload, unmergeAdapter } from '../merge-adapter.ts';
import { distance, numbers } from '../testing/numbers.ts';
import { type ToyOptions, ToyPhi3, trainAdapter } from '../testing/toy-phi3.ts';
import { adapterOf } from './adapter-state.ts';
import { applyLora, disableAdapter, setAdapterEnabled, unloadAdapter } from './apply-lora.ts';
import type { LoraConfig } from './lora-config.ts';

const ids = [1, 4, 0, 9, 4];
const toy = (options: Partial<ToyOptions> = {}): ToyPhi3 => new ToyPhi3({ backend: referenceBackend(), ...options });
const adapted = (config: LoraConfig = {}, options: Partial<ToyOptions> = {}): ToyPhi3 => {
  const model = toy(options);
  applyLora(model, { r: 2, ...config });
  return trainAdapter(model);
};
const trainable = (model: ToyPhi3): string[] =>
  model
    .namedParameters()
    .filter(({ tensor }) => tensor.requiresGrad)
    .map(({ path }) => path);
const weights = async (model: ToyPhi3): Promise<Map<string, number[]>> => {
  const base = [...model.stateEntries()].filter(([path]) => !path.includes('lora_'));
  return new Map(await Promise.all(base.map(async ([path, t]) => [path, await numbers(t)] as const)));
};

describe('applyLora', () => {
  it('does not move the base, and adds entries beside it', () => {
    const model = toy({ layers: 1 });
    const before = [...model.stateEntries()].map(([path]) => path);
    applyLora(model, { targetModules: ['qkv_proj'] });
    const after = [...model.stateEntries()].map(([path]) => path);
    expect(after.filter((path) => !path.includes('lora_'))).toEqual(before);
    expect(after.filter((path) => path.includes('lora_'))).toEqual([
      'model.layers.0.self_attn.qkv_proj.lora_A.weight',
      'model.layers.0.self_attn.qkv_proj.lora_B.weight',
    ]);
    expect(model.findModule('model.layers.0.self_attn.qkv_proj').path).toBe('model.layers.0.self_attn.qkv_proj');
  });
  it('a base checkpoint still loads, under its own keys', () => {
    const model = toy();
    const other = toy({ seed: 2, backend: model.lm_head.weight.backend });
    applyLora(model);
    const { unexpectedKeys, missingKeys } = loadStateDict(model, new Map(other.stateEntries()), { strict: false });
    expect(unexpectedKeys).toEqual([]);
    expect(missingKeys.every((path) => path.includes('lora_'))).toBe(true);
  });
  it('computes at first exactly what the base computes', async () => {
    const model = toy();
    const before = await numbers(model.forward(ids));
    applyLora(model, { r: 3, loraAlpha: 16 });
    expect(await numbers(model.forward(ids))).toEqual(before);
  });
  it('gives layers different values, and equal ones for an equal key', async () => {
    const a = async (key: number): Promise<number[][]> => {
      const model = toy();
      applyLora(model, { targetModules: ['o_proj'] }, { key: randomKey(key) });
      return Promise.all([...model.stateEntries()].filter(([p]) => p.includes('lora_A')).map(([, t]) => numbers(t)));
    };
    const [first, again, other] = [await a(1), await a(1), await a(2)];
    expect(again).toEqual(first);
    expect(other).not.toEqual(first);
    expect(first[0]).not.toEqual(first[1]);
  });
  it('takes rank and alpha from the patterns', () => {
    const model = toy({ layers: 1 });
    applyLora(model, {
      r: 4,
      loraAlpha: 8,
      useRslora: true,
      rankPattern: { o_proj: 1 },
      alphaPattern: { down_proj: 2 },
    });
    const scales = [...loraLayers(model)].map(([path, { r, scaling }]) => [path.split('.').at(-1), r, scaling]);
    expect(scales).toEqual([['qkv_proj', 4, 4], ['o_proj', 1, 8], ['gate_up_proj', 4, 4], ['down_proj', 4, 1]]); // biome-ignore format: rows
  });
  it('is refused twice', () => {
    const model = adapted();
    expect(() => applyLora(model)).toThrow('must have no adapter yet');
  });
  it('leaves no trace when a module to save is not there', () => {
    const model = toy();
    const [before, live] = [
      [...model.stateEntries()].map(([path]) => path),
      memory(model.lm_head.weight.backend).liveBytes,
    ];
    expect(() => applyLora(model, { modulesToSave: ['score'] })).toThrow('"score" matches none');
    expect([...model.stateEntries()].map(([path]) => path)).toEqual(before);
    expect(memory(model.lm_head.weight.backend).liveBytes).toBe(live);
    expect(adapterOf(model)).toBeUndefined();
  });
});

describe('training', () => {
  it.each([
    ['none', 16],
    ['lora_only', 24],
    ['all', 24],
  ] as const)('bias %s trains %i tensors', (bias, count) => {
    const model = toy({ bias: true });
    applyLora(model, { r: 2, bias });
    expect(trainable(model)).toHaveLength(count);
    markOnlyLoraAsTrainable(model);
    expect(trainable(model)).toHaveLength(count);
    markOnlyLoraAsTrainable(model, 'none');
    expect(trainable(model)).toHaveLength(16);
  });
  it('counts as PEFT does and prints its line', () => {
    const model = toy({ layers: 1 });
    applyLora(model, { r: 2, targetModules: ['o_proj'] });
    const lines: string[] = [];
    const total = model.namedParameters().reduce((sum, { tensor }) => sum + tensor.size, 0);
    const count = printTrainableParameters(model, (line) => lines.push(line));
    expect(count).toEqual({ trainable: 24, total, percent: (100 * 24) / total });
    expect(lines).toEqual([
      `trainable params: 24 || all params: ${total} || trainable%: ${((100 * 24) / total).toFixed(4)}`,
    ]);
    expect(countTrainableParameters(toy()).percent).toBe(100);
  });
  it('computes no gradient for a frozen weight: fewer products, and the memory of none of them', () => {
    const run = (adapter: boolean): { peak: number; paths: string[] } => {
      const model = toy({ layers: 3 });
      const { backend } = model.lm_head.weight;
      if (adapter) trainAdapter(applyTo(model));
      const use = memory(backend);
      use.peakBytes = use.liveBytes;
      const before = use.liveBytes;
      const gradients = scope(() => model.forward(ids).sum().backward());
      const paths = model
        .namedParameters()
        .filter(({ tensor }) => gradients.has(tensor))
        .map(({ path }) => path);
      const held = use.liveBytes - before;
      expect(held).toBe(
        4 *
          model.namedParameters().reduce((sum, { path, tensor }) => sum + (paths.includes(path) ? tensor.size : 0), 0),
      );
      return { peak: use.peakBytes - before, paths };
    };
    const applyTo = (model: ToyPhi3): ToyPhi3 => {
      applyLora(model, { r: 1 });
      return model;
    };
    const [full, lora] = [run(false), run(true)];
    expect(lora.paths.every((path) => path.includes('lora_'))).toBe(true);
    expect(lora.paths).toHaveLength(24);
    expect(full.paths.length).toBeGreaterThan(12);
    expect(lora.peak).toBeLessThan(full.peak);
  });
  it.each([
    ['reference', referenceBackend],
    ['hostile', hostileBackend],
  ])('learns on the %s backend while the base stays as it is, bit for bit', async (_, make) => {
    const model = toy({ backend: make(), layers: 1 });
    applyLora(model, { r: 2, loraAlpha: 8, loraDropout: 0.1 });
    model.train();
    const before = await weights(model);
    const optimizer = new AdamW(
      model.namedParameters().filter(({ tensor }) => tensor.requiresGrad),
      { lr: 0.05 },
    );
    const loss = (): Tensor => model.forward(ids).logSoftmax(-1).slice(1, 3, 4).mean().neg();
    const losses: number[] = [];
    for (let step = 0; step < 10; step++) {
      using value = scope(() => withRandom(randomKey(1, step), loss));
      losses.push(await value.item());
      using gradients = value.backward();
      optimizer.step(gradients);
    }
    expect(losses.at(-1)).toBeLessThan(losses[0]! - 0.1);
    expect(await weights(model)).toEqual(before);
  });
});

describe('on and off', () => {
  it('off is the base, exactly, whether fn returns, throws or awaits', async () => {
    const model = adapted();
    const base = await numbers(toy().forward(ids));
    const tuned = await numbers(model.forward(ids));
    expect(tuned).not.toEqual(base);
    expect(await numbers(disableAdapter(model, () => model.forward(ids)))).toEqual(base);
    expect(() => disableAdapter(model, () => { throw new Error('inside'); })).toThrow('inside'); // biome-ignore format: one line
    expect(await numbers(model.forward(ids))).toEqual(tuned);
    const later = disableAdapter(model, async () => { await null; return numbers(model.forward(ids)); }); // biome-ignore format: one line
    expect(await later).toEqual(base);
    expect(await numbers(model.forward(ids))).toEqual(tuned);
  });
  it('nested, it stays off until the outer one ends', async () => {
    const model = adapted();
    const [base, tuned] = [await numbers(toy().forward(ids)), await numbers(model.forward(ids))];
    const inner = disableAdapter(model, () => {
      disableAdapter(model, () => null);
      return model.forward(ids);
    });
    expect(await numbers(inner)).toEqual(base);
    expect(await numbers(model.forward(ids))).toEqual(tuned);
  });
  it('refuses a generator, which would run with the adapter on', async () => {
    const model = adapted();
    const tuned = await numbers(model.forward(ids));
    async function* stream(): AsyncGenerator<Tensor> {
      yield model.forward(ids);
    }
    expect(() => disableAdapter(model, stream)).toThrow('it returned a generator');
    expect(await numbers(model.forward(ids))).toEqual(tuned);
  });
  it('merged cannot be turned off', async () => {
    const model = adapted();
    await mergeAdapter(model);
    expect(() => setAdapterEnabled(model, false)).toThrow('must not be merged: model.layers.0.self_attn.qkv_proj is');
  });
  it('unloading gives the base back and frees the adapter', async () => {
    const model = toy();
    const live = memory(model.lm_head.weight.backend).liveBytes;
    const before = await weights(model);
    applyLora(model, { modulesToSave: ['lm_head'] });
    trainAdapter(model);
    await mergeAdapter(model);
    unloadAdapter(model);
    expect(await weights(model)).toEqual(before);
    expect([...loraLayers(model)]).toEqual([]);
    expect(memory(model.lm_head.weight.backend).liveBytes).toBe(live);
    applyLora(model);
  });
});

describe('merging', () => {
  it('merged runs as the adapter does, and unmerged is the same bits as before', async () => {
    const draw = fc.record({
      r: fc.integer({ min: 1, max: 5 }),
      alpha: fc.integer({ min: 1, max: 4 }),
      useRslora: fc.boolean(),
      bias: fc.boolean(),
      seed: fc.nat(99),
    });
    await fc.assert(
      fc.asyncProperty(draw, async ({ r, alpha, useRslora, bias, seed }) => {
        const model = toy({ bias, seed });
        applyLora(model, { r, loraAlpha: alpha, useRslora, targetModules: ['qkv_proj', 'down_proj', 'lm_head'] });
        trainAdapter(model, { std: 0.1 });
        const [before, tuned] = [await weights(model), model.forward(ids)];
        await mergeAdapter(model);
        expect(await distance(model.forward(ids), tuned)).toBeLessThan(1e-5);
        unmergeAdapter(model);
        expect(await weights(model)).toEqual(before);
        expect(await numbers(model.forward(ids))).toEqual(await numbers(tuned));
        await mergeAndUnload(model);
        expect([...loraLayers(model)]).toEqual([]);
        expect(await distance(model.forward(ids), tuned)).toBeLessThan(1e-5);
      }),
      { numRuns: 15 },
    );
  });
  it('does so on the hostile backend', async () => {
    const model = adapted({}, { backend: hostileBackend(), layers: 1 });
    const [before, tuned] = [await weights(model), model.forward(ids)];
    await mergeAdapter(model);
    expect(await distance(model.forward(ids), tuned)).toBeLessThan(1e-4);
    unmergeAdapter(model);
    expect(await weights(model)).toEqual(before);
  });
  it.each(['bf16', 'f16'] as const)('a %s weight is the f32 sum rounded once', async (dtype) => {
    const model = adapted({ targetModules: ['o_proj'] }, { dtype, layers: 1 });
    const layer = adapterOf(model)!.targets[0]!.path;
    const [weight, delta] = noGrad(() => {
      const module = model.findModule(layer) as unknown as { denseWeight(): Tensor };
      return [(model.stateDict().get(`${layer}.weight`) as Tensor).cast('f32'), module.denseWeight()];
    });
    const expected = await numbers(noGrad(() => delta.cast('f32').cast(dtype)));
    expect(await numbers(weight)).not.toEqual(expected);
    await mergeAdapter(model);
    expect(await numbers(model.stateDict().get(`${layer}.weight`)!)).toEqual(expected);
  });
  it('refuses a sum that is not finite, names the layer, and writes nothing anywhere', async () => {
    const model = adapted({}, { dtype: 'f16' });
    const before = await weights(model);
    const last = [...model.stateEntries()].filter(([path]) => path.endsWith('lora_B.weight')).at(-1)!;
    const damaged = (await numbers(last[1])).map((v, i) => (i === 3 ? 1e6 : v));
    const bytes = new Uint8Array(Float32Array.from(damaged).buffer);
    loadStateDict(model, new Map([[last[0], { dtype: 'f32', shape: last[1].shape, bytes }]]), { strict: false });
    await expect(mergeAdapter(model)).rejects.toThrow(
      /merged weight of model\.layers\.1\.mlp\.down_proj must be finite: row 1 would hold -?Infinity/,
    );
    expect(await weights(model)).toEqual(before);
    await expect(mergeAndUnload(model)).rejects.toThrow('must be finite');
    expect(adapterOf(model)).toBeDefined();
  });
  it('refuses a weight that two places share', async () => {
    const model = toy();
    model.lm_head.weight = model.model.embed_tokens.weight;
    applyLora(model, { targetModules: ['lm_head'] });
    trainAdapter(model);
    await expect(mergeAdapter(model)).rejects.toThrow('model.embed_tokens.weight and lm_head.weight are one tensor');
  });
  it('needs an adapter to unload', async () => {
    await expect(mergeAndUnload(toy())).rejects.toThrow('mergeAndUnload: the model must have an adapter');
    expect(() => unloadAdapter(toy())).toThrow('unloadAdapter: the model must have an adapter');
  });
});

describe('modulesToSave', () => {
  const config = { targetModules: ['o_proj'], modulesToSave: ['lm_head', 'layers.0.mlp'] };
  it('trains copies in f32 beside the adapter, and turns them off with it', async () => {
    const model = toy({ dtype: 'bf16' });
    const base = await numbers(model.forward(ids));
    applyLora(model, config);
    expect(await numbers(model.forward(ids))).toEqual(base);
    const copied = trainable(model).filter((path) => !path.includes('lora_'));
    expect(copied).toEqual([
      'model.layers.0.mlp.gate_up_proj.weight',
      'model.layers.0.mlp.down_proj.weight',
      'lm_head.weight',
    ]);
    expect(model.lm_head.weight.dtype).toBe('f32');
    trainAdapter(model);
    expect(await numbers(model.forward(ids))).not.toEqual(base);
    expect(await numbers(disableAdapter(model, () => model.forward(ids)))).toEqual(base);
    markOnlyLoraAsTrainable(model);
    expect(trainable(model)).toContain('lm_head.weight');
  });
  it('stays after mergeAndUnload, in the dtype of the original, untied from what it was tied to', async () => {
    const model = toy({ dtype: 'bf16' });
    model.lm_head.weight = model.model.embed_tokens.weight;
    applyLora(model, config);
    trainAdapter(model);
    const [head, embedding] = [model.lm_head.weight.cast('bf16'), await numbers(model.model.embed_tokens.weight)];
    const expected = await numbers(head);
    await mergeAndUnload(model);
    expect(model.lm_head.weight.dtype).toBe('bf16');
    expect(await numbers(model.lm_head.weight)).toEqual(expected);
    expect(await numbers(model.model.embed_tokens.weight)).toEqual(embedding);
    expect(trainable(model)).toEqual([]);
  });
});
