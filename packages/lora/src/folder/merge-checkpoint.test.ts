import { type FileSystem, joinPath, memoryFiles, writeDirectoryAtomic, writeJson } from '@lorikeet/files';
import { openCheckpoint, writeSharded } from '@lorikeet/safetensors';
import { type DType, decode, fromBytes, noGrad, referenceBackend, type Tensor } from '@lorikeet/tensor';
import { beforeAll, describe, expect, it } from 'vitest';
import { mergeAndUnload } from '../merge-adapter.ts';
import { adaptedLinears, applyLora } from '../peft/apply-lora.ts';
import { applyLoraAsync } from '../peft/apply-lora-async.ts';
import type { LoraConfig } from '../peft/lora-config.ts';
import { qloraConfig } from '../quantize/bits-and-bytes-config.ts';
import { quantizeCheckpoint } from '../quantize/quantize-checkpoint.ts';
import { quantizeWeight4bit, tensorRows } from '../quantize/quantize-weight.ts';
import { QuantizedLinear } from '../quantize/quantized-linear.ts';
import { ToyPhi3, trainAdapter } from '../testing/toy-phi3.ts';
import { loadAdapter } from './load-adapter.ts';
import { type MergeCheckpointOptions, mergeCheckpoint } from './merge-checkpoint.ts';
import { saveAdapter } from './save-adapter.ts';

const backend = referenceBackend();
const files = memoryFiles();
const config: LoraConfig = {
  r: 2,
  loraAlpha: 6,
  targetModules: ['o_proj', 'down_proj'],
  rankPattern: { down_proj: 3 },
};
const toy = (): ToyPhi3 => new ToyPhi3({ backend, dtype: 'bf16' });
const linears = new Map([...toy().stateDict()].flatMap(([name, t]) => (/(_proj|lm_head)\.weight$/.test(name) ? [[name.replace('.weight', ''), t.shape] as const] : []))); // biome-ignore format: one line
const settings = { quantType: 'nf4', blocksize: 64, doubleQuant: true } as const;

async function writeModel(dir: string, tensors: ReadonlyMap<string, Tensor>): Promise<void> {
  await files.makeDirectory(dir);
  const entries = [...tensors].map(([name, t]) => ({ name, dtype: t.dtype, shape: t.shape, bytes: () => t.bytes() }));
  await writeSharded(files, dir, entries, { maxShardBytes: 600, metadata: { format: 'pt' } });
  await writeJson(files, `${dir}/config.json`, { model_type: 'toy' });
}

async function tensorsOf(dir: string): Promise<Map<string, { dtype: string; bytes: Uint8Array }>> {
  const reader = await openCheckpoint(files, dir);
  const found = new Map<string, { dtype: string; bytes: Uint8Array }>();
  for (const [name, { dtype }] of reader.entries) found.set(name, { dtype, bytes: await reader.read(name) });
  return found;
}

let count = 0;
/** Merges into a new folder, as the command line does: whole or not at all. */
async function merge(
  from: string,
  adapter: string,
  options: Omit<MergeCheckpointOptions, 'backend'> = {},
): Promise<string> {
  const to = `merged-${++count}`;
  await writeDirectoryAtomic(files, to, async (draft) => {
    await mergeCheckpoint(files, from, adapter, draft, { backend, linears, ...options });
  });
  return to;
}
const weight = async (dir: string, name: string): Promise<number[]> => {
  const { bytes, dtype } = (await tensorsOf(dir)).get(name)!;
  return [...decode(bytes, dtype as DType)];
};

/** Adds an adapter folder of random values. */
async function makeAdapter(dir: string, more: LoraConfig = {}): Promise<ToyPhi3> {
  const model = toy();
  applyLora(model, { ...config, ...more });
  trainAdapter(model, { seed: 4 });
  await saveAdapter(files, dir, model);
  return model;
}

