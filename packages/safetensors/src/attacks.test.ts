/**
 * Attempts to hurt a program through a safetensors file, after the `attacks/` folder of the Rust library:
 * each must be refused quickly, without memory, and without a trace in the running program.
 */
import { mkdtempSync, openSync, rmSync, truncateSync, writeSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { faultyFiles, memoryFiles, nodeFiles } from '@lorikeet/files';
import { afterAll, describe, expect, test } from 'vitest';
import { openCheckpoint } from './checkpoint.ts';
import { maxTensors, parseHeader } from './header.ts';
import { openSafetensors } from './tensor-reader.ts';
import { handMade, headerOf, member } from './testing/hand-made.ts';

const directory = mkdtempSync(join(tmpdir(), 'lorikeet-attacks-'));
afterAll(() => rmSync(directory, { recursive: true, force: true }));

async function refusedWithin(limitMs: number, attempt: () => unknown): Promise<string> {
  const started = performance.now();
  const message = await Promise.resolve()
    .then(attempt)
    .then(
      () => 'accepted',
      (error: unknown) => (error as Error).message,
    );
  expect(performance.now() - started).toBeLessThan(limitMs);
  return message;
}

/** A header of `count` tensors that all claim the same span; every name and number is one byte wide or padded. */
function bomb(count: number, offsets: string, shape: string): Uint8Array {
  const encoder = new TextEncoder();
  const one = (i: number): Uint8Array =>
    encoder.encode(`${i === 0 ? '{' : ','}${member(i.toString(36).padStart(4, '0'), 'U8', shape, offsets)}`);
  const size = one(1).length;
  const header = new Uint8Array(size * count + 1);
  for (let i = 0; i < count; i++) header.set(one(i), size * i);
  header[size * count] = 0x7d;
  return header;
}

describe('attacks', () => {
  test('row 2: a header length in the exabytes is refused after 8 bytes are read', async () => {
    const path = join(directory, 'length.safetensors');
    for (const length of [2n ** 64n - 1n, 2n ** 63n, 2n ** 53n, 100_000_001n]) {
      writeSync(openSync(path, 'w'), handMade('{}', 0, length));
      const files = faultyFiles(nodeFiles(), {});
      expect(await refusedWithin(500, () => openSafetensors(files, path))).toMatch(/at most 100000000 bytes/);
      expect(files.log.map((call) => call.split(' ')[0])).toEqual(['size', 'read']);
    }
  });

  test('a sparse file of 10 TB costs what its header costs', async () => {
    const path = join(directory, 'sparse.safetensors');
    writeSync(openSync(path, 'w'), handMade(headerOf(member('a', 'U8', '10000000000000', '0,10000000000000'))));
    const size = 8 + headerOf(member('a', 'U8', '10000000000000', '0,10000000000000')).length + 1e13;
    truncateSync(path, size);
    const before = process.memoryUsage().rss;
    const reader = await openSafetensors(nodeFiles(), path);
    expect(reader.entries.get('a')?.byteLength).toBe(1e13);
    expect(await reader.readRange('a', 1e13 - 3, 3)).toEqual(new Uint8Array(3));
    expect(process.memoryUsage().rss - before).toBeLessThan(64 << 20);
  });

  test('row 7: a header of a million tensors on one 16-byte span', async () => {
    const header = bomb(1_000_000, '0,16', '16');
    expect(header.length).toBeLessThan(100_000_000);
    const file = handMade(header, 16);
    const before = process.memoryUsage().rss;
    expect(await refusedWithin(2000, () => parseHeader(file, file.length))).toMatch(/tensors overlap/);
    expect(process.memoryUsage().rss - before).toBeLessThan(300 << 20);
  });

  test('row 7: ten million tensors do not fit under the header cap', async () => {
    const header = '{}';
    const length = BigInt(bomb(10, '0,16', '16').length) * 1_000_000n;
    expect(await refusedWithin(500, () => parseHeader(handMade(header, 16, length), 700_000_000))).toMatch(
      /at most 100000000/,
    );
  });

  test('empty tensors, which cost no data, are counted', async () => {
    const file = handMade(bomb(maxTensors + 1, '0,0', '0'));
    expect(await refusedWithin(15_000, () => parseHeader(file, file.length))).toMatch(/at most 1000000 tensors/);
  });

  test('deep nesting does not reach the stack', async () => {
    for (const open of ['[', '{"a":']) {
      const file = handMade(`{"a":${open.repeat(100_000)}`);
      expect(await refusedWithin(500, () => parseHeader(file, file.length))).toMatch(/must be safetensors JSON/);
      const inside = handMade(`{"a":{"x":${open.repeat(100_000)}`);
      expect(await refusedWithin(500, () => parseHeader(inside, inside.length))).toMatch(/nested too deeply/);
    }
  });

  test('a number of a million digits, a string of escapes, a shape of a million ones', async () => {
    const number = handMade(headerOf(member('a', 'U8', '1'.repeat(1 << 20), '0,1')), 1);
    expect(await refusedWithin(500, () => parseHeader(number, number.length))).toMatch(/malformed number/);
    const escapes = handMade(`{"${'\\u0041'.repeat(200_000)}":1}`);
    expect(await refusedWithin(500, () => parseHeader(escapes, escapes.length))).toMatch(/longer than/);
    const shape = handMade(headerOf(member('a', 'U8', '1,'.repeat(1 << 20).slice(0, -1), '0,1')), 1);
    expect(await refusedWithin(500, () => parseHeader(shape, shape.length))).toMatch(/at most 64 numbers/);
  });

  test('row 22: no JSON key reaches Object.prototype', async () => {
    const header =
      '{"__proto__":{"dtype":"U8","shape":[1],"data_offsets":[0,1],"__proto__":{"polluted":1}},"__metadata__":{"__proto__":"polluted"}}';
    const { entries, metadata } = parseHeader(handMade(header, 1), handMade(header, 1).length);
    expect(entries.get('__proto__')?.shape).toEqual([1]);
    expect(metadata.get('__proto__')).toBe('polluted');
    expect(({} as Record<string, unknown>).polluted).toBeUndefined();
    expect(Object.keys(Object.prototype)).toEqual([]);
  });

  test('polyglots: bytes before, between or after tensors that belong to none', async () => {
    const zip = new TextEncoder().encode('PK\u0005\u0006');
    const after = handMade('{}', zip);
    expect(() => parseHeader(after, after.length)).toThrow(/Bytes that belong to no tensor/);
    const between = handMade(headerOf(member('a', 'U8', '1', '0,1'), member('b', 'U8', '1', '5,6')), 6);
    expect(() => parseHeader(between, between.length)).toThrow(/without a gap/);
  });

  test.each([
    '../../x.safetensors',
    '%2e%2e/x.safetensors',
    '%252e%252e%252fx.safetensors',
    'C:\\x.safetensors',
    'C:x.safetensors',
    '..\\x.safetensors',
    '/etc/x.safetensors',
    'https://x/y.safetensors',
    'a\u0000.safetensors',
    'nul.safetensors',
    'a/../b.safetensors',
    './a.safetensors',
    '',
    `${'n'.repeat(300)}.safetensors`,
  ])('row 10: an index that points to %j is refused before anything is opened', async (shard) => {
    const files = memoryFiles();
    const index = JSON.stringify({ weight_map: { 'a.weight': shard } });
    await files.append('model.safetensors.index.json', new TextEncoder().encode(index));
    const counted = faultyFiles(files, {});
    expect(await refusedWithin(500, () => openCheckpoint(counted, ''))).toMatch(
      /shard of tensor "a\.weight": path from a file/,
    );
    expect(counted.log.filter((call) => call.startsWith('read'))).toEqual(['read model.safetensors.index.json']);
  });
});
