/**
 * `node tools/demo/rebuild.ts [--model | --check]`: makes packages/cli/assets/demo from nothing.
 *
 * Without an option it writes the tokenizer, the task's rows and the configuration (seconds) and keeps the model that is
 * there; with --model it trains the base too (a quarter of an hour). --check writes nothing: it trains the base in a
 * temporary folder and compares every hash with HASHES.json.
 */
import { mkdtempSync, rmSync } from 'node:fs';
import { cpus, tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { cpu } from '@lorikeet/cpu';
import { discardDirectory, joinPath, nodeFiles, readJson, writeAtomic, writeJson } from '@lorikeet/files';
import { createTokenizer } from '@lorikeet/tokenizer';
import { baseConfig, baseTraining, trainBase, writeBase } from './base-training.ts';
import { demoTokenizer } from './demo-tokenizer.ts';
import { compareHashes, type Hashes, hashesName, hashFolder, hashNote } from './hashes.ts';
import { taskFiles } from './task-files.ts';
import type { TokenizerFiles } from './tokenizer-files.ts';

const assets = fileURLToPath(new URL('../../packages/cli/assets/demo', import.meta.url));
const files = nodeFiles();

async function trainModel(dir: string, made: TokenizerFiles): Promise<void> {
  const backend = await cpu({ revectorize: 'auto' });
  const tokenizer = createTokenizer({ tokenizerJson: made.tokenizer, tokenizerConfig: made.tokenizerConfig });
  const runDir = mkdtempSync(join(tmpdir(), 'lorikeet-base-'));
  const model = await trainBase(tokenizer, baseConfig(made), {
    ...baseTraining,
    backend,
    files,
    runDir,
    onStep: ({ step, totalSteps, loss, tokensPerSecond, elapsedMs }) => {
      if (step % 50 !== 0 && step !== totalSteps) return;
      const seconds = (elapsedMs / 1000).toFixed(0);
      console.log(
        `step ${step}/${totalSteps}  loss ${loss.toFixed(3)}  ${tokensPerSecond.toFixed(0)} tokens/s  ${seconds} s`,
      );
    },
  });
  await discardDirectory(files, dir);
  await files.makeDirectory(dir);
  await writeBase(files, dir, model, made);
  await backend.close();
  rmSync(runDir, { recursive: true });
}

async function rebuild(dir: string, withModel: boolean): Promise<Hashes> {
  const made = demoTokenizer(baseTraining.seed);
  await files.makeDirectory(joinPath(dir, 'base'));
  if (withModel) await trainModel(joinPath(dir, 'base'), made);
  await writeJson(files, joinPath(dir, 'base/tokenizer.json'), made.tokenizer);
  await writeJson(files, joinPath(dir, 'base/tokenizer_config.json'), made.tokenizerConfig);
  for (const [name, text] of Object.entries(taskFiles())) await writeAtomic(files, joinPath(dir, name), text);
  return hashFolder(files, dir);
}

const option = process.argv[2];
if (option === '--check') {
  const dir = mkdtempSync(join(tmpdir(), 'lorikeet-demo-'));
  const committed = (await readJson(files, joinPath(assets, hashesName))) as { files: Hashes };
  const differences = compareHashes(committed.files, await rebuild(dir, true));
  rmSync(dir, { recursive: true });
  console.log(differences.length === 0 ? 'every file is the same, byte by byte' : differences.join('\n'));
  process.exitCode = differences.length === 0 ? 0 : 1;
} else if (option === undefined || option === '--model') {
  const hashes = await rebuild(assets, option === '--model');
  const cpuModel = cpus()[0]?.model ?? 'unknown';
  const before = (await files.exists(joinPath(assets, hashesName)))
    ? ((await readJson(files, joinPath(assets, hashesName))) as { trainedOn: string })
    : undefined;
  const trainedOn = option === '--model' ? cpuModel : (before?.trainedOn ?? cpuModel);
  await writeJson(files, joinPath(assets, hashesName), { note: hashNote, trainedOn, files: hashes });
  console.log(`wrote ${Object.keys(hashes).length} files and ${hashesName}`);
} else {
  throw new Error(`rebuild: the option must be --model or --check: got ${option}.`);
}
