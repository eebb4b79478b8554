import {
  type FileSystem,
  faultyFiles,
  joinPath,
  type MemoryFiles,
  memoryFiles,
  readText,
  verifyManifest,
  writeAtomic,
} from '@lorikeet/files';
import { loadStateDict } from '@lorikeet/nn';
import { openSafetensors, type WriteEntry, writeSafetensors } from '@lorikeet/safetensors';
import { memory, referenceBackend } from '@lorikeet/tensor';
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { loraLayers } from '../lora-layer.ts';
import { adapterOf } from '../peft/adapter-state.ts';
import { applyLora } from '../peft/apply-lora.ts';
import type { LoraConfig } from '../peft/lora-config.ts';
import { numbers } from '../testing/numbers.ts';
import { type ToyOptions, ToyPhi3, trainAdapter } from '../testing/toy-phi3.ts';
import { keyOfPath, pathOfKey } from './adapter-tensors.ts';
import { loadAdapter } from './load-adapter.ts';
import { adapterConfigName, adapterWeightsName, saveAdapter, writeAdapterFiles } from './save-adapter.ts';

const ids = [1, 4, 0, 9, 4];
const toy = (options: Partial<ToyOptions> = {}): ToyPhi3 => new ToyPhi3({ backend: referenceBackend(), ...options });
function tuned(config: LoraConfig = {}, options: Partial<ToyOptions> = {}): ToyPhi3 {
  const model = toy(options);
  applyLora(model, { r: 2, ...config });
  return trainAdapter(model);
}
const configOf = async (files: FileSystem, dir: string): Promise<Record<string, unknown>> =>
  JSON.parse(await readText(files, joinPath(dir, adapterConfigName)));

/** A folder with the tensors of a saved adapter changed. */
async function changed(
  change: (entries: WriteEntry[]) => WriteEntry[],
  config: Record<string, unknown> = {},
): Promise<MemoryFiles> {
  const files = memoryFiles();
  await saveAdapter(files, 'a', tuned());
  const reader = await openSafetensors(files, `a/${adapterWeightsName}`);
  const entries: WriteEntry[] = [];
  for (const [name, { dtype, shape }] of reader.entries)
    entries.push({ name, dtype, shape, bytes: await reader.read(name) });
  await writeSafetensors(files, `a/${adapterWeightsName}`, change(entries), { format: 'pt' });
  await writeAtomic(files, `a/${adapterConfigName}`, JSON.stringify({ ...(await configOf(files, 'a')), ...config }));
  return files;
}

