import { memoryFiles } from '@lorikeet/files';
import type { LinearLike } from '@lorikeet/nn';
import { writeSafetensors } from '@lorikeet/safetensors';
import { memory, noGrad, randomKey, referenceBackend, scope, svd, type Tensor } from '@lorikeet/tensor';
import { describe, expect, it } from 'vitest';
import { checkpointWeights } from '../folder/checkpoint-weights.ts';
import { loadAdapter } from '../folder/load-adapter.ts';
import { saveAdapter } from '../folder/save-adapter.ts';
import { mergeAdapter, mergeAndUnload } from '../merge-adapter.ts';
import { Int8Linear } from '../quantize/int8-linear.ts';
import { quantizeWeight4bit, quantizeWeight8bit, tensorRows } from '../quantize/quantize-weight.ts';
import { QuantizedLinear } from '../quantize/quantized-linear.ts';
import { distance, numbers } from '../testing/numbers.ts';
import { ToyPhi3, trainAdapter } from '../testing/toy-phi3.ts';
import { adapterOf } from './adapter-state.ts';
import { adaptedLinears, applyLora } from './apply-lora.ts';
import { applyLoraAsync } from './apply-lora-async.ts';
import type { LoraConfig, LoraInit } from './lora-config.ts';
import { parseLoraConfig } from './parse-lora-config.ts';
import { replaceLoraWeightsLoftq } from './replace-loftq.ts';

const backend = referenceBackend();
const ids = [3, 1, 4, 1, 5, 9];
const logits = (model: ToyPhi3): Tensor => noGrad(() => model.forward(ids));
const toy = (dtype: 'f32' | 'bf16' = 'f32'): ToyPhi3 => new ToyPhi3({ backend, dtype });
const key = randomKey(7);
const config = (initLoraWeights: LoraInit, more: LoraConfig = {}): LoraConfig => ({ r: 2, loraAlpha: 6, targetModules: 'all-linear', initLoraWeights, ...more }); // biome-ignore format: one line

/** Layers whose base is quantized, with the weights from before. */
async function quantized(
  kind: 'nf4' | 'int8' = 'nf4',
): Promise<{ model: ToyPhi3; originalWeights: (path: string) => Tensor }> {
  const [model, kept] = [toy(), toy()];
  const settings = { quantType: 'nf4', blocksize: 32, doubleQuant: false } as const;
  const make = async (path: string, weight: Tensor): Promise<LinearLike> =>
    kind === 'nf4'
      ? new QuantizedLinear(await quantizeWeight4bit(tensorRows(path, weight), settings))
      : new Int8Linear(await quantizeWeight8bit(tensorRows(path, weight)), { threshold: 0 });
  for (const { self_attn, mlp } of model.model.layers)
    for (const part of [self_attn, mlp] as unknown as Record<string, LinearLike>[])
      for (const [name, linear] of Object.entries(part))
        if (typeof linear === 'object' && 'outFeatures' in linear) part[name] = await make(name, linear.denseWeight());
  model.assignPaths();
  return { model, originalWeights: (path) => kept.stateDict().get(`${path}.weight`)!.cast('f32').mul(1) };
}

const pathOfLayer = 'model.layers.1.mlp.gate_up_proj';
const squares = async (t: Tensor): Promise<number> => (await numbers(t)).reduce((sum, x) => sum + x * x, 0);

