import { joinPath, type MemoryFiles, memoryFiles, readJson, writeJson } from '@lorikeet/files';
import { denseLinear, Linear, type LinearRequest } from '@lorikeet/nn';
import { openCheckpoint, type WriteEntry, writeSafetensors, writeSharded } from '@lorikeet/safetensors';
import { memory, referenceBackend, tensor } from '@lorikeet/tensor';
import { describe, expect, it } from 'vitest';
import { loadPhi3 } from './load.ts';
import { savePhi3 } from './save.ts';
import { tinyConfigJson, tinyLongRope, tinyPhi3 } from './testing/tiny-phi3.ts';

const backend = referenceBackend();
const dir = 'model';

async function saved(changes: Record<string, unknown> = {}): Promise<MemoryFiles> {
  const files = memoryFiles();
  await savePhi3(files, dir, await tinyPhi3(backend, changes));
  return files;
}

/** Writes the weights again with some of them changed; null leaves one out. */
async function rewrite(files: MemoryFiles, changes: Record<string, Partial<WriteEntry> | null>): Promise<void> {
  const reader = await openCheckpoint(files, dir);
  const entries: WriteEntry[] = [];
  for (const [name, { dtype, shape }] of reader.entries) {
    if (changes[name] === null) continue;
    entries.push({ name, dtype, shape, bytes: await reader.read(name), ...changes[name] });
  }
  for (const [name, change] of Object.entries(changes))
    if (change && !reader.entries.has(name))
      entries.push({ name, dtype: 'f32', shape: [1], bytes: new Uint8Array(4), ...change });
  await writeSafetensors(files, joinPath(dir, 'model.safetensors'), entries);
}
const load = (files: MemoryFiles, options: Partial<Parameters<typeof loadPhi3>[2]> = {}) =>
  loadPhi3(files, dir, { backend, warn: () => {}, ...options });
const ids = Int32Array.of(1, 7, 30, 12);

describe('a saved model', () => {
  it.each<[string, Record<string, unknown>]>([
    ['plain', {}],
    ['tied', { tie_word_embeddings: true }],
    ['longrope', { original_max_position_embeddings: 3, rope_scaling: tinyLongRope }],
  ])('loads to the same logits: %s', async (_name, changes) => {
    const model = await tinyPhi3(backend, changes);
    const files = memoryFiles();
    const names = await savePhi3(files, dir, model);
    expect(names).toEqual(['model.safetensors', 'generation_config.json', 'config.json']);
    const again = await load(files);
    expect(again.config).toEqual({ ...model.config, source: again.config.source });
    expect(await again.logits({ ids, lengths: [4] }).bytes()).toEqual(
      await model.logits({ ids, lengths: [4] }).bytes(),
    );
    expect(again.namedParameters().some(({ tensor: t }) => t.requiresGrad)).toBe(false);
  });
  it('may be sharded, and reports progress', async () => {
    const files = memoryFiles();
    const model = await tinyPhi3(backend);
    const names = await savePhi3(files, dir, model, { maxShardBytes: 3000 });
    expect(names).toContain('model.safetensors.index.json');
    const steps: [number, number][] = [];
    const again = await load(files, { onProgress: ({ loaded, total }) => steps.push([loaded, total]) });
    expect(steps.at(-1)).toEqual([15, 15]);
    expect(steps.map(([n]) => n)).toEqual(steps.map((_, i) => i + 1));
    expect(await again.logits({ ids, lengths: [4] }).bytes()).toEqual(
      await model.logits({ ids, lengths: [4] }).bytes(),
    );
  });
  it('keeps every key of its config.json and names the dtype', async () => {
    const files = await saved({ auto_map: { AutoConfig: 'x' } });
    expect(await readJson(files, joinPath(dir, 'config.json'))).toEqual({
      ...tinyConfigJson({ auto_map: { AutoConfig: 'x' } }),
      torch_dtype: 'float32',
    });
  });
  it('a model that is not plain is not saved, and nothing is written', async () => {
    const files = memoryFiles();
    const model = await tinyPhi3(backend);
    Object.assign(model.lm_head, { lora_A: tensor([[1]], { backend }) });
    await expect(savePhi3(files, dir, model)).rejects.toThrow('lm_head.lora_A: not part of a Phi-3 checkpoint');
    expect(await files.exists(dir)).toBe(false);
  });
});

