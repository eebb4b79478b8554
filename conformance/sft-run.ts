/** A fine-tuning that TRL's SFTTrainer ran, run here from the same configuration: rows, packs, steps, adapter. */
import { join } from 'node:path';
import { memoryFiles, nodeFiles, readJson } from '@lorikeet/files';
import { applyLora, parseLoraConfig } from '@lorikeet/lora';
import type { Phi3ForCausalLM } from '@lorikeet/phi3';
import type { Backend } from '@lorikeet/tensor';
import { createTokenizer } from '@lorikeet/tokenizer';
import {
  type Batch,
  type BatchSource,
  createBatches,
  type LossOn,
  loadChatDataset,
  type PackingStrategy,
  type StepEvent,
  shuffleDataset,
  splitDataset,
  type TrainingOptions,
  tokenizeRows,
  train,
} from '@lorikeet/trainer';
import { adapterParameters } from './family-lora.ts';
import { type CaseContext, type Finding, finding, numbersOf, tensorFinding } from './findings.ts';
import { sameNames } from './models.ts';
import type { StoredTensor } from './recording.ts';
import { seededPhi3, startAdapter } from './seeded-phi3.ts';
import { exact, modelLimit } from './tolerances.ts';

/** The tokenizer of reference/sft_run.py. */
const tokenizerPath = join(import.meta.dirname, '../packages/tokenizer/src/recordings/llama-like.json');

/** What reference/sft_run.py says of a run; keys inside are Python's. */
interface SftConfig {
  readonly seed: number;
  readonly model: Readonly<Record<string, unknown>>;
  readonly peft: Readonly<Record<string, unknown>>;
  readonly startB: number;
  readonly rows: readonly object[];
  readonly split: { readonly test_size: number; readonly seed: number } | null;
  readonly lossOn: LossOn | null;
  readonly training: Readonly<Record<string, unknown>>;
  readonly chatTemplate: string;
  readonly steps: number;
}

/** Runs a recorded case and compares tokens, every step and the adapter. */
export async function runSft(context: CaseContext): Promise<Finding[]> {
  const { testCase, backend } = context;
  const config = testCase.attributes as unknown as SftConfig;
  using model = await adaptedModel(config, backend);
  const batches = await makeBatches(config);
  const watched = watch(batches, context);
  const count = Math.min(config.steps, stepsOn[backend.name] ?? config.steps);
  const steps = await trainSteps(model, watched.batches, config, count);
  const findings = [...watched.findings(), ...stepFindings(context, steps)];
  if (count < config.steps) return findings;
  return [...findings, ...(await adapterFindings(context, model))];
}

/**
 * Backends too slow for whole runs take the first steps, which already need every kernel, mask and count; the adapter is
 * compared where the run ends. Plain loops take half a second a step; lavapipe's GPU is this CPU.
 */
const stepsOn: Readonly<Record<string, number>> = { reference: 2, hostile: 1, webgpu: 2 };

async function adaptedModel(config: SftConfig, backend: Backend): Promise<Phi3ForCausalLM> {
  const { training, seed } = config;
  const model = await seededPhi3(config.model, seed, backend);
  applyLora(model, parseLoraConfig(config.peft).config);
  startAdapter(adapterParameters(model), seed, config.startB);
  model.gradientCheckpointing = training.gradient_checkpointing === true;
  model.neftuneNoiseAlpha = (training.neftune_noise_alpha as number | undefined) ?? null;
  return model;
}

/** From rows to micro-batches, in the order of TRL's sequential sampling. */
async function makeBatches(config: SftConfig): Promise<BatchSource> {
  const { training, split, lossOn } = config;
  const files = memoryFiles();
  await files.append('rows.jsonl', Buffer.from(config.rows.map((row) => JSON.stringify(row)).join('\n')));
  const { rows } = await loadChatDataset(files, 'rows.jsonl');
  const kept = split ? splitDataset(rows, { testSize: split.test_size, seed: split.seed }).train : rows;
  const recorded = (await readJson(nodeFiles(), tokenizerPath)) as { tokenizerJson: object };
  const tokenizer = createTokenizer({
    tokenizerJson: recorded.tokenizerJson,
    tokenizerConfig: { eos_token: '<|endoftext|>', pad_token: '<unk>' },
    chatTemplate: config.chatTemplate,
  });
  const packing = training.packing === true;
  const packingStrategy = (training.packing_strategy ?? 'bfd') as PackingStrategy;
  const maxLength = training.max_length as number;
  const cutLater = packing && packingStrategy !== 'bfd';
  const tokenizing = { maxLength: cutLater ? null : maxLength, ...(lossOn ? { lossOn } : {}) };
  const tokenized = tokenizeRows(kept, tokenizer, tokenizing).examples;
  const examples = training.shuffle_dataset === true ? shuffleDataset(tokenized, config.seed) : tokenized;
  return createBatches(examples, {
    batchSize: training.per_device_train_batch_size as number,
    order: 'sequential',
    ...(packing ? { packing, packingStrategy, maxLength, packingRows: 1000 } : {}),
  });
}