describe('the folder', () => {
  it('has the names, keys and values that PEFT writes', async () => {
    const files = memoryFiles();
    await saveAdapter(files, 'out/adapter', tuned({ loraDropout: 0.05 }, { layers: 1 }), {
      baseModelNameOrPath: 'microsoft/Phi-3-mini-4k-instruct',
    });
    expect(await files.list('out/adapter')).toEqual([
      'MANIFEST.json',
      'README.md',
      'adapter_config.json',
      'adapter_model.safetensors',
    ]);
    const reader = await openSafetensors(files, 'out/adapter/adapter_model.safetensors');
    expect(Object.fromEntries(reader.metadata)).toEqual({ format: 'pt' });
    expect([...reader.entries].map(([name, { dtype, shape }]) => [name, dtype, shape])).toEqual(
      ['mlp.down_proj', 'mlp.gate_up_proj', 'self_attn.o_proj', 'self_attn.qkv_proj'].flatMap((layer, i) => {
        const [inFeatures, outFeatures] = [[10, 6], [6, 20], [6, 6], [6, 18]][i]!; // biome-ignore format: pairs
        const name = `base_model.model.model.layers.0.${layer}`;
        return [[`${name}.lora_A.weight`, 'f32', [2, inFeatures]], [`${name}.lora_B.weight`, 'f32', [outFeatures, 2]]]; // biome-ignore format: pairs
      }),
    );
    const text = await readText(files, 'out/adapter/adapter_config.json');
    const config = JSON.parse(text) as Record<string, unknown>;
    expect(Object.keys(config)).toEqual(Object.keys(config).toSorted());
    expect(text).toBe(JSON.stringify(config, undefined, 2));
    expect(config).toMatchObject({
      base_model_name_or_path: 'microsoft/Phi-3-mini-4k-instruct',
      inference_mode: true,
      lora_dropout: 0.05,
      peft_type: 'LORA',
      task_type: 'CAUSAL_LM',
      target_modules: ['mlp.down_proj', 'mlp.gate_up_proj', 'self_attn.o_proj', 'self_attn.qkv_proj'].map(
        (n) => `model.layers.0.${n}`,
      ),
    });
    expect(config).not.toHaveProperty('exclude_modules');
    expect(await readText(files, 'out/adapter/README.md')).toContain(
      'base_model: "microsoft/Phi-3-mini-4k-instruct"\nlibrary_name: peft',
    );
  });

  it('comes back as it was: same config, same bits, same logits', async () => {
    const config = fc.record(
      {
        r: fc.integer({ min: 1, max: 5 }),
        loraAlpha: fc.integer({ min: 1, max: 32 }),
        loraDropout: fc.constantFrom(0, 0.05),
        targetModules: fc.constantFrom<string | string[]>('all-linear', ['o_proj', 'down_proj'], '.*qkv_proj', [
          'lm_head',
        ]),
        excludeModules: fc.constantFrom<string | string[]>(['nothing'], '.*0.*gate.*'),
        bias: fc.constantFrom('none', 'all', 'lora_only'),
        useRslora: fc.boolean(),
        initLoraWeights: fc.constantFrom(true, false, 'gaussian'),
        rankPattern: fc.constant({ o_proj: 3 }),
        alphaPattern: fc.constant({ 'layers.0.*down_proj': 1 }),
        modulesToSave: fc.constant(['input_layernorm']),
      },
      { requiredKeys: [] },
    );
    await fc.assert(
      fc.asyncProperty(config, fc.boolean(), async (given, trainable) => {
        const files = memoryFiles();
        const model = tuned(given as LoraConfig, { bias: true });
        await saveAdapter(files, 'a', model);
        const other = toy({ bias: true });
        const { warnings } = await loadAdapter(files, 'a', other, { trainable });
        expect(warnings).toEqual([]);
        const [mine, its] = [model, other].map((m) => new Map(m.stateEntries()));
        expect([...its!.keys()]).toEqual([...mine!.keys()]);
        for (const [path, t] of mine!) {
          expect(await numbers(its!.get(path)!), path).toEqual(await numbers(t));
          expect(its!.get(path)!.requiresGrad).toBe(trainable && t.requiresGrad);
        }
        expect(await numbers(other.forward(ids))).toEqual(await numbers(model.forward(ids)));
        await saveAdapter(files, 'b', other);
        expect(await files.read(`b/${adapterWeightsName}`)).toEqual(await files.read(`a/${adapterWeightsName}`));
      }),
      { numRuns: 25 },
    );
  });

  it('keys and paths are inverses, and other spellings are read', () => {
    const targets = new Set(['a.o_proj']);
    for (const path of ['a.o_proj.lora_A.weight', 'a.o_proj.bias', 'a.norm.bias', 'lm_head.weight'])
      expect(pathOfKey(keyOfPath(path, targets))).toBe(path);
    expect(keyOfPath('a.o_proj.bias', targets)).toBe('base_model.model.a.o_proj.base_layer.bias');
    expect(pathOfKey('a.o_proj.lora_B.default.weight')).toBe('a.o_proj.lora_B.weight');
    expect(pathOfKey('a.o_proj.lora_A.weight')).toBe('a.o_proj.lora_A.weight');
  });
});

