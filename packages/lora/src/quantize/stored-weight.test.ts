import { joinPath, type MemoryFiles } from '@lorikeet/files';
import type { LinearLike, LinearRequest } from '@lorikeet/nn';
import { openCheckpoint, type WriteEntry, writeSharded } from '@lorikeet/safetensors';
import { memory, normal, openScope, randomKey, referenceBackend, tensor } from '@lorikeet/tensor';
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { entriesOfLinears, folderOf, storedLinears } from '../testing/stored-linears.ts';
import type { BitsAndBytesConfig } from './bits-and-bytes-config.ts';
import { Int8Linear } from './int8-linear.ts';
import { quantizeWeight4bit, quantizeWeight8bit, tensorRows } from './quantize-weight.ts';
import { quantizedLinear } from './quantized-factory.ts';
import { QuantizedLinear } from './quantized-linear.ts';

const backend = referenceBackend();
const shapes = { 'layers.0.qkv_proj': [24, 64], 'layers.0.o_proj': [9, 35] } as const;
const nf4 = { loadIn4bit: true, bnb4bitQuantType: 'nf4' } as const;

interface Made {
  readonly doubleQuant?: boolean;
  readonly blocksizes?: readonly [number, number];
  readonly int8?: boolean;
}

/** Layers with weights of their own. */
async function layers({ doubleQuant = true, blocksizes = [64, 64], int8 = false }: Made = {}) {
  const made: Record<string, LinearLike & { dispose(): void }> = {};
  for (const [i, [path, shape]] of Object.entries(shapes).entries()) {
    using dense = normal(shape, { backend, key: randomKey(5, path) });
    const settings = { quantType: 'nf4', blocksize: blocksizes[i]!, doubleQuant } as const;
    made[path] = int8
      ? new Int8Linear(await quantizeWeight8bit(tensorRows(path, dense)))
      : new QuantizedLinear(await quantizeWeight4bit(tensorRows(path, dense), settings));
  }
  return made;
}

const bytesOf = async (layer: LinearLike): Promise<[string, Uint8Array][]> =>
  Promise.all([...layer.stateEntries()].map(async ([path, t]) => [path, await t.bytes()] as [string, Uint8Array]));

/** What a loader does: check all, then make each. */
async function load(files: MemoryFiles, config: BitsAndBytesConfig = nf4): Promise<LinearLike[]> {
  const factory = quantizedLinear(config);
  const requests = await storedLinears(files, 'm', shapes, backend);
  await factory.check!(requests);
  const loaded: LinearLike[] = [];
  for (const request of requests) loaded.push(await factory(request));
  return loaded;
}

describe('a quantized checkpoint', () => {
  it.each<[string, Made, BitsAndBytesConfig]>([
    ['NF4 with double quantization', {}, nf4],
    ['NF4, scales in f32', { doubleQuant: false }, nf4],
    ['LLM.int8', { int8: true }, { loadIn8bit: true }],
  ])('%s is read back bit for bit', async (_name, options, config) => {
    const made = await layers(options);
    const files = await folderOf('m', (await entriesOfLinears(made)).values());
    const loaded = await load(files, config);
    for (const [i, layer] of Object.values(made).entries()) {
      expect(await bytesOf(loaded[i]!)).toEqual(await bytesOf(layer));
      expect(await loaded[i]!.denseWeight([1, 4]).bytes()).toEqual(await layer.denseWeight([1, 4]).bytes());
    }
  });
  it('may be sharded, scales in another shard than their weight', async () => {
    const made = await layers();
    const entries = [...(await entriesOfLinears(made)).values()];
    const files = await folderOf('other', entries);
    await files.makeDirectory('m');
    const names = await writeSharded(files, 'm', entries, { maxShardBytes: 800 });
    expect(names.length).toBeGreaterThan(3);
    const loaded = await load(files);
    expect(await bytesOf(loaded[1]!)).toEqual(await bytesOf(made['layers.0.o_proj']!));
  });
  it('may store its bytes under another dtype, as FSDP wants them', async () => {
    const made = await layers();
    const entries = await entriesOfLinears(made);
    const name = 'layers.0.qkv_proj.weight';
    entries.set(name, { ...entries.get(name)!, dtype: 'bf16', shape: [384, 1] });
    const loaded = await load(await folderOf('m', entries.values()));
    expect(await bytesOf(loaded[0]!)).toEqual(await bytesOf(made['layers.0.qkv_proj']!));
  });
  it('keeps what is dense dense, by the rule of llm_int8_skip_modules', async () => {
    using made = openScope();
    const dense = made.run(() =>
      Object.entries(shapes).map(([path, s]) => [path, normal(s, { backend, key: randomKey(1) })] as const),
    );
    const entries = await Promise.all(
      dense.map(async ([path, t]) => ({
        name: `${path}.weight`,
        dtype: 'f32',
        shape: t.shape,
        bytes: await t.bytes(),
      })),
    );
    const files = await folderOf('m', entries);
    const skipping = await load(files, { ...nf4, llmInt8SkipModules: ['o_proj'] });
    expect(skipping.map((layer) => layer.constructor.name)).toEqual(['QuantizedLinear', 'Linear']);
    expect((await load(files, {})).map((layer) => layer.constructor.name)).toEqual(['Linear', 'Linear']);
    expect((await load(files, { loadIn8bit: true })).map((l) => l.constructor.name)).toEqual([
      'Int8Linear',
      'Int8Linear',
    ]);
  });
});