describe('loading', () => {
  it('keeps the stored dtype, or converts to the one asked for', async () => {
    const files = await saved();
    const wide = await tinyPhi3(backend);
    for (const { tensor: t, path } of wide.namedParameters())
      await rewrite(files, { [path]: { dtype: 'bf16', bytes: await t.cast('bf16').bytes() } });
    const dtypes = async (options: object) =>
      new Set((await load(files, options)).namedParameters().map(({ tensor: t }) => t.dtype));
    expect(await dtypes({})).toEqual(new Set(['bf16']));
    expect(await dtypes({ dtype: 'f16' })).toEqual(new Set(['f16']));
    expect((await load(files, { trainable: true })).namedParameters().every(({ tensor: t }) => t.requiresGrad)).toBe(
      true,
    );
  });
  it('asks the linear factory for every linear layer, with rows readable piece by piece', async () => {
    const requests: LinearRequest[] = [];
    const dense = denseLinear();
    const model = await load(await saved(), {
      linear: (request) => {
        requests.push(request);
        return dense(request);
      },
    });
    const layers = [0, 1].flatMap((i) =>
      ['self_attn.qkv_proj', 'self_attn.o_proj', 'mlp.gate_up_proj', 'mlp.down_proj'].map(
        (n) => `model.layers.${i}.${n}`,
      ),
    );
    expect(requests.map(({ path }) => path)).toEqual([...layers, 'lm_head']);
    const { weight, outFeatures, inFeatures } = requests[0]!;
    expect([outFeatures, inFeatures, weight.dtype]).toEqual([32, 16, 'f32']);
    const whole = await (model.findModule(layers[0]!) as Linear).weight.bytes();
    expect(await weight.readRows(2, 5)).toEqual(whole.slice(2 * 64, 5 * 64));
  });
  it('a factory that fails leaves no tensor behind', async () => {
    const files = await saved();
    const before = memory(backend).liveBytes;
    const linear = (request: LinearRequest) => {
      if (request.path.includes('layers.1')) throw new Error('no room');
      return denseLinear()(request);
    };
    await expect(load(files, { linear })).rejects.toThrow('no room');
    expect(memory(backend).liveBytes).toBe(before);
  });
  it('takes stop tokens from generation_config.json, else from config.json', async () => {
    const files = await saved();
    const path = joinPath(dir, 'generation_config.json');
    await writeJson(files, path, { eos_token_id: [2, 5, 9] });
    expect((await load(files)).stopTokenIds).toEqual([2, 5, 9]);
    await files.remove(path);
    expect((await load(files)).stopTokenIds).toEqual([2]);
    await writeJson(files, path, { eos_token_id: [2, 99] });
    await expect(load(files)).rejects.toThrow(
      'generation_config.json: eos_token_id: expected ids below vocab_size 37, found [2,99]',
    );
  });
  it('warns of weights that are not finite, with tensor and count, and keeps them listed', async () => {
    for (const [dtype, bytes] of [
      ['f32', new Uint8Array(Float32Array.from({ length: 16 }, (_, i) => (i < 2 ? Number.NaN : 1)).buffer)],
      ['bf16', new Uint8Array(Uint16Array.from({ length: 16 }, (_, i) => (i < 2 ? 0xff80 : 0x3f80)).buffer)],
      ['f16', new Uint8Array(Uint16Array.from({ length: 16 }, (_, i) => (i < 2 ? 0x7c01 : 0x3c00)).buffer)],
    ] as const) {
      const files = await saved();
      await rewrite(files, { 'model.norm.weight': { dtype, bytes } });
      const warnings: string[] = [];
      const model = await load(files, { warn: (message) => warnings.push(message) });
      expect(warnings).toEqual([
        'model: model.norm.weight holds 2 values that are NaN or infinite. Download the weights again.',
      ]);
      expect(model.nonFiniteWeights).toEqual([{ path: 'model.norm.weight', count: 2 }]);
    }
    expect((await load(await saved())).nonFiniteWeights).toEqual([]);
  });
  it('ignores rotary buffers of old checkpoints and the copy of a tied head', async () => {
    const files = await saved({ tie_word_embeddings: true });
    await rewrite(files, {
      'model.layers.0.self_attn.rotary_emb.inv_freq': { shape: [2], bytes: new Uint8Array(8) },
      'lm_head.weight': { shape: [37, 16], bytes: new Uint8Array(37 * 64) },
    });
    expect((await load(files)).lm_head).toBeInstanceOf(Linear);
  });
});

