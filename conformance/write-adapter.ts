/**
 * Writes what `reference/check_adapter.py` loads in Python: a base model, an adapter of ours, the merged model and logits.
 *
 *   node conformance/write-adapter.ts DIR
 */
import { cp } from 'node:fs/promises';
import { join } from 'node:path';
import { nodeFiles } from '@lorikeet/files';
import { applyLora, loraStateDict, mergeAndUnload, saveAdapter } from '@lorikeet/lora';
import { copyInto } from '@lorikeet/nn';
import { loadPhi3, savePhi3 } from '@lorikeet/phi3';
import { writeSafetensors } from '@lorikeet/safetensors';
import { noGrad, normal, randomKey, referenceBackend, tensor } from '@lorikeet/tensor';

async function main(directory: string): Promise<void> {
  const files = nodeFiles();
  const backend = referenceBackend();
  await cp(join(import.meta.dirname, 'recordings', 'lora', 'base'), join(directory, 'base'), { recursive: true });
  using model = await loadPhi3(files, join(directory, 'base'), { backend });
  const config = { r: 5, loraAlpha: 7, loraDropout: 0.1, targetModules: 'all-linear', useRslora: true } as const;
  applyLora(model, config, { key: randomKey(3) });
  model.eval();
  // B begins as zero: give it values, so that the adapter does something.
  const key = randomKey(4);
  for (const [path, t] of loraStateDict(model))
    if (path.includes('lora_B')) copyInto(t, normal(t.shape, { backend, key: key.fold(path), std: 0.2 }));
  await saveAdapter(files, join(directory, 'adapter'), model);
  const ids = Int32Array.from({ length: 11 }, (_, i) => (i * 17 + 3) % model.config.vocabSize);
  const results = {
    ids: tensor(ids, { backend, dtype: 'i32' }),
    logits: noGrad(() => model.logits({ ids, lengths: [ids.length] })),
  };
  const entries = Object.entries(results).map(([name, t]) => {
    return { name, dtype: t.dtype, shape: t.shape, bytes: () => t.bytes() };
  });
  await writeSafetensors(files, join(directory, 'logits.safetensors'), entries);
  await mergeAndUnload(model);
  await savePhi3(files, join(directory, 'merged'), model);
  console.log(`wrote ${directory}: now run conformance/reference/check_adapter.py ${directory}`);
}

const [directory] = process.argv.slice(2);
if (directory) await main(directory);
else {
  console.error('write-adapter: needs a folder to write to: got none. Run: node conformance/write-adapter.ts DIR');
  process.exitCode = 2;
}