beforeAll(async () => {
  await writeModel('base', toy().stateDict());
  await makeAdapter('adapter');
  await quantizeCheckpoint(files as FileSystem, 'base', await folder('nf4'), qloraConfig, {
    backend,
    linears: linears.keys(),
  });
});
async function folder(dir: string): Promise<string> {
  await files.makeDirectory(dir);
  return dir;
}

describe('into original', () => {
  it('gives the bytes that merging in memory gives, in shards, and leaves all else', async () => {
    const model = toy();
    await loadAdapter(files, 'adapter', model);
    await mergeAndUnload(model);
    const to = await merge('base', 'adapter', { maxShardBytes: 500 });
    const [merged, base] = [await tensorsOf(to), await tensorsOf('base')];
    expect([...merged.keys()].sort()).toEqual([...base.keys()].sort());
    for (const [name, t] of model.stateDict()) expect([name, merged.get(name)!.bytes]).toEqual([name, await t.bytes()]);
    expect((await files.list(to)).filter((name) => name.startsWith('model-')).length).toBeGreaterThan(2);
    expect(merged.get('model.layers.0.mlp.down_proj.weight')!.bytes).not.toEqual(base.get('model.layers.0.mlp.down_proj.weight')!.bytes); // biome-ignore format: one line
  });
  it('takes saved modules', async () => {
    const model = await makeAdapter('with-head', { modulesToSave: ['lm_head'] });
    const head = await model.stateDict().get('lm_head.weight')!.cast('bf16').bytes();
    expect((await tensorsOf(await merge('base', 'with-head'))).get('lm_head.weight')!.bytes).toEqual(head);
  });
  it.each(['pissa', 'loftq'] as const)(
    'merges an adapter of %s, as it is trained, with the base it had',
    async (init) => {
      const model = toy();
      await applyLoraAsync(model, { ...config, initLoraWeights: init });
      trainAdapter(model, { seed: 4 });
      await saveAdapter(files, `adapter-${init}`, model, { convertToLora: false });
      await mergeAndUnload(model);
      const merged = await tensorsOf(await merge('base', `adapter-${init}`));
      for (const [name, t] of model.stateDict())
        expect([name, merged.get(name)!.bytes]).toEqual([name, await t.bytes()]);
    },
  );
});

describe('into the dequantized base, and quantized anew', () => {
  const name = 'model.layers.1.mlp.down_proj';
  /** The layer in memory: the quantized base with the adapter over it. */
  async function layer(): Promise<{ base: QuantizedLinear; sum: Tensor }> {
    const model = toy();
    await loadAdapter(files, 'adapter', model);
    const original = toy().stateDict().get(`${name}.weight`)!;
    const base = new QuantizedLinear(await quantizeWeight4bit(tensorRows(name, original), settings));
    const delta = adaptedLinears(model).get(name)!.deltaWeight();
    return { base, sum: noGrad(() => base.denseWeight().cast('f32').add(delta)) };
  }
  it('dequantized: decoded weights plus the update, in the dtype of the model', async () => {
    const to = await merge('nf4', 'adapter', { into: 'dequantized' });
    const { base, sum } = await layer();
    expect(await weight(to, `${name}.weight`)).toEqual([...(await sum.cast('bf16').data())]);
    // A layer without an adapter is decoded too.
    const plain = 'model.layers.1.mlp.gate_up_proj.weight';
    expect((await weight(to, plain)).length).toBe((await weight('base', plain)).length);
    expect(await weight(to, plain)).not.toEqual(await weight('base', plain));
    expect([...(await tensorsOf(to)).keys()].some((key) => key.includes('absmax'))).toBe(false);
    expect(new TextDecoder().decode(await files.read(`${to}/config.json`))).not.toContain('quantization_config');
    base.weight4bit().packed.dispose();
  });
  it('quantized: with the same settings, a layer without an adapter byte for byte', async () => {
    const to = await merge('nf4', 'adapter', { into: 'quantized' });
    const [merged, before] = [await tensorsOf(to), await tensorsOf('nf4')];
    expect([...merged.keys()].sort()).toEqual([...before.keys()].sort());
    const { base, sum } = await layer();
    await base.setDenseWeight(sum);
    for (const [below, t] of base.stateEntries()) expect([below, merged.get(`${name}.${below}`)!.bytes]).toEqual([below, await t.bytes()]); // biome-ignore format: one line
    for (const [key, { bytes }] of before)
      if (!/o_proj|down_proj/.test(key)) expect([key, merged.get(key)!.bytes]).toEqual([key, bytes]);
    const configText = new TextDecoder().decode(await files.read(`${to}/config.json`));
    expect(JSON.parse(configText).quantization_config.load_in_4bit).toBe(true);
    expect(configText).toContain('"llm_int8_threshold": 6.0'); // transformers takes only a float
    expect((await files.list(to)).filter((file) => file.startsWith('.'))).toEqual([]);
  });
  it('the floats that were quantized while loading give the same files', async () => {
    for (const into of ['dequantized', 'quantized'] as const) {
      const [a, b] = [await merge('nf4', 'adapter', { into }), await merge('base', 'adapter', { into, quantization: qloraConfig })]; // biome-ignore format: one line
      expect(await tensorsOf(b)).toEqual(await tensorsOf(a));
    }
  });
});