describe('a quantized checkpoint', () => {
  const absmax = 'model.layers.1.mlp.down_proj.weight.absmax';
  const stored = {
    'model.layers.1.mlp.down_proj.weight': { dtype: 'u8', shape: [160, 1], bytes: new Uint8Array(160) },
  };
  it('is refused without a factory, by what tells that it is one', async () => {
    const files = await saved();
    await rewrite(files, { ...stored, [absmax]: {} });
    await expect(load(files)).rejects.toThrow(
      `the checkpoint must be dense: it holds ${absmax}. Load it with linear: quantizedLinear(...) of @lorikeet/lora.`,
    );
    const stated = await saved({ quantization_config: { load_in_4bit: true } });
    await writeJson(
      stated,
      joinPath(dir, 'config.json'),
      tinyConfigJson({ quantization_config: { load_in_4bit: true } }),
    );
    await expect(load(stated)).rejects.toThrow('must be dense: config.json has a quantization_config.');
  });
  it('reaches a factory that checks: all requests before the first layer, companions beside the weight', async () => {
    const files = await saved();
    await rewrite(files, { ...stored, [absmax]: { shape: [1], bytes: new Uint8Array(4) } });
    const events: string[] = [];
    const linear = Object.assign(
      (request: LinearRequest) => {
        events.push(request.path);
        return denseLinear()({ ...request, weight: { ...request.weight, shape: [20, 16], dtype: 'f32' } });
      },
      {
        check: (requests: readonly LinearRequest[]) => {
          events.push(`check ${requests.length}`);
          const { weight, companions } = requests.find(({ path }) => path.endsWith('layers.1.mlp.down_proj'))!;
          expect([weight.dtype, ...weight.shape, weight.file]).toEqual(['u8', 160, 1, 'model/model.safetensors']);
          expect([...companions!].map(([name, { path }]) => [name, path])).toEqual([['weight.absmax', absmax]]);
        },
      },
    );
    await expect(load(files, { linear })).rejects.toThrow('fromBytes');
    expect(events[0]).toBe('check 9');
    expect(events[1]).toBe('model.layers.0.self_attn.qkv_proj');
  });
  it('is not searched for NaN where bytes are stored under a float dtype', async () => {
    const files = await saved();
    const weight = 'model.layers.1.mlp.down_proj.weight';
    const bytes = new Uint8Array(160).fill(0xff); // NaN as bf16, two codes of 15 each
    await rewrite(files, {
      [weight]: { dtype: 'bf16', shape: [80, 1], bytes },
      [absmax]: { shape: [1], bytes: new Uint8Array(4) },
    });
    const linear = Object.assign(
      async (request: LinearRequest) => {
        if (request.companions?.size === 0) return denseLinear()(request);
        expect(await request.weight.read()).toEqual(bytes);
        return new Linear(tensor(new Float32Array(320), { backend }).reshape([16, 20]));
      },
      { check: () => undefined },
    );
    expect((await load(files, { linear })).nonFiniteWeights).toEqual([]);
  });
  it('does not leave its quantization_config in a folder of plain weights', async () => {
    const files = await saved({ quantization_config: { load_in_4bit: true } });
    expect(await readJson(files, joinPath(dir, 'config.json'))).not.toHaveProperty('quantization_config');
  });
});

describe('weights that do not fit config.json', () => {
  it('are refused before one is read, all of them in one error', async () => {
    const files = await saved();
    await rewrite(files, {
      'lm_head.weight': null,
      'model.norm.weight': { shape: [4, 4] },
      'model.layers.0.mlp.down_proj.weight': { dtype: 'i32' },
      'model.layers.0.self_attn.q_proj.weight': {},
    });
    const before = memory(backend).liveBytes;
    await expect(load(files)).rejects.toThrow(
      /4 tensors do not:\n {2}model.layers.0.mlp.down_proj.weight: expected BF16, F16 or F32, found I32\n {2}model.norm.weight: expected \[16\], found \[4,4\]\n {2}lm_head.weight: missing, expected \[37,16\]\n {2}model.layers.0.self_attn.q_proj.weight: not a tensor of this configuration/,
    );
    expect(memory(backend).liveBytes).toBe(before);
  });
  it('another hidden size is named tensor by tensor, the first twenty', async () => {
    const files = await saved();
    await writeJson(files, joinPath(dir, 'config.json'), tinyConfigJson({ hidden_size: 24, num_hidden_layers: 4 }));
    await expect(load(files)).rejects.toThrow(
      /27 tensors do not:\n {2}model.embed_tokens.weight: expected \[37,24\], found \[37,16\]\n[\s\S]*\.\.\. and 7 more/,
    );
  });
  it('a folder without weights says so', async () => {
    const files = memoryFiles();
    await files.makeDirectory(dir);
    await writeJson(files, joinPath(dir, 'config.json'), tinyConfigJson());
    await expect(load(files)).rejects.toThrow('must hold model.safetensors or model.safetensors.index.json');
    await writeSharded(files, dir, [{ name: 'x', dtype: 'f32', shape: [1], bytes: new Uint8Array(4) }]);
    await expect(load(files)).rejects.toThrow('x: not a tensor of this configuration');
  });
});
