import { existsSync, readFileSync } from 'node:fs';
import { resolve } from 'node:path';
import { type FileSystem, memoryFiles, readJson, writeAtomic } from '@lorikeet/files';
import { describe, expect, test } from 'vitest';
import { indexName, openCheckpoint, parseShardIndex } from './checkpoint.ts';
import { convertElements } from './convert.ts';
import { SafetensorsError } from './errors.ts';
import type { TensorEntry } from './header.ts';
import { type WriteEntry, writeSafetensors } from './write-safetensors.ts';
import { writeSharded } from './write-sharded.ts';

const u8 = (name: string, ...bytes: number[]): WriteEntry => ({
  name,
  dtype: 'u8',
  shape: [bytes.length],
  bytes: Uint8Array.from(bytes),
});
const model = [u8('d', 1, 2, 3), u8('a', 4, 5), u8('__proto__', 6), u8('c', 7, 8, 9, 10)];

async function sharded(): Promise<FileSystem> {
  const files = memoryFiles();
  await files.makeDirectory('m');
  await writeSharded(files, 'm', model, { maxShardBytes: 5, metadata: { format: 'pt' } });
  return files;
}
async function editIndex(files: FileSystem, edit: (text: string) => string): Promise<void> {
  const text = new TextDecoder().decode(await files.read(`m/${indexName}`));
  expect(edit(text)).not.toBe(text);
  await writeAtomic(files, `m/${indexName}`, edit(text));
}
const refusal = async (files: FileSystem): Promise<string> => {
  const error = await openCheckpoint(files, 'm').then(
    () => undefined,
    (reason: unknown) => reason,
  );
  expect(error).toBeInstanceOf(SafetensorsError);
  return (error as Error).message;
};

describe('writeSharded and openCheckpoint', () => {
  test('one file when all fits', async () => {
    const files = memoryFiles();
    expect(await writeSharded(files, '', model)).toEqual(['model.safetensors']);
    const reader = await openCheckpoint(files, '');
    expect([...reader.entries.keys()]).toEqual(['__proto__', 'a', 'c', 'd']);
  });

  test("shards and index in Hugging Face's form, read back as one", async () => {
    const files = await sharded();
    const names = ['model-00001-of-00002.safetensors', 'model-00002-of-00002.safetensors', indexName];
    expect(await files.list('m')).toEqual(names);
    const index = (await readJson(files, `m/${indexName}`)) as {
      metadata: unknown;
      weight_map: Record<string, string>;
    };
    expect(index.metadata).toEqual({ total_size: 10 });
    expect(Object.entries(index.weight_map)).toEqual([
      ['__proto__', names[1]],
      ['a', names[0]],
      ['c', names[1]],
      ['d', names[0]],
    ]);
    const reader = await openCheckpoint(files, 'm');
    expect(reader.entries.size).toBe(4);
    expect(reader.metadata.get('format')).toBe('pt');
    for (const { name, bytes } of model) expect(await reader.read(name)).toEqual(bytes);
    expect(reader.entries.get('c')?.path).toBe(`m/${names[1]}`);
  });

  test('a tensor larger than a shard gets its own', async () => {
    const files = memoryFiles();
    const written = await writeSharded(files, '', [u8('a', 1), u8('big', 1, 2, 3, 4), u8('b', 2)], {
      maxShardBytes: 2,
    });
    expect(written).toHaveLength(3);
    expect((await openCheckpoint(files, '')).entries.size).toBe(3);
  });

  test('does not write over a model', async () => {
    const files = await sharded();
    await expect(writeSharded(files, 'm', model)).rejects.toThrow(/must hold no model yet/);
    await expect(writeSharded(files, 'm', model, { maxShardBytes: 0 })).rejects.toThrow(RangeError);
  });

  test('a folder without weights, with pickle only, or no folder', async () => {
    const files = memoryFiles();
    await expect(openCheckpoint(files, 'm')).rejects.toThrow(/model folder must exist/);
    await files.makeDirectory('m');
    expect(await refusal(files)).toMatch(/must hold model\.safetensors or .*found: nothing/);
    await writeAtomic(files, 'm/pytorch_model.bin', 'x');
    expect(await refusal(files)).toMatch(/pytorch_model\.bin is pickle, which can run code/);
  });
});