describe('saveAdapter', () => {
  it('refuses an adapter that changes nothing, unless told', async () => {
    const files = memoryFiles();
    const model = toy();
    applyLora(model);
    await expect(saveAdapter(files, 'a', model)).rejects.toThrow('every update B A is zero');
    expect(await files.exists('a')).toBe(false);
    await saveAdapter(files, 'a', model, { allowZero: true });
    expect((await loadAdapter(files, 'a', toy())).warnings).toEqual([]);
  });
  it.each([Number.NaN, Number.POSITIVE_INFINITY])(
    'refuses one that holds %d, also when zeros are allowed',
    async (value) => {
      const files = memoryFiles();
      const model = tuned();
      const path = 'model.layers.1.mlp.down_proj.lora_A.weight';
      const t = model.stateDict().get(path)!;
      const bytes = new Uint8Array(Float32Array.from({ length: t.size }, (_, i) => (i === 7 ? value : 1)).buffer);
      loadStateDict(model, new Map([[path, { dtype: 'f32' as const, shape: t.shape, bytes }]]), { strict: false });
      await expect(saveAdapter(files, 'a', model, { allowZero: true })).rejects.toThrow(
        `${path} holds ${value} at element 7`,
      );
      expect(await files.exists('a')).toBe(false);
    },
  );
  it('replaces an adapter only when told, and never a folder with anything else', async () => {
    const files = memoryFiles();
    await saveAdapter(files, 'a', tuned());
    const before = await files.read(`a/${adapterWeightsName}`);
    const other = tuned({ r: 3 });
    await expect(saveAdapter(files, 'a', other)).rejects.toThrow('Pass overwrite: true');
    expect(await files.read(`a/${adapterWeightsName}`)).toEqual(before);
    await saveAdapter(files, 'a', other, { overwrite: true });
    expect(await configOf(files, 'a')).toMatchObject({ r: 3 });
    await files.makeDirectory('work');
    await saveAdapter(files, 'work', other);
    await writeAtomic(files, 'work/thesis.tex', 'years of work');
    await expect(saveAdapter(files, 'work', other, { overwrite: true })).rejects.toThrow('it holds thesis.tex');
    expect(await readText(files, 'work/thesis.tex')).toBe('years of work');
    await expect(saveAdapter(files, 'work/thesis.tex', other)).rejects.toThrow('it is a file');
  });
  it('leaves nothing when the disk is full', async () => {
    const files = memoryFiles({ capacityBytes: 500 });
    await expect(saveAdapter(files, 'a', tuned())).rejects.toThrow('the disk is full');
    expect(await files.list('.')).toEqual([]);
  });
  it('whichever call fails while it replaces an adapter, the old or the new one stands there, whole', async () => {
    const [old, next] = [tuned(), tuned({ r: 5 })];
    const replaceFailing = async (failAt: number): Promise<{ calls: number; failed: boolean; r: unknown }> => {
      const inner = memoryFiles();
      await saveAdapter(inner, 'runs/a', old);
      const files = faultyFiles(inner, { failAt, fault: 'EIO' });
      const failed = await saveAdapter(files, 'runs/a', next, { overwrite: true }).then(
        () => false,
        () => true,
      );
      await verifyManifest(inner, 'runs/a');
      await loadAdapter(inner, 'runs/a', toy());
      return { calls: files.calls, failed, r: (await configOf(inner, 'runs/a')).r };
    };
    const { calls } = await replaceFailing(0);
    const outcomes = [];
    for (let failAt = 1; failAt <= calls; failAt++) outcomes.push(await replaceFailing(failAt));
    expect(calls).toBeGreaterThan(20);
    expect(outcomes.every(({ failed, r }) => (failed ? r === 2 || r === 5 : r === 5))).toBe(true);
    expect(outcomes.filter(({ failed, r }) => failed && r === 2).length).toBeGreaterThan(calls / 2);
  });
  it('holds the chat template it was trained with, and can be replaced with or without one', async () => {
    const files = memoryFiles();
    await saveAdapter(files, 'out', tuned(), { chatTemplate: '{{ bos_token }}한국어' });
    expect(await readText(files, 'out/chat_template.jinja')).toBe('{{ bos_token }}한국어');
    await expect(loadAdapter(files, 'out', toy())).resolves.toBeDefined();
    await saveAdapter(files, 'out', tuned(), { overwrite: true });
    expect(await files.list('out')).not.toContain('chat_template.jinja');
  });

  it('writes into a part of something larger without a manifest', async () => {
    const files = memoryFiles();
    await files.makeDirectory('checkpoint-4');
    await writeAdapterFiles(files, 'checkpoint-4', tuned());
    expect(await files.list('checkpoint-4')).toEqual(['README.md', 'adapter_config.json', 'adapter_model.safetensors']);
  });
  it('needs an adapter', async () => {
    await expect(saveAdapter(memoryFiles(), 'a', toy())).rejects.toThrow('saveAdapter: the model must have an adapter');
  });
});

