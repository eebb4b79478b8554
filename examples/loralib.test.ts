import { cpu } from '@lorikeet/cpu';
import { memoryFiles } from '@lorikeet/files';
import { memory } from '@lorikeet/tensor';
import { expect, it } from 'vitest';
import { main } from './loralib.ts';

it('examples/loralib.ts: the base fails the new task, the adapter loaded after it does not', async () => {
  const backend = await cpu();
  const files = memoryFiles();
  await files.makeDirectory('out');
  const got = await main(files, backend, 'out', () => undefined);
  expect(got.baseAccuracy[0]).toBeGreaterThan(0.95);
  expect(got.baseAccuracy[1]).toBeLessThan(0.2);
  expect(got.tunedAccuracy).toBeGreaterThan(0.9);
  expect(got.mergedAccuracy).toBe(got.tunedAccuracy);
  const names = ['qkv_proj.lora_A', 'qkv_proj.lora_B', 'lm_head.lora_A', 'lm_head.lora_B'];
  expect([...got.adapter].sort()).toEqual([...names].sort());
  expect([...got.first.missingKeys].sort()).toEqual([...names].sort());
  expect(got.first.unexpectedKeys).toEqual([]);
  expect(got.second.unexpectedKeys).toEqual([]);
  expect([...got.second.missingKeys].sort()).toEqual(
    ['embed_tokens.weight', 'lm_head.bias', 'lm_head.weight', 'qkv_proj.bias', 'qkv_proj.weight'].sort(),
  );
  expect([...got.withBiases].sort()).toEqual([...names, 'lm_head.bias', 'qkv_proj.bias'].sort());
  expect((await files.read('out/lora.safetensors')).length).toBeLessThan(
    (await files.read('out/pretrained.safetensors')).length,
  );
  expect(memory(backend).liveTensors).toBe(0);
  await backend.close();
});