const camelCase = (key: string): string => key.replace(/_([a-z0-9])/g, (_, letter: string) => letter.toUpperCase());

/** Options of schedules where ours have other names. */
const scheduleNames: Readonly<Record<string, string>> = {
  min_lr_rate: 'minFactor', min_lr_ratio: 'minFactor', num_decay_steps: 'decaySteps', timescale: 'timescaleSteps', lr_end: 'endFactor',
}; // biome-ignore format: a table

const renamed = (given: object, names: Readonly<Record<string, string>> = {}): object =>
  Object.fromEntries(Object.entries(given).map(([key, value]) => [names[key] ?? camelCase(key), value]));

/** SFTConfig's arguments under our names; what the loop does not know is for the data and the model. */
const trainingOptions = ({ training, seed }: SftConfig): TrainingOptions => ({
  ...renamed(training),
  lrSchedulerOptions: renamed((training.lr_scheduler_kwargs ?? {}) as object, scheduleNames),
  seed,
});

async function trainSteps(
  model: Phi3ForCausalLM,
  batches: BatchSource,
  config: SftConfig,
  count: number,
): Promise<readonly StepEvent[]> {
  const labelSmoothing = (config.training.label_smoothing_factor as number | undefined) ?? 0;
  const steps: StepEvent[] = [];
  const loss = (batch: Batch, o: { readonly normalizer: number }) => model.loss(batch, { ...o, labelSmoothing });
  const options = { ...trainingOptions(config), files: memoryFiles(), outputDir: 'run', saveStrategy: 'no' } as const;
  for await (const event of train(model, loss, batches, options)) {
    if (event.type === 'step') steps.push(event);
    if (steps.length === count) break;
  }
  return steps;
}

/** Keeps the tokens and labels of the first batches, as far as they were recorded. */
function watch(source: BatchSource, { recording, testCase }: CaseContext) {
  const recorded = (name: 'ids' | 'labels') => recording.tensor(testCase.outputs[name]!);
  const wanted = numbersOf(recorded('ids')).length;
  const seen: { ids: number[]; labels: number[] } = { ids: [], labels: [] };
  const next = (): Batch => {
    const batch = source.next();
    if (seen.ids.length < wanted) {
      seen.ids.push(...batch.ids);
      seen.labels.push(...batch.labels);
    }
    return batch;
  };
  return {
    batches: { ...source, next },
    findings: (): Finding[] => [
      finding('ids of the first batches', seen.ids, firstOf(recorded('ids'), seen.ids.length), exact),
      finding('labels of the first batches', seen.labels, firstOf(recorded('labels'), seen.ids.length), exact),
    ],
  };
}

function stepFindings({ recording, testCase, backend }: CaseContext, steps: readonly StepEvent[]): Finding[] {
  const { name } = backend;
  const quantities = {
    loss: modelLimit('runLoss', name),
    gradNorm: modelLimit('gradNorm', name),
    learningRate: modelLimit('learningRate', name),
    trainedTokens: exact,
    totalTokens: exact,
  } as const;
  return Object.entries(quantities).map(([quantity, limit]) =>
    finding(
      `${quantity} by step`,
      steps.map((step) => step[quantity as keyof typeof quantities]),
      firstOf(recording.tensor(testCase.outputs[quantity]!), steps.length),
      limit,
    ),
  );
}

/** The first numbers of a recorded list; f32 and i32 both take four bytes. What --sensitivity moved may lie behind them. */
function firstOf(stored: StoredTensor, count: number): StoredTensor {
  if (stored.bytes.length === count * 4) return stored;
  const { dtype, bytes } = stored;
  return { dtype, shape: [count], bytes: bytes.subarray(0, count * 4) };
}

/** The adapter as training left it. */
async function adapterFindings(
  { recording, testCase, backend }: CaseContext,
  model: Phi3ForCausalLM,
): Promise<Finding[]> {
  const parameters = adapterParameters(model);
  const names = Object.keys(testCase.outputs).filter((name) => name.startsWith('parameter/'));
  sameNames(
    parameters.map(({ path }) => `parameter/${path}`),
    names,
  );
  const limit = modelLimit('trainedParameter', backend.name);
  return Promise.all(
    parameters.map(({ path, tensor }) => {
      const name = `parameter/${path}`;
      return tensorFinding(name, tensor, recording.tensor(testCase.outputs[name]!), limit);
    }),
  );
}