describe('loadAdapter', () => {
  /** The error of a load that must leave the model alone. */
  async function failure(files: FileSystem, model = toy(), dir = 'a'): Promise<string> {
    const [paths, live] = [
      [...model.stateEntries()].map(([path]) => path),
      memory(model.lm_head.weight.backend).liveBytes,
    ];
    const error = await loadAdapter(files, dir, model).then(
      () => new Error('no error'),
      (e: Error) => e,
    );
    expect([...model.stateEntries()].map(([path]) => path)).toEqual(paths);
    expect([...loraLayers(model)]).toEqual([]);
    expect(memory(model.lm_head.weight.backend).liveBytes).toBe(live);
    expect(adapterOf(model)).toBeUndefined();
    return error.message;
  }

  it('reports every tensor that does not fit, with both shapes', async () => {
    const message = await failure(
      await changed((entries) => [
        ...entries
          .slice(1)
          .map((entry, i) => (i === 0 ? { ...entry, shape: [1, 12], bytes: new Uint8Array(48) } : entry)),
        {
          name: 'base_model.model.model.layers.7.mlp.down_proj.lora_A.weight',
          dtype: 'f32',
          shape: [1],
          bytes: new Uint8Array(4),
        },
      ]),
    );
    expect(message).toContain('3 of its tensors do not');
    expect(message).toContain('model.layers.0.mlp.down_proj.lora_A.weight: missing in the file');
    expect(message).toContain('model.layers.0.mlp.down_proj.lora_B.weight: the model needs [6,2], the file has [1,12]');
    expect(message).toContain(
      'base_model.model.model.layers.7.mlp.down_proj.lora_A.weight: the model has no such place',
    );
  });
  it('refuses whole numbers, NaN and options we do not have', async () => {
    const first = (change: Partial<WriteEntry>) => (entries: WriteEntry[]) => entries.map((entry, i) => (i === 0 ? { ...entry, ...change } : entry)); // biome-ignore format: one line
    const nan = new Uint8Array(Float32Array.from({ length: 20 }, () => Number.NaN).buffer);
    expect(await failure(await changed(first({ dtype: 'i32' })))).toContain('must be floats, the file has I32');
    expect(await failure(await changed(first({ bytes: nan })))).toContain('holds NaN. The adapter is damaged');
    expect(await failure(await changed((e) => e, { use_dora: true }))).toBe(
      'a/adapter_config.json: use_dora (DoRA) is not supported: got true. Remove it or use plain LoRA.',
    );
    expect(await failure(await changed((e) => e, { init_lora_weights: 'corda' }))).toContain(
      'init_lora_weights "corda" is not supported',
    );
    expect(await failure(await changed((e) => e, { target_modules: ['c_attn'] }))).toContain('"c_attn" matches none');
  });
  it.each([
    ['f16', 2],
    ['bf16', 2],
    ['f64', 8],
  ])('reads %s tensors into f32', async (dtype, width) => {
    const files = await changed((entries) =>
      entries.map((e) => ({ ...e, dtype, bytes: new Uint8Array(width * e.shape.reduce((a, b) => a * b, 1)) })),
    );
    const model = toy();
    await loadAdapter(files, 'a', model);
    expect(model.stateDict().get('model.layers.0.mlp.down_proj.lora_A.weight')!.dtype).toBe('f32');
  });
  it('warns of unknown options, names that match nothing, and another base; initializations that do not matter pass', async () => {
    const files = await changed((entries) => entries, {
      init_lora_weights: 'eva',
      of_the_future: 1,
      target_modules: ['q_proj', 'o_proj', 'down_proj', 'qkv_proj', 'gate_up_proj'],
      base_model_name_or_path: 'one',
    });
    const { warnings } = await loadAdapter(files, 'a', toy(), { baseModelNameOrPath: 'two' });
    expect(warnings).toEqual([
      'adapter_config.json: unknown options are ignored: of_the_future',
      'target_modules: q_proj match no linear of this model and never did anything',
      'the adapter was made for one, and the base is two',
    ]);
  });
  it('never opens a pickle, and says what to do', async () => {
    const files = await changed((entries) => entries);
    await files.rename(`a/${adapterWeightsName}`, 'a/adapter_model.bin');
    expect(await failure(files)).toContain(
      'a Python pickle, which can run any program when it is opened and is never read here. In Python: PeftModel',
    );
  });
  it('names a missing folder or file', async () => {
    const files = memoryFiles();
    expect(await failure(files, toy(), 'nowhere')).toContain('nowhere must hold adapter_config.json');
    await files.makeDirectory('a');
    await writeAtomic(files, `a/${adapterConfigName}`, '{"peft_type": "LORA"}');
    expect(await failure(files)).toContain('must hold adapter_model.safetensors');
    await writeAtomic(files, `a/${adapterConfigName}`, '{"peft_type": ');
    expect(await failure(files)).toContain('a/adapter_config.json:1:');
  });
  it('is refused on a model that has an adapter', async () => {
    await expect(loadAdapter(memoryFiles(), 'a', tuned())).rejects.toThrow('must have no adapter yet');
  });
});
