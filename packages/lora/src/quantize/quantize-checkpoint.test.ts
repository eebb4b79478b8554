import { joinPath, type MemoryFiles, memoryFiles, readJson, writeDirectoryAtomic, writeJson } from '@lorikeet/files';
import { openCheckpoint, type WriteEntry, writeSharded } from '@lorikeet/safetensors';
import { memory, normal, randomKey, referenceBackend } from '@lorikeet/tensor';
import { describe, expect, it } from 'vitest';
import { storedLinears } from '../testing/stored-linears.ts';
import { qloraConfig } from './bits-and-bytes-config.ts';
import { quantizeCheckpoint } from './quantize-checkpoint.ts';
import { quantizeWeight4bit, tensorRows } from './quantize-weight.ts';
import { quantizedLinear } from './quantized-factory.ts';
import type { QuantizedLinear } from './quantized-linear.ts';

const backend = referenceBackend();
const shapes = { 'a.qkv_proj': [24, 64], 'a.o_proj': [9, 35], lm_head: [7, 64] } as const;
const linears = Object.keys(shapes);

async function source(change: (values: Float32Array, path: string) => void = () => undefined): Promise<MemoryFiles> {
  const files = memoryFiles();
  await files.makeDirectory('from');
  const entries: WriteEntry[] = [];
  for (const [path, shape] of [...Object.entries(shapes), ['embed_tokens', [7, 64]] as const]) {
    const values = (await normal(shape, { backend, key: randomKey(2, path) }).data()) as Float32Array;
    change(values, path);
    entries.push({
      name: `${path}.weight`,
      dtype: 'f32',
      shape,
      bytes: new Uint8Array(values.buffer, values.byteOffset, values.byteLength),
    });
  }
  await writeSharded(files, 'from', entries, { maxShardBytes: 5000 });
  await writeJson(files, 'from/config.json', { model_type: 'phi3', hidden_size: 64 });
  return files;
}

describe('quantizeCheckpoint', () => {
  it('writes what loading quantized would make, and a configuration that says so', async () => {
    const files = await source();
    const before = memory(backend).liveBytes;
    const steps: number[] = [];
    await files.makeDirectory('to');
    const report = await quantizeCheckpoint(files, 'from', 'to', qloraConfig, {
      ...{ backend, linears, maxShardBytes: 700 },
      onProgress: ({ done, total }) => steps.push(done / total),
    });
    expect(memory(backend).liveBytes).toBe(before);
    expect(report.quantized.toSorted()).toEqual(['a.o_proj', 'a.qkv_proj']);
    expect(report.files.length).toBeGreaterThan(3);
    expect((await files.list('to')).toSorted()).toEqual([...report.files].toSorted());
    expect(report.bytesAfter).toBeLessThan(report.bytesBefore);
    expect(steps).toEqual([0.25, 0.5, 0.75, 1]);
    expect(await readJson(files, 'to/config.json')).toMatchObject({
      hidden_size: 64,
      quantization_config: { load_in_4bit: true, bnb_4bit_quant_type: 'nf4', bnb_4bit_use_double_quant: true },
    });
    const [qkv, , head] = await storedLinears(files, 'to', shapes, backend);
    const layer = (await quantizedLinear(qloraConfig)(qkv!)) as QuantizedLinear;
    using dense = normal(shapes['a.qkv_proj'], { backend, key: randomKey(2, 'a.qkv_proj') });
    const direct = await quantizeWeight4bit(tensorRows('', dense), {
      quantType: 'nf4',
      blocksize: 64,
      doubleQuant: true,
    });
    expect(await layer.weight4bit().packed.bytes()).toEqual(await direct.packed.bytes());
    expect(await layer.weight4bit().absmax.bytes()).toEqual(await direct.absmax.bytes());
    expect(head!.weight.dtype).toBe('f32');
    const [a, b] = [await openCheckpoint(files, 'from'), await openCheckpoint(files, 'to')];
    for (const name of ['lm_head.weight', 'embed_tokens.weight'])
      expect(await b.read(name)).toEqual(await a.read(name));
  });
  it.each(['a.qkv_proj', 'embed_tokens'])('leaves nothing when %s holds NaN', async (bad) => {
    const files = await source((values, path) => {
      if (path === bad) values[70] = Number.NaN;
    });
    const run = writeDirectoryAtomic(files, 'to', async (draft) => {
      await quantizeCheckpoint(files, 'from', draft, qloraConfig, { backend, linears });
    });
    await expect(run).rejects.toMatchObject({
      name: 'NonFiniteError',
      message: expect.stringContaining(`quantize: ${bad}.weight must be finite`),
    });
    expect(await files.list('.')).toEqual(['from']);
  });
  it('refuses a model that is quantized already', async () => {
    const files = await source();
    await writeJson(files, joinPath('from', 'config.json'), { quantization_config: { load_in_4bit: true } });
    await files.makeDirectory('to');
    await expect(quantizeCheckpoint(files, 'from', 'to', qloraConfig, { backend, linears })).rejects.toThrow(
      'from/config.json: the model must not be quantized yet',
    );
  });
});
