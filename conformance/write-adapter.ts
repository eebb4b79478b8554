/**
 * Writes what reference/lora_written.py loads in Python: adapters of ours on a base model, and their logits.
 *
 *   node conformance/write-adapter.ts BASE DIR
 *
 * DIR/configs.json says `seed`, `sequences` (lists of ids) and `configs` (label -> LoraConfig).
 */
import { join } from 'node:path';
import { nodeFiles, readJson } from '@lorikeet/files';
import { type LoraConfig, saveAdapter } from '@lorikeet/lora';
import { loadPhi3 } from '@lorikeet/phi3';
import { type WriteEntry, writeSafetensors } from '@lorikeet/safetensors';
import { noGrad, referenceBackend } from '@lorikeet/tensor';
import { makeAdapter } from './written-adapters.ts';

interface Orders {
  readonly seed: number;
  readonly sequences: readonly (readonly number[])[];
  readonly configs: Readonly<Record<string, LoraConfig>>;
}

async function main(base: string, directory: string): Promise<void> {
  const files = nodeFiles();
  const { seed, sequences, configs } = (await readJson(files, join(directory, 'configs.json'))) as Orders;
  const batch = { ids: Int32Array.from(sequences.flat()), lengths: sequences.map((s) => s.length) };
  const entries: WriteEntry[] = [];
  for (const [name, config] of Object.entries(configs)) {
    using model = await loadPhi3(files, base, { backend: referenceBackend() });
    await makeAdapter(model, config, seed);
    using logits = noGrad(() => model.logits(batch));
    entries.push({ name, dtype: logits.dtype, shape: logits.shape, bytes: await logits.bytes() });
    await saveAdapter(files, join(directory, name), model);
  }
  await writeSafetensors(files, join(directory, 'logits.safetensors'), entries);
}

const [base, directory] = process.argv.slice(2);
if (base && directory) await main(base, directory);
else {
  console.error('write-adapter: needs a base and a folder. Run: node conformance/write-adapter.ts BASE DIR');
  process.exitCode = 2;
}
