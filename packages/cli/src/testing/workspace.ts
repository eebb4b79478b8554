/** A temporary folder with a tiny model and data: what end-to-end tests start from. */
import { createHash } from 'node:crypto';
import { mkdtempSync, readdirSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { nodeFiles } from '@lorikeet/files';
import { chatRows, writeTinyModel } from './tiny-model.ts';

export interface TestWorkspace extends Disposable {
  readonly dir: string;
  /** A path in the folder. */
  path(...parts: string[]): string;
  write(name: string, text: string): string;
  /** Every file below a folder of it, by relative path. */
  filesBelow(name: string): string[];
  sha256(name: string): string;
  /** Bytes of a file in the folder. */
  size(...parts: string[]): number;
}

export const mark = 'canary-7f3a9c';

/** Writes `base/`, `train.jsonl` (every row holds `mark`), `heldout.jsonl` and `run.yaml`. */
export async function makeWorkspace(config = ''): Promise<TestWorkspace> {
  const dir = mkdtempSync(join(tmpdir(), 'lorikeet 한글 '));
  const path = (...parts: string[]): string => join(dir, ...parts);
  const write = (name: string, text: string): string => {
    writeFileSync(path(name), text);
    return path(name);
  };
  await writeTinyModel(nodeFiles(), path('base'));
  write('train.jsonl', chatRows(24, mark));
  write('heldout.jsonl', chatRows(7));
  write('run.yaml', `${runConfig}${config}`);
  const below = (name: string): string[] =>
    readdirSync(path(name), { recursive: true, encoding: 'utf8' }).filter((file) =>
      statSync(path(name, file)).isFile(),
    );
  return {
    dir,
    path,
    write,
    filesBelow: below,
    size: (...parts) => statSync(path(...parts)).size,
    sha256: (name) =>
      createHash('sha256')
        .update(readFileSync(path(name)))
        .digest('hex'),
    [Symbol.dispose]: () => rmSync(dir, { recursive: true, force: true }),
  };
}

const runConfig = `model: {path: base}
data: {train: train.jsonl, eval: heldout.jsonl, maxLength: 128}
peft: {r: 4, loraAlpha: 8, loraDropout: 0.1}
training:
  outputDir: out
  learningRate: 5.0e-3
  maxSteps: 16
  perDeviceTrainBatchSize: 2
  gradientAccumulationSteps: 2
  evalStrategy: "no"
  loggingSteps: 1
  saveSteps: 5
`;