describe('row 10: what an index must not say', () => {
  test('a shard that is missing', async () => {
    const files = await sharded();
    await files.remove('m/model-00002-of-00002.safetensors');
    expect(await refusal(files)).toMatch(/shard must exist: "model-00002-of-00002\.safetensors" is missing/);
  });

  test('a tensor that its shard does not hold, or one that the index leaves out', async () => {
    const extra = await sharded();
    await editIndex(extra, (text) =>
      text.replace('"weight_map": {', '"weight_map": {"ghost": "model-00001-of-00002.safetensors",'),
    );
    expect(await refusal(extra)).toMatch(
      /tensor "ghost" must be in "model-00001-of-00002\.safetensors": that shard does not hold it/,
    );
    const missing = await sharded();
    await editIndex(missing, (text) => text.replace(/"a": [^,]*,/, ''));
    expect(await refusal(missing)).toMatch(/tensor "a" must be in exactly one shard: .* the index does not list it/);
  });

  test('a tensor in two shards, or in another than the index says', async () => {
    const files = await sharded();
    await writeSafetensors(files, 'm/model-00002-of-00002.safetensors', [u8('__proto__', 6), u8('c', 7), u8('a', 1)]);
    expect(await refusal(files)).toMatch(
      /tensor "a" must be in exactly one shard: it is in "model-00002.*", the index says "model-00001/,
    );
    const twice = await sharded();
    await editIndex(twice, (text) =>
      text.replace('"weight_map": {', '"weight_map": {"a": "model-00002-of-00002.safetensors",'),
    );
    expect(await refusal(twice)).toMatch(/:\d+:\d+: index must be JSON .*duplicate key "a"/);
  });

  test.each([
    ['no map', '{"metadata":{}}', /must have a weight_map/],
    ['an empty map', '{"weight_map":{}}', /must have a weight_map/],
    ['a map of numbers', '{"weight_map":{"a":1}}', /1:20: index must be JSON .*shard file name/],
    ['an array', '[]', /expected an object/],
    ['cut JSON', '{\n"weight_map":{"a":"x.safetensors"', /2:\d+: index must be JSON/],
    ['a shard of another kind', '{"weight_map":{"a":"x.bin"}}', /must be a \.safetensors file: "x\.bin"/],
  ])('%s', (_name, text, message) => {
    expect(() => parseShardIndex(new TextEncoder().encode(text), indexName)).toThrow(message);
  });

  test('bytes that are no UTF-8', () => {
    expect(() => parseShardIndex(Uint8Array.of(0x7b, 0xff), indexName)).toThrow(/1:2: index must be UTF-8/);
  });

  test('the index of the real Phi-3-mini-128k is understood', (context) => {
    const path = resolve(
      import.meta.dirname,
      '../../../../shared/data/phi3-configs/Phi-3-mini-128k-instruct',
      indexName,
    );
    if (!existsSync(path)) return context.skip('skipped: ../shared/data/phi3-configs is not here');
    const shards = parseShardIndex(new Uint8Array(readFileSync(path)), path);
    expect(shards.size).toBe(195);
    expect(new Set(shards.values()).size).toBe(2);
  });
});

describe('convertElements', () => {
  const entry = (dtype: TensorEntry['dtype']): TensorEntry => ({
    name: 't',
    dtype,
    formatDtype: '',
    shape: [],
    byteLength: 0,
    byteOffset: 0,
    path: 'w',
  });
  const bytes = (array: ArrayBufferView): Uint8Array => new Uint8Array(array.buffer);

  test('keeps values exactly, or rounds f64', () => {
    const i32 = (...values: number[]) => ({ dtype: 'i32', bytes: bytes(Int32Array.from(values)) });
    expect(convertElements(entry('i64'), bytes(BigInt64Array.of(-5n, 2n ** 31n - 1n)))).toEqual(i32(-5, 2 ** 31 - 1));
    expect(convertElements(entry('u64'), bytes(BigUint64Array.of(7n)))).toEqual(i32(7));
    expect(convertElements(entry('i16'), bytes(Int16Array.of(-3)))).toEqual(i32(-3));
    expect(convertElements(entry('u16'), bytes(Uint16Array.of(65535)))).toEqual(i32(65535));
    expect(convertElements(entry('bool'), Uint8Array.of(0, 1))).toEqual({ dtype: 'u8', bytes: Uint8Array.of(0, 1) });
    expect(convertElements(entry('f64'), bytes(Float64Array.of(0.1, Infinity)))).toEqual({
      dtype: 'f32',
      bytes: bytes(Float32Array.of(0.1, Infinity)),
    });
    const same = Uint8Array.of(1, 2);
    expect(convertElements(entry('bf16'), same)).toEqual({ dtype: 'bf16', bytes: same });
  });

  test('refuses what does not fit, by tensor, element and value', () => {
    expect(() => convertElements(entry('i64'), bytes(BigInt64Array.of(0n, 2n ** 31n)))).toThrow(
      /w: tensor "t": element 1 must fit i32: it is 2147483648/,
    );
    expect(() => convertElements(entry('i64'), bytes(BigInt64Array.of(-(2n ** 31n) - 1n)))).toThrow(/element 0/);
    expect(() => convertElements(entry('bool'), Uint8Array.of(2))).toThrow(/a bool \(0 or 1\)/);
    expect(() => convertElements(entry('f64'), bytes(Float64Array.of(1e300)))).toThrow(/must fit f32/);
    expect(() => convertElements(entry('i64'), new Uint8Array(7))).toThrow(/whole elements/);
  });
});