describe('refuses', () => {
  const refusal = async (
    from: string,
    adapter: string,
    options: Omit<MergeCheckpointOptions, 'backend'> = {},
  ): Promise<string> => {
    const to = `merged-${count + 1}`;
    const message = await merge(from, adapter, options).then(() => 'nothing', (error: Error) => `${error.name}: ${error.message}`); // biome-ignore format: one line
    expect(await files.exists(joinPath('.', to))).toBe(false);
    return message;
  };
  it('a base with NaN, in an adapted weight or beside it, and a sum that the dtype cannot hold', async () => {
    for (const bad of ['model.layers.0.mlp.down_proj.weight', 'model.embed_tokens.weight']) {
      const state = toy().stateDict();
      const t = state.get(bad)!;
      const bytes = await t.bytes();
      new Uint16Array(bytes.buffer)[5] = 0x7fc0;
      await writeModel(
        `nan-${bad}`,
        new Map(state).set(bad, fromBytes(bytes, { backend, dtype: 'bf16', shape: t.shape })),
      );
      expect(await refusal(`nan-${bad}`, 'adapter')).toMatch(
        new RegExp(`NonFiniteError: merge: .*${bad.replace('.weight', '')}`),
      );
    }
    const model = toy();
    applyLora(model, config);
    trainAdapter(model, { std: 1e20 });
    await saveAdapter(files, 'huge', model);
    expect(await refusal('base', 'huge')).toContain('NonFiniteError: merge: the merged weight of model.layers.0');
    expect(await refusal('nf4', 'huge', { into: 'quantized' })).toContain('NonFiniteError');
  });
  it('a base of another kind, and one that lacks a tensor', async () => {
    expect(await refusal('nf4', 'adapter')).toMatch(/_proj\.weight must be floats .* to merge into: it is U8/);
    expect(await refusal('base', 'adapter', { into: 'quantized' })).toContain(
      "merge: into 'quantized' must have a quantized base",
    );
    const state = new Map(toy().stateDict());
    state.delete('model.layers.1.self_attn.o_proj.weight');
    await writeModel('short', state);
    expect(await refusal('short', 'adapter')).toContain('model.layers.1.self_attn.o_proj.weight is not there');
  });
  it('an adapter whose ranks are not those of its configuration', async () => {
    await makeAdapter('ranks');
    const json = JSON.parse(new TextDecoder().decode(await files.read('ranks/adapter_config.json')));
    await writeJson(files, 'ranks/adapter_config.json', { ...json, rank_pattern: {} });
    expect(await refusal('base', 'ranks')).toContain('down_proj must have lora_A [2, in] and lora_B [out, 2]');
  });
});