describe('initLoraWeights from the base', () => {
  it.each(['pissa', 'pissa_niter_4', 'olora', 'orthogonal'] as const)(
    '%s leaves what the model computes',
    async (init) => {
      for (const more of [{}, { useRslora: true, alphaPattern: { o_proj: 3 } }]) {
        const model = toy();
        const before = logits(model);
        await applyLoraAsync(model, config(init, more), { key });
        expect(await distance(logits(model), before)).toBeLessThan(2e-6);
        const layer = adaptedLinears(model).get(pathOfLayer)!;
        expect(await squares(layer.lora_B.weight)).toBeGreaterThan(0);
      }
    },
  );

  it('pissa holds the largest singular values, half in each factor, and leaves the others', async () => {
    const [model, base] = [toy(), toy()];
    await applyLoraAsync(model, config('pissa'), { key });
    const { lora_A, lora_B, scaling } = adaptedLinears(model).get(pathOfLayer)!;
    const whole = await svd(base.stateDict().get(`${pathOfLayer}.weight`)!);
    const [first, second, ...rest] = await numbers(whole.s);
    const inA = await numbers(lora_A.weight.matmul(lora_A.weight, { transposeB: true }));
    const inB = await numbers(lora_B.weight.matmul(lora_B.weight, { transposeA: true }));
    for (const gram of [inA, inB])
      for (const [i, want] of [first! / scaling, 0, 0, second! / scaling].entries())
        expect(gram[i]).toBeCloseTo(want, 5);
    const left = await numbers((await svd(model.stateDict().get(`${pathOfLayer}.weight`)!)).s);
    for (const [i, want] of [...rest, 0, 0].entries()) expect(left[i]).toBeCloseTo(want, 5);
  });

  it('olora holds the first columns of q and rows of r', async () => {
    const model = toy();
    await applyLoraAsync(model, config('olora'), { key });
    const { lora_A, lora_B } = adaptedLinears(model).get(pathOfLayer)!;
    const gram = await numbers(lora_B.weight.matmul(lora_B.weight, { transposeA: true }));
    for (const [i, want] of [1, 0, 0, 1].entries()) expect(gram[i]).toBeCloseTo(want, 6);
    expect((await numbers(lora_A.weight)).at(6)).toBe(0); // below the diagonal of r
  });

  it('orthogonal leaves the base as it is', async () => {
    const model = toy();
    await applyLoraAsync(model, config('orthogonal'), { key });
    expect(await numbers(model.stateDict().get(`${pathOfLayer}.weight`)!)).toEqual(
      await numbers(toy().stateDict().get(`${pathOfLayer}.weight`)!),
    );
    await expect(applyLoraAsync(toy(), config('orthogonal', { r: 3 }))).rejects.toThrow('r must be even');
  });

  it.each([4, 8] as const)(
    'loftq with %i bits: base and adapter come nearer than the base alone',
    async (loftqBits) => {
      const original = toy().stateDict();
      const errorOf = async (loftqIter: number, whole: boolean): Promise<number> => {
        const model = toy();
        await applyLoraAsync(model, config('loftq', { loraAlpha: 2, loftqConfig: { loftqBits, loftqIter } }), { key });
        let sum = 0;
        for (const [path, layer] of adaptedLinears(model))
          sum += await squares((whole ? layer : layer.base).denseWeight().sub(original.get(`${path}.weight`)!));
        return sum;
      };
      const alone = await errorOf(1, false);
      expect(await errorOf(1, true)).toBeLessThan(0.6 * alone);
      expect(await errorOf(5, true)).toBeLessThan(0.6 * alone);
      expect(await errorOf(5, false)).not.toBe(alone);
    },
  );

  it('tells of every layer', async () => {
    const told: string[] = [];
    const onProgress = ({ path, done, total }: { path: string; done: number; total: number }): void =>
      void told.push(`${done}/${total} ${path}`);
    await applyLoraAsync(toy(), config('olora', { targetModules: ['o_proj'] }), { key, onProgress });
    expect(told).toEqual(['1/2 model.layers.0.self_attn.o_proj', '2/2 model.layers.1.self_attn.o_proj']);
  });

  it('same key, same bits', async () => {
    const values = async (): Promise<number[]> => {
      const model = toy();
      await applyLoraAsync(model, config('pissa_niter_2'), { key });
      return numbers(adaptedLinears(model).get(pathOfLayer)!.lora_A.weight);
    };
    expect(await values()).toEqual(await values());
  });
});

