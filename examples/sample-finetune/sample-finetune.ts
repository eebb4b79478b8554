/**
 * Microsoft's sample_finetune.py for Phi-3 as a program: the same dictionaries, the same steps. docs/from-python.md shows both side by side.
 *
 *   node examples/sample-finetune/sample-finetune.ts MODEL_DIR TRAIN.jsonl TEST.jsonl
 */
import { cpu } from '@lorikeet/cpu';
import { type FileSystem, joinPath, nodeFiles, readJson, writeJson } from '@lorikeet/files';
import { applyLora, saveAdapter } from '@lorikeet/lora';
import { loadPhi3 } from '@lorikeet/phi3';
import { type Backend, randomKey } from '@lorikeet/tensor';
import { createTokenizer } from '@lorikeet/tokenizer';
import {
  type Batch,
  createBatches,
  evaluate,
  evaluationBatches,
  loadChatDataset,
  type Row,
  tokenizeRows,
  train,
} from '@lorikeet/trainer';
import { resolveConfig } from 'lorikeet';
import { modelKwargs, peftConfig, trainingConfig } from './dictionaries.ts';

export interface SampleOptions {
  readonly files: FileSystem;
  readonly backend: Backend;
  readonly modelPath: string;
  readonly trainPath: string;
  readonly testPath: string;
  readonly outputDir?: string;
  readonly print?: (line: string) => void;
}

/** The dictionaries, checked; `notes` says of each key that means something else here what is done instead. */
export function sampleConfig({ modelPath, trainPath, testPath, outputDir }: Omit<SampleOptions, 'files' | 'backend'>) {
  const sections = {
    modelKwargs: { path: modelPath, ...modelKwargs },
    data: {
      train: trainPath,
      eval: testPath,
      maxSeqLength: 2048,
      datasetTextField: 'text',
      packing: true,
      lossOn: 'all',
    },
    trainingConfig: { ...trainingConfig, ...(outputDir === undefined ? {} : { outputDir }) },
    peftConfig,
  };
  return resolveConfig(JSON.stringify(sections), 'sample-finetune.ts');
}

/** As the script does: an empty system message where there is none. */
const addSystem = (row: Row): Row =>
  row.kind === 'chat' && row.messages[0]?.role !== 'system'
    ? { ...row, messages: [{ role: 'system', content: '' }, ...row.messages] }
    : row;

export async function sampleFinetune(options: SampleOptions) {
  const { files, backend, print = console.log } = options;
  const { config, notes } = sampleConfig(options);
  const { model: base, data, training, peft } = config;
  for (const note of notes) print(note);

  // Model loading
  using model = await loadPhi3(files, base.path, { backend });
  model.gradientCheckpointing = training.gradientCheckpointing === true;
  const tokenizer = createTokenizer({
    tokenizerJson: await readJson(files, joinPath(base.path, 'tokenizer.json')),
    tokenizerConfig: await readJson(files, joinPath(base.path, 'tokenizer_config.json')),
  });

  // Data processing: the chat template, and an empty system message where there is none
  const examplesOf = async (path: string) => {
    const { rows } = await loadChatDataset(files, path);
    return tokenizeRows(rows.map(addSystem), tokenizer, { lossOn: data.lossOn ?? 'all', maxLength: data.maxLength })
      .examples;
  };
  const [trainSet, testSet] = [await examplesOf(data.train), await examplesOf(data.eval!)];

  // Training
  applyLora(model, peft, { key: randomKey(training.seed, 'lora') });
  const batches = createBatches(trainSet, {
    batchSize: training.perDeviceTrainBatchSize,
    packing: data.packing,
    maxLength: data.maxLength,
    seed: training.seed,
  });
  const { outputDir } = training;
  const events = train(model, (batch: Batch, o) => model.loss(batch, o), batches, { ...training, files, outputDir });
  let trainLoss = Number.NaN;
  for await (const event of events) {
    if (event.type === 'step' && event.logged) print(`step ${event.step}  loss ${event.loss.toFixed(4)}`);
    if (event.type === 'end') trainLoss = event.trainLoss;
  }

  // Evaluation
  const { evalLoss, perplexity, tokens } = await evaluate(
    model,
    evaluationBatches(testSet, training.perDeviceEvalBatchSize),
    {
      hidden: (batch: Batch) => model.forward(batch),
      head: (states) => model.lm_head.forward(states),
    },
  );
  const metrics = { trainLoss, evalLoss, perplexity, evalSamples: testSet.length, evalTokens: tokens };
  await writeJson(files, joinPath(outputDir, 'all_results.json'), metrics);
  print(`evaluation loss ${evalLoss.toFixed(4)}, perplexity ${perplexity.toFixed(2)}`);

  // Save the adapter, as PEFT reads it
  await saveAdapter(files, joinPath(outputDir, 'adapter'), model, { overwrite: true });
  return metrics;
}

if (import.meta.main) {
  const [modelPath, trainPath, testPath] = process.argv.slice(2);
  if (!modelPath || !trainPath || !testPath)
    throw new Error('usage: sample-finetune.ts MODEL_DIR TRAIN.jsonl TEST.jsonl');
  const backend = await cpu();
  await sampleFinetune({ files: nodeFiles(), backend, modelPath, trainPath, testPath });
  await backend.close();
}