describe('a bad quantized file', () => {
  type Entries = Map<string, WriteEntry>;
  const qkv = 'layers.0.qkv_proj.weight';
  const state = `${qkv}.quant_state.bitsandbytes__nf4`;
  const json = (entries: Entries): Record<string, unknown> =>
    JSON.parse(new TextDecoder().decode(entries.get(state)!.bytes as Uint8Array));
  const text = (value: string): Partial<WriteEntry> => {
    const bytes = new TextEncoder().encode(value);
    return { shape: [bytes.length], bytes };
  };
  const put = (entries: Entries, name: string, change: Partial<WriteEntry>): void =>
    void entries.set(name, {
      ...(entries.get(name) ?? { name, dtype: 'u8', shape: [0], bytes: new Uint8Array() }),
      ...change,
      name,
    });
  const patch = (entries: Entries, change: Record<string, unknown>): void =>
    put(entries, state, text(JSON.stringify({ ...json(entries), ...change })));
  const short = (dtype: string, shape: number[]): Partial<WriteEntry> => ({
    dtype,
    shape,
    bytes: new Uint8Array(shape.reduce((n, d) => n * d, dtype === 'f32' ? 4 : 1)),
  });

  const cases: [string, Made, (entries: Entries) => void, string, string][] = [
    ['state that is no JSON', {}, (e) => put(e, state, text('{"quant_type": ')), state, 'must be JSON'],
    ['state that is a list', {}, (e) => put(e, state, text('[]')), state, 'must be a JSON object: it is []'],
    ['state of another type', {}, (e) => patch(e, { quant_type: 'fp4' }), state, 'quant_type must be "nf4", as the tensor\'s name says: it is "fp4"'],
    ['state of an unknown block size', {}, (e) => patch(e, { blocksize: 48 }), state, 'blocksize must be one of 32, 64'],
    ['state of an unknown dtype', {}, (e) => patch(e, { dtype: 'int8' }), state, 'dtype must be float32, float16 or bfloat16: it is "int8"'],
    ['state of another shape', {}, (e) => patch(e, { shape: [64, 24] }), state, 'its shape must be [24, 64], as config.json says: it is [64, 24]'],
    ['state whose shape is a number', {}, (e) => patch(e, { shape: 1536 }), state, 'shape must be [out, in]: it is 1536'],
    ['state with a field of a later version', {}, (e) => patch(e, { nested_scale: 1 }), state, 'nested_scale is no field of it'],
    ['nested block size', {}, (e) => patch(e, { nested_blocksize: 128 }), state, 'nested_blocksize must be 256: it is 128'],
    ['nested offset that is text', {}, (e) => patch(e, { nested_offset: 'x' }), state, 'nested_offset must be a finite number: it is "x"'],
    ['nested field missing', {}, (e) => patch(e, { nested_offset: undefined }), state, 'nested_offset must be a finite number: it is nothing'],
    [
      'nested fields all missing',
      {},
      (e) => patch(e, { nested_offset: undefined, nested_dtype: undefined, nested_blocksize: undefined }),
      `${qkv}.nested_absmax`,
      'must come with nested_blocksize, nested_dtype and nested_offset in the quantization state: they are missing',
    ],
    ['no state', {}, (e) => void e.delete(state), qkv, `must come with its quantization state, "${state}" or __fp4: it is missing`],
    ['two states', {}, (e) => put(e, state.replace('nf4', 'fp4'), text('{}')), state, 'must be the only quantization state'],
    [
      'unknown quant_type',
      {},
      (e) => {
        put(e, state.replace('nf4', 'int3'), { ...e.get(state)! });
        e.delete(state);
      },
      state.replace('nf4', 'int3'),
      'must be of quant_type nf4 or fp4: it is of another',
    ],
    ['absmax of another length', {}, (e) => put(e, `${qkv}.absmax`, short('u8', [23])), `${qkv}.absmax`, 'must be u8 [24], one scale a block of 64, in 8 bits by double quantization: it is u8 [23]'],
    ['absmax of another length, f32', { doubleQuant: false }, (e) => put(e, `${qkv}.absmax`, short('f32', [25])), `${qkv}.absmax`, 'must be f32 [24], one scale a block of 64: it is f32 [25]'],
    ['absmax of another dtype', {}, (e) => put(e, `${qkv}.absmax`, short('f32', [24])), `${qkv}.absmax`, 'must be u8 [24]'],
    ['absmax missing', {}, (e) => void e.delete(`${qkv}.absmax`), qkv, `must come with "${qkv}.absmax", one scale a block of 64, in 8 bits by double quantization: it is missing`],
    ['nested absmax of another length', {}, (e) => put(e, `${qkv}.nested_absmax`, short('f32', [2])), `${qkv}.nested_absmax`, 'must be f32 [1], one a group of 256 scales: it is f32 [2]'],
    ['nested map missing', {}, (e) => void e.delete(`${qkv}.nested_quant_map`), qkv, `must come with "${qkv}.nested_quant_map"`],
    ['map of other codes', {}, (e) => put(e, `${qkv}.quant_map`, short('f32', [16])), `${qkv}.quant_map`, 'must be the codes of nf4: entry 0 is 0'],
    ['odd number of bytes', {}, (e) => put(e, qkv, short('u8', [767, 1])), qkv, 'must hold 768 bytes, two weights of [24, 64] in each: it holds 767 (u8 [767, 1])'],
    ['scale that is not a number', { doubleQuant: false }, (e) => put(e, `${qkv}.absmax`, { bytes: new Uint8Array(new Float32Array(24).fill(Number.NaN).buffer) }), `${qkv}.absmax`, 'must be finite: element 0 is NaN'],
    ['stray tensor', {}, (e) => put(e, `${qkv}.zero_point`, short('u8', [1])), `${qkv}.zero_point`, 'is no part of a 4-bit weight'],
    ['mixed block sizes', { blocksizes: [64, 128] }, () => undefined, 'layers.0.o_proj.weight', `must be quantized like "${qkv}", nf4 in blocks of 64 with double quantization: it is nf4 in blocks of 128 with double quantization`],
    ['8-bit scales missing', { int8: true }, (e) => void e.delete('layers.0.qkv_proj.SCB'), qkv, 'must come with "layers.0.qkv_proj.SCB", one scale a row: it is missing'],
    ['8-bit scales of another length', { int8: true }, (e) => put(e, 'layers.0.qkv_proj.SCB', short('f32', [23])), 'layers.0.qkv_proj.SCB', 'must be f32 [24], one scale a row: it is f32 [23]'],
    ['8-bit weight of another shape', { int8: true }, (e) => put(e, qkv, short('i8', [64, 24])), qkv, 'must be i8 [24, 64]: it is i8 [64, 24]'],
    ['8-bit format of old versions', { int8: true }, (e) => put(e, 'layers.0.qkv_proj.weight_format', { bytes: new Uint8Array([1]) }), 'layers.0.qkv_proj.weight_format', 'must be 0 (row-major): it is 1'],
  ]; // biome-ignore format: a table
  it.each(cases)('%s: named with file, tensor and mismatch', async (_name, options, damage, name, message) => {
    const entries = await entriesOfLinears(await layers(options));
    damage(entries);
    const files = await folderOf('m', entries.values());
    const before = memory(backend).liveBytes;
    const config = options.int8 ? { loadIn8bit: true } : nf4;
    const error = await load(files, config).then(
      () => new Error('it loaded'),
      (e: Error) => e,
    );
    expect(error.message).toContain(`m/model.safetensors: tensor ${JSON.stringify(name)}`);
    expect(error.message).toContain(message);
    expect(error).toMatchObject({ name: 'SafetensorsError', path: 'm/model.safetensors', tensor: name });
    expect(memory(backend).liveBytes).toBe(before);
  });
  it('never fails in another way, whatever stands in the state and in one of the tensors', async () => {
    const whole = await entriesOfLinears(await layers());
    const names = [...whole.keys()];
    await fc.assert(
      fc.asyncProperty(
        fc.dictionary(
          fc.constantFrom('blocksize', 'dtype', 'shape', 'quant_type', 'nested_offset', 'other'),
          fc.jsonValue(),
        ),
        fc.constantFrom(...names),
        fc.constantFrom('f32', 'bf16', 'u8', 'i8'),
        fc.array(fc.nat(40), { maxLength: 3 }),
        async (change, name, dtype, shape) => {
          const entries = new Map(whole);
          patch(entries, change);
          put(entries, name, short(dtype === 'bf16' ? 'u8' : dtype, shape));
          const files = await folderOf('m', entries.values());
          const before = memory(backend).liveBytes;
          const error = await load(files).then(
            (made) => made.forEach((layer) => [...layer.stateEntries()].forEach(([, t]) => t.dispose())),
            (e: Error) => e,
          );
          if (error) expect(error).toMatchObject({ name: 'SafetensorsError', path: 'm/model.safetensors' });
          expect(memory(backend).liveBytes).toBe(before);
        },
      ),
      { numRuns: 150 },
    );
  });
  it('another form than was asked for', async () => {
    const files = await folderOf('m', (await entriesOfLinears(await layers())).values());
    await expect(load(files, { loadIn8bit: true })).rejects.toThrow(
      `m/model.safetensors: tensor "${qkv}": must be int8, as the quantization that was asked for: it is stored as 4bit.`,
    );
  });
  it('a shard cut short names the shard', async () => {
    const made = await layers();
    const files = await folderOf('x', []);
    await files.makeDirectory('m');
    const names = await writeSharded(files, 'm', (await entriesOfLinears(made)).values(), { maxShardBytes: 800 });
    const shard = joinPath('m', names.find((name) => name.includes('00002'))!);
    const bytes = await files.read(shard);
    await files.remove(shard);
    await files.append(shard, bytes.subarray(0, bytes.length - 1));
    await expect(openCheckpoint(files, 'm')).rejects.toThrow(shard);
  });
  it('dense weights of another shape', async () => {
    using t = tensor(new Float32Array(6), { backend });
    const stored = async (): Promise<LinearRequest[]> => {
      const entry = { dtype: 'f32', shape: [2, 3], bytes: await t.bytes() };
      const files = await folderOf(
        'm',
        Object.keys(shapes).map((path) => ({ name: `${path}.weight`, ...entry })),
      );
      return storedLinears(files, 'm', shapes, backend);
    };
    const { check } = quantizedLinear(nf4);
    await expect(Promise.resolve(check!(await stored()))).rejects.toThrow(
      `m/model.safetensors: tensor "${qkv}": must be floats [24, 64]: it is f32 [2, 3].`,
    );
  });
});
