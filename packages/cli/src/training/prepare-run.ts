/** From a configuration to everything that a run needs but the model: what `train` and `plan` do first. */
import type { FileSystem } from '@lorikeet/files';
import { readQuantizationConfig } from '@lorikeet/lora';
import { type Phi3Config, readPhi3Config } from '@lorikeet/phi3';
import type { Backend } from '@lorikeet/tensor';
import type { Tokenizer } from '@lorikeet/tokenizer';
import {
  type BatchSource,
  createBatches,
  estimateRun,
  findCheckpoint,
  hasRoom,
  openCheckpointState,
  type ResolvedOptions,
  type Room,
  type RunEstimate,
  type RunFacts,
  resolveOptions,
  type TrainingOptions,
} from '@lorikeet/trainer';
import type { ResolvedConfig } from '../config/schema.ts';
import { userError } from '../errors.ts';
import { loadTokenizer } from '../model/load-tokenizer.ts';
import { requireModelFolder } from '../model/model-folder.ts';
import type { Output } from '../output.ts';
import type { Checkpointing, DryRunInput } from './dry-run.ts';
import { refuseObstacle, type SharedTokens, sharedTokens } from './prefix-sharing.ts';
import { type PreparedData, prepareData } from './prepare-data.ts';
import { dryRunInput, type FactsInput, roomFor, runFacts } from './run-facts.ts';

export interface PrepareEnvironment {
  readonly files: FileSystem;
  readonly output: Output;
  readonly backend: Backend;
  /** 'auto', or a checkpoint folder. */
  readonly resume?: string | undefined;
}

export interface PreparedRun {
  /** With what `auto` stands for in place. */
  readonly config: ResolvedConfig;
  readonly options: ResolvedOptions;
  readonly modelConfig: Phi3Config;
  readonly tokenizer: Tokenizer;
  readonly data: PreparedData;
  readonly batches: BatchSource;
  readonly lora: FactsInput['lora'];
  readonly input: FactsInput;
  readonly dry: DryRunInput;
  readonly checkpointing: Checkpointing;
  readonly sharing: SharedTokens;
  readonly facts: RunFacts;
  readonly estimate: RunEstimate;
  readonly room: Room;
}

/** Reads the data, counts the batches and runs a step dry. @throws what reading and checking them throws */
export async function prepareRun(config: ResolvedConfig, environment: PrepareEnvironment): Promise<PreparedRun> {
  const { files, output, backend, resume } = environment;
  const { training, data: dataConfig } = config;
  const options = resolveOptions(trainingOptions(config, resume));
  await requireModelFolder(files, config.model.path, 'model.path');
  if (config.peft.initLoraWeights === 'loftq') await checkLoftq(config, environment);
  const tokenizer = await loadTokenizer(files, config.model.path, config.model);
  const modelConfig = await readPhi3Config(files, config.model.path);
  refuseObstacle(config, modelConfig);
  const data = await prepareData(files, config, tokenizer, output);
  const batches = createBatches(data.examples, {
    batchSize: training.perDeviceTrainBatchSize,
    packing: dataConfig.packing,
    packingStrategy: dataConfig.packingStrategy,
    ...(dataConfig.packingRows === undefined ? {} : { packingRows: dataConfig.packingRows }),
    maxLength: dataConfig.maxLength,
    order: dataConfig.order,
    seed: training.seed,
  });
  const lora = loraConfig(config);
  const { evalExamples } = data;
  const input: FactsInput = { files, backend, config, options, modelConfig, lora, batches, evalExamples };
  const dry = await dryRunInput(input);
  const room = await roomFor(files, training.outputDir, backend);
  const recorded = await recordedCheckpointing(files, config, resume);
  const chosen = await chooseCheckpointing(recorded ? [recorded] : candidates(config), { input, dry, room });
  if (chosen.checkpointing.activationStorage === 'bf16' && !chosen.checkpointing.gradientCheckpointing)
    output.note('training.activationStorage: bf16 has no effect without training.gradientCheckpointing');
  const resolved = { ...config, training: { ...training, ...chosen.checkpointing } };
  const sharing = sharedTokens(config, modelConfig, batches);
  return {
    config: resolved,
    options,
    modelConfig,
    tokenizer,
    data,
    batches,
    lora,
    input,
    dry,
    room,
    sharing,
    ...chosen,
  };
}

