import { baseTraining } from './base-training.ts';
import { makeTask, taskRow } from './task.ts';

/** Rows of the two files. Enough training rows that few are seen more than twice in the demo's 300 steps. */
export const trainRows = 2400;
export const heldOutRows = 240;

/** The configuration of the demo's run, as a user would have written it. */
const config = `# Requests in plain words to calls: from 0 % to over 90 % exactly right, in less than two minutes on two cores.
model:
  path: base

data:
  train: train.jsonl
  eval: heldout.jsonl
  lossOn: assistant
  maxLength: 128

training:
  outputDir: ../../../../runs/demo
  learningRate: 2.0e-3
  lrSchedulerType: linear
  warmupSteps: 20
  maxSteps: 300
  perDeviceTrainBatchSize: 16
  perDeviceEvalBatchSize: 32
  evalStrategy: steps
  evalSteps: 150
  saveStrategy: steps
  saveSteps: 150
  loggingSteps: 5
  seed: 42

peft:
  r: 16
  loraAlpha: 32
  loraDropout: 0
  targetModules: all-linear
`;

/** Texts of the demo's folder that need no training, by file name. */
export function taskFiles(): Readonly<Record<string, string>> {
  const { train, heldOut } = makeTask(baseTraining.seed, trainRows, heldOutRows);
  const lines = (rows: readonly string[]): string => `${rows.join('\n')}\n`;
  return {
    'train.jsonl': lines(train.map(taskRow)),
    'heldout.jsonl': lines(heldOut.map(taskRow)),
    'config.yaml': config,
  };
}