describe('on a quantized base', () => {
  it.each(['nf4', 'int8'] as const)('%s: each comes nearer to the original than the base alone', async (kind) => {
    const target = logits(toy());
    const error = async (model: ToyPhi3): Promise<number> => squares(logits(model).sub(target));
    const alone = await error((await quantized(kind)).model);
    for (const init of ['pissa', 'loftq'] as const) {
      const { model, originalWeights } = await quantized(kind);
      const loftq =
        init === 'loftq' ? { loftqConfig: { loftqBits: kind === 'nf4' ? 4 : 8, loftqIter: 3 } as const } : {};
      await applyLoraAsync(model, config(init, { r: 4, loraAlpha: 4, ...loftq }), { key, originalWeights });
      expect([init, (await error(model)) < alone]).toEqual([init, true]);
    }
  });
  it('olora takes the decoded weights where no others are given', async () => {
    const { model } = await quantized();
    const before = logits(model);
    await applyLoraAsync(model, config('olora'), { key });
    // The rest is quantized anew, so this is near and not equal.
    const moved = await squares(logits(model).sub(before));
    expect(moved).toBeGreaterThan(0);
    expect(moved).toBeLessThan(0.2 * (await squares(before)));
  });
  it('replaceLoraWeightsLoftq makes up for part of the loss, and puts back what the callback refuses', async () => {
    const { model, originalWeights } = await quantized();
    applyLora(model, config(true, { r: 3, loraAlpha: 3 }), { key });
    const layers = adaptedLinears(model);
    const lost = (path: string): Promise<number> =>
      squares(scope(() => layers.get(path)!.denseWeight().sub(originalWeights(path))));
    const before = new Map<string, number>();
    for (const path of layers.keys()) before.set(path, await lost(path));
    const first = [...layers.keys()][0]!;
    await replaceLoraWeightsLoftq(model, { originalWeights, callback: (_, path) => path !== first });
    for (const [path, was] of before) {
      if (path === first) expect(await lost(path)).toBe(was);
      else expect(await lost(path)).toBeLessThan(0.8 * was);
    }
    const dense = toy();
    applyLora(dense, config(true));
    await expect(replaceLoraWeightsLoftq(dense, { originalWeights })).rejects.toThrow(
      'an adapted layer must be quantized',
    );
  });
  it('checkpointWeights reads them from a model folder, and refuses quantized ones', async () => {
    const files = memoryFiles();
    await files.makeDirectory('base');
    const entry = (name: string, dtype: string, shape: number[], bytes: Uint8Array) => ({ name, dtype, shape, bytes });
    const weight = toy('bf16').stateDict().get(`${pathOfLayer}.weight`)!;
    await writeSafetensors(files, 'base/model.safetensors', [
      entry(`${pathOfLayer}.weight`, 'bf16', [...weight.shape], await weight.bytes()),
      entry('packed.weight', 'u8', [2, 1], new Uint8Array(2)),
    ]);
    const read = await checkpointWeights(files, 'base', backend);
    expect(await numbers(await read(pathOfLayer))).toEqual(await numbers(weight));
    await expect(read('packed')).rejects.toThrow('packed.weight in base must be floats: it is u8');
  });
});

describe('merging into a quantized base', () => {
  it('quantizes the sum anew, as near as the base was to its weights, and for good', async () => {
    const { model } = await quantized();
    applyLora(model, config(true));
    trainAdapter(model, { seed: 5, std: 0.1 });
    const before = logits(model);
    await expect(mergeAdapter(model)).rejects.toThrow(
      'keepOriginal must be false for a quantized base: model.layers.0',
    );
    const layer = adaptedLinears(model).get(pathOfLayer)!;
    const [sum, base] = [layer.denseWeight(), layer.base as QuantizedLinear];
    await mergeAndUnload(model);
    const again = new QuantizedLinear(await quantizeWeight4bit(tensorRows('', sum), base.settings));
    expect(await numbers(base.denseWeight())).toEqual(await numbers(again.denseWeight()));
    const moved = await squares(logits(model).sub(before));
    expect(moved).toBeGreaterThan(0);
    expect(moved).toBeLessThan(0.2 * (await squares(before)));
  });
  it('refuses NaN before anything is written', async () => {
    const { model } = await quantized();
    applyLora(model, config(true));
    trainAdapter(model, { seed: 5, std: 1e25 });
    const bases = [...adaptedLinears(model).values()].map(({ base }) => (base as QuantizedLinear).weight4bit().packed);
    const codes = await Promise.all(bases.map((t) => t.bytes()));
    await expect(mergeAndUnload(model)).rejects.toThrow('merge: the merged weight of model.layers.0');
    expect(await Promise.all(bases.map((t) => t.bytes()))).toEqual(codes);
  });
});