/** LoftQ makes up for what quantization lost: it needs the weights from before, and their width. */
async function checkLoftq(
  { model, peft, quantization: { loadIn4bit, loadIn8bit } }: ResolvedConfig,
  { files, output }: PrepareEnvironment,
): Promise<void> {
  if (await readQuantizationConfig(files, model.path))
    throw userError(
      'peft.initLoraWeights: loftq must have the weights from before quantization: the base is quantized.',
      {
        where: model.path,
        fix: 'Give model.path the folder of the 16-bit model, and set quantization.loadIn4bit: true.',
      },
    );
  const bits = peft.loftqConfig?.loftqBits ?? 4;
  const width = loadIn4bit ? 4 : loadIn8bit ? 8 : bits;
  if (bits !== width)
    output.note(
      `peft.loftqConfig.loftqBits: ${bits}, and the base is in ${width} bits: the adapter makes up for another loss`,
    );
}

function loraConfig({ peft, model }: ResolvedConfig): FactsInput['lora'] {
  return model.revision === undefined ? peft : { ...peft, revision: model.revision };
}

function trainingOptions({ training }: ResolvedConfig, resume: string | undefined): TrainingOptions {
  // Where nothing is said, held-out rows are measured after each epoch: run() turns it off when there are none.
  const { evalStrategy = 'epoch', ...others } = training;
  return { ...others, evalStrategy, resumeFromCheckpoint: resume ?? null } as TrainingOptions;
}

/** What the options allow, from the fastest to the most frugal. */
export function candidates({ training }: Pick<ResolvedConfig, 'training'>): readonly Checkpointing[] {
  const { gradientCheckpointing: recompute, activationStorage: storage } = training;
  return [false, true].flatMap((gradientCheckpointing) => {
    if (recompute !== 'auto' && recompute !== gradientCheckpointing) return [];
    const kept = storage !== 'auto' ? [storage] : gradientCheckpointing ? (['f32', 'bf16'] as const) : ['f32' as const];
    return kept.map((activationStorage) => ({ gradientCheckpointing, activationStorage }));
  });
}

/** `auto` leaves this part of the memory to what else the machine does. */
const autoShare = 0.9;

/** The first candidate that fits, else the last. */
export async function chooseCheckpointing(
  choices: readonly Checkpointing[],
  { input, dry, room }: { readonly input: FactsInput; readonly dry: DryRunInput; readonly room: Room },
): Promise<Pick<PreparedRun, 'checkpointing' | 'facts' | 'estimate'>> {
  const { memoryBytes } = room;
  const most = memoryBytes === undefined ? room : { ...room, memoryBytes: memoryBytes * autoShare };
  for (const [i, checkpointing] of choices.entries()) {
    const facts = await runFacts(input, dry, checkpointing);
    const estimate = estimateRun(facts);
    if (i === choices.length - 1 || hasRoom(estimate, { ...most, diskBytes: undefined }))
      return { checkpointing, facts, estimate };
  }
  throw new RangeError('plan: gradientCheckpointing must leave a choice: it leaves none.');
}

/** What a run that is resumed was begun with: `auto` must mean the same again, whatever is free now. */
async function recordedCheckpointing(
  files: FileSystem,
  { training }: ResolvedConfig,
  resume: string | undefined,
): Promise<Checkpointing | undefined> {
  const { outputDir, gradientCheckpointing, activationStorage } = training;
  if (resume === undefined || (gradientCheckpointing !== 'auto' && activationStorage !== 'auto')) return undefined;
  const found = await (resume === 'auto'
    ? findCheckpoint(files, outputDir, () => undefined)
    : openCheckpointState(files, resume));
  if (!found) return undefined;
  const identity = found.state.identity as Partial<Checkpointing>;
  return {
    gradientCheckpointing: identity.gradientCheckpointing === true,
    activationStorage: identity.activationStorage === 'bf16' ? 'bf16' : 'f32',
  };
}
