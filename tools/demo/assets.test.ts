import { fileURLToPath } from 'node:url';
import { joinPath, memoryFiles, nodeFiles, readJson, readText, writeJson } from '@lorikeet/files';
import { expect, test } from 'vitest';
import { baseConfig, baseTraining } from './base-training.ts';
import { demoTokenizer } from './demo-tokenizer.ts';
import { compareHashes, type Hashes, hashesName, hashFolder } from './hashes.ts';
import { taskFiles } from './task-files.ts';

const assets = fileURLToPath(new URL('../../packages/cli/assets/demo', import.meta.url));
const files = nodeFiles();
const committed = async (): Promise<Hashes> =>
  ((await readJson(files, joinPath(assets, hashesName))) as { files: Hashes }).files;

test('the committed files are the ones that HASHES.json names', async () => {
  expect(compareHashes(await committed(), await hashFolder(files, assets))).toEqual([]);
});

test('tokenizer, rows and configuration are made again from nothing, byte by byte', async () => {
  const made = demoTokenizer(baseTraining.seed);
  const memory = memoryFiles();
  await memory.makeDirectory('demo/base');
  await writeJson(memory, 'demo/base/tokenizer.json', made.tokenizer);
  await writeJson(memory, 'demo/base/tokenizer_config.json', made.tokenizerConfig);
  const texts = Object.entries(taskFiles());
  for (const [name, text] of texts) expect(await readText(files, joinPath(assets, name)), name).toBe(text);
  const expected = await committed();
  for (const [path, hash] of Object.entries(await hashFolder(memory, 'demo'))) expect(expected[path], path).toBe(hash);
});

test("the base's config.json is the one that the training program starts from", async () => {
  const config = (await readJson(files, joinPath(assets, 'base/config.json'))) as Record<string, unknown>;
  expect(config).toEqual({ ...baseConfig(demoTokenizer(baseTraining.seed)), torch_dtype: 'bfloat16' });
});

test('the whole folder takes at most 8 MB', async () => {
  const sizes = await Promise.all(Object.keys(await committed()).map((path) => files.size(joinPath(assets, path))));
  expect(sizes.reduce((sum, size) => sum + size, 0)).toBeLessThan(8e6);
});