describe('saving and loading', () => {
  it.each(['pissa', 'pissa_niter_1', 'olora'] as const)('%s becomes plain LoRA for the original base', async (init) => {
    for (const more of [{}, { useRslora: true, rankPattern: { o_proj: 1 }, alphaPattern: { down_proj: 5 } }]) {
      const model = toy();
      await applyLoraAsync(model, config(init, more), { key });
      trainAdapter(model, { seed: 5 });
      const files = memoryFiles();
      await saveAdapter(files, 'adapter', model);
      const json = JSON.parse(new TextDecoder().decode(await files.read('adapter/adapter_config.json')));
      expect([json.r, json.init_lora_weights]).toEqual([4, true]);
      const fresh = toy();
      await loadAdapter(files, 'adapter', fresh);
      expect(await distance(logits(fresh), logits(model))).toBeLessThan(3e-5);
    }
  });
  it.each(['pissa', 'pissa_niter_1', 'olora', 'loftq'] as const)(
    '%s as it is trained comes back with its base, and goes on',
    async (init) => {
      const model = toy('bf16');
      await applyLoraAsync(model, config(init), { key });
      trainAdapter(model, { seed: 5 });
      const files = memoryFiles();
      await saveAdapter(files, 'adapter', model, { convertToLora: false });
      const fresh = toy('bf16');
      const { warnings } = await loadAdapter(files, 'adapter', fresh, { trainable: true });
      expect(warnings).toEqual([]);
      expect(await numbers(logits(fresh))).toEqual(await numbers(logits(model)));
      if (init === 'loftq') return;
      await saveAdapter(files, 'plain', fresh);
      const plain = toy('bf16');
      await loadAdapter(files, 'plain', plain);
      // The base kept bf16 of what PiSSA left; the original base has its own bits.
      expect(await distance(logits(plain), logits(model))).toBeLessThan(0.05);
    },
  );
  it('loftq on a quantized base is plain LoRA for PEFT, and known here for what it is', async () => {
    const { model, originalWeights } = await quantized();
    await applyLoraAsync(model, config('loftq', { loraAlpha: 2 }), { key, originalWeights });
    trainAdapter(model, { seed: 5 });
    const files = memoryFiles();
    await saveAdapter(files, 'adapter', model);
    const json = JSON.parse(new TextDecoder().decode(await files.read('adapter/adapter_config.json')));
    expect([json.init_lora_weights, json.loftq_config]).toEqual([true, {}]);
    const fresh = (await quantized()).model;
    const { config: loaded } = await loadAdapter(files, 'adapter', fresh);
    expect(await numbers(logits(fresh))).toEqual(await numbers(logits(model)));
    expect(loaded.initLoraWeights).toBe('loftq');
    // On the dense base the weights are quantized as PEFT's LoftQ does it, in blocks of 64 here and 32 above.
    const dense = toy();
    await loadAdapter(files, 'adapter', dense);
    expect(await squares(logits(dense).sub(logits(model)))).toBeLessThan(0.1 * (await squares(logits(model))));
  });
  it('a folder without the first values is decomposed again, as PEFT does', async () => {
    const model = toy();
    await applyLoraAsync(model, config('pissa'), { key });
    trainAdapter(model, { seed: 5 });
    const files = memoryFiles();
    await saveAdapter(files, 'adapter', model, { convertToLora: false });
    await files.remove('adapter/initial_adapter.safetensors');
    const fresh = toy();
    await loadAdapter(files, 'adapter', fresh);
    expect(await distance(logits(fresh), logits(model))).toBeLessThan(5e-6);
    await mergeAndUnload(fresh);
    expect(await distance(logits(fresh), logits(model))).toBeLessThan(5e-6);
  });
  it('an adapter that has not moved is refused, unless that is allowed', async () => {
    const model = toy();
    await applyLoraAsync(model, config('pissa'), { key });
    const files = memoryFiles();
    await expect(saveAdapter(files, 'adapter', model)).rejects.toThrow('the adapter must change something');
    await saveAdapter(files, 'adapter', model, { allowZero: true });
    const fresh = toy();
    await loadAdapter(files, 'adapter', fresh);
    expect(await distance(logits(fresh), logits(toy()))).toBeLessThan(1e-5);
  });
});

describe('refusals', () => {
  it('applyLora says what waits', () => {
    expect(() => applyLora(toy(), config('pissa'))).toThrow("got 'pissa'. Use await applyLoraAsync");
  });
  it('a rank beyond the weight leaves the model as it was', async () => {
    const model = toy();
    const before = memory(backend).liveTensors;
    await expect(applyLoraAsync(model, config('pissa', { r: 7 }))).rejects.toThrow('r must be at most 6');
    expect(adapterOf(model)).toBeUndefined();
    expect(memory(backend).liveTensors).toBe(before);
    expect(await distance(logits(model), logits(toy()))).toBe(0);
  });
  it('loftq on a quantized base needs the original weights', async () => {
    await expect(applyLoraAsync((await quantized()).model, config('loftq'))).rejects.toThrow(
      'from before quantization',
    );
  });
  it('PEFT’s spelling is read', () => {
    const json = { init_lora_weights: 'loftq', loftq_config: { loftq_bits: 8, loftq_iter: 2 } };
    const { config: parsed } = parseLoraConfig(json);
    expect(parsed).toEqual({ initLoraWeights: 'loftq', loftqConfig: { loftqBits: 8, loftqIter: 2 } });
    expect(parseLoraConfig({ loftq_config: {} }).config.loftqConfig).toBeUndefined();
  });
});
