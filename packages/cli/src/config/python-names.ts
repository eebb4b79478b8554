/** Other spellings: Python's sections and keys, old names, and what is done with options that mean something else here. */
import type { SectionName } from './schema.ts';

/** `per_device_train_batch_size` and `per-device-...` -> `perDeviceTrainBatchSize`; camelCase stays. */
export const camelCase = (key: string): string =>
  key.replace(/(?<=.)[_-]+([a-zA-Z0-9])/g, (_, letter: string) => letter.toUpperCase());

/** Sections under their other names. */
export const sectionAliases: ReadonlyMap<string, SectionName> = new Map([
  ['model', 'model'], ['modelKwargs', 'model'], ['modelConfig', 'model'],
  ['quantization', 'quantization'], ['quantizationConfig', 'quantization'], ['bnbConfig', 'quantization'],
  ['bitsAndBytesConfig', 'quantization'], ['bitsandbytes', 'quantization'],
  ['data', 'data'], ['dataset', 'data'], ['dataConfig', 'data'],
  ['training', 'training'], ['trainingConfig', 'training'], ['trainingArguments', 'training'],
  ['peft', 'peft'], ['peftConfig', 'peft'], ['lora', 'peft'], ['loraConfig', 'peft'],
]); // biome-ignore format: a table

/** Where an option goes, and what to say about it. */
export interface Placed {
  readonly section: SectionName;
  readonly key: string;
  readonly value: unknown;
  readonly note?: string;
  /** Only where nothing else says it: `do_eval: false` beside an evaluation strategy. */
  readonly weak?: boolean;
}

/** What is done with a key: placed, opened into keys of a section, taken note of, refused, or (undefined) unknown. */
export type Handling =
  | Placed
  | { readonly into: SectionName; readonly entries: Readonly<Record<string, unknown>> }
  | { readonly note: string }
  | { readonly refused: string }
  | { readonly quiet: true };

type Handler = (value: unknown) => Handling;

const rename =
  (section: SectionName, key: string, old?: string): Handler =>
  (value) => ({
    section,
    key,
    value,
    ...(old ? { note: `${old} is the old name of ${section}.${key}; it is used as that` } : {}),
  });
const noted =
  (note: string): Handler =>
  () => ({ note });
/** Values that ask for nothing pass without a word. */
const unlessOff =
  (handler: Handler): Handler =>
  (value) =>
    value === null || value === false || value === 'no' || value === 'none' || value === '' || value === 0
      ? { quiet: true }
      : handler(value);
const unsupported = (what: string): Handler => unlessOff(() => ({ refused: `${what} is not supported` }));
const noEffect = (why: string): Handler =>
  unlessOff((value) => ({ note: `${JSON.stringify(value)} has no effect: ${why}` }));

const halfPrecision = noted(
  'weights stay as they are stored (bf16 stays bf16) and arithmetic is f32, with or without it',
);
const dtypes = noted('weights keep the dtype of the file (bf16 stays bf16), arithmetic is f32');

/** Options of BitsAndBytesConfig that from_pretrained takes directly, too. */
const quantizationKeys = [
  'loadIn4bit', 'loadIn8bit', 'bnb4bitQuantType', 'bnb4bitUseDoubleQuant', 'llmInt8Threshold', 'llmInt8SkipModules',
]; // biome-ignore format: a list

const quantizationHandlers: Record<string, Handler> = {
  quantMethod: (value) =>
    value === 'bitsandbytes' ? { quiet: true } : { refused: 'another quantization than bitsandbytes' },
  bnb4bitComputeDtype: noted(
    'arithmetic is f32, whatever the weights are stored in; computeDtype: int8 is the other choice',
  ),
  bnb4bitQuantStorage: noted('no effect: packed weights are bytes'),
  llmInt8EnableFp32CpuOffload: noted('no effect: one device holds all layers'),
  llmInt8HasFp16Weight: unsupported('training the weights of an 8-bit base'),
};

const modelHandlers: Record<string, Handler> = {
  nameOrPath: rename('model', 'path'),
  modelNameOrPath: rename('model', 'path'),
  pretrainedModelNameOrPath: rename('model', 'path'),
  checkpointPath: rename('model', 'path'),
  useCache: noted('no effect in training; generation always uses the key-value cache'),
  trustRemoteCode: noted('no effect: code in a model folder is never run'),
  attnImplementation: noted('no effect: there is one attention, exact, that never makes the full score matrix'),
  useFlashAttention2: noted('no effect: there is one attention, exact, that never makes the full score matrix'),
  torchDtype: dtypes,
  dtype: dtypes,
  deviceMap: noted('no effect: one device runs all layers; choose it with --device'),
  lowCpuMemUsage: noted('no effect: weights are always read tensor by tensor'),
  quantizationConfig: (value) =>
    value === null
      ? { quiet: true }
      : typeof value === 'object' && !Array.isArray(value)
        ? { into: 'quantization', entries: value as Record<string, unknown> }
        : { refused: 'a quantization_config that is no map' },
  ...Object.fromEntries(quantizationKeys.map((key) => [key, rename('quantization', key)])),
  padToken: noted('no effect: batches have no padding'),
  paddingSide: noted('no effect: batches have no padding'),
  modelMaxLength: rename('data', 'maxLength'),
};

const dataHandlers: Record<string, Handler> = {
  path: rename('data', 'train'),
  trainFile: rename('data', 'train'),
  trainPath: rename('data', 'train'),
  datasetPath: rename('data', 'train'),
  evalFile: rename('data', 'eval'),
  test: rename('data', 'eval'),
  validation: rename('data', 'eval'),
  validationFile: rename('data', 'eval'),
  maxSeqLength: rename('data', 'maxLength', 'max_seq_length'),
  datasetTextField: (value) =>
    value === 'text' || value === null ? { quiet: true } : { refused: 'a text field other than "text"' },
  assistantOnlyLoss: (value) =>
    value === null
      ? { quiet: true }
      : { section: 'data', key: 'lossOn', value: value === true ? 'assistant' : 'all', weak: value !== true },
  completionOnlyLoss: (value) =>
    value === null
      ? { quiet: true }
      : { section: 'data', key: 'lossOn', value: value === true ? 'completion' : 'all', weak: value !== true },
  datasetNumProc: noEffect('tokenizing is fast enough in one process'),
  numProc: noEffect('tokenizing is fast enough in one process'),
  datasetKwargs: noEffect('rows are prepared in one way'),
  shuffleDataset: (value) => ({ section: 'data', key: 'order', value: value === false ? 'sequential' : 'random' }),
  removeColumns: noEffect('columns that are not used are passed over'),
};

/** transformers' options about things that are not here at all: hardware, services, processes. */
const withoutEffect: Readonly<Record<string, readonly string[]>> = {
  'one process trains on one device': ['ddpFindUnusedParameters', 'ddpBackend', 'ddpTimeout', 'deepspeed', 'fsdp', 'fsdpConfig', 'localRank', 'parallelismConfig'],
  'rows are read in the process itself': ['dataloaderNumWorkers', 'dataloaderPinMemory', 'dataloaderPersistentWorkers', 'dataloaderPrefetchFactor'],
  'nothing is sent anywhere; log.jsonl holds every number': ['runName', 'loggingDir', 'project', 'trackioSpaceId', 'pushToHub', 'hubModelId', 'hubStrategy', 'hubToken', 'hubPrivateRepo'],
  'arithmetic is f32': ['tf32', 'bf16FullEval', 'fp16FullEval', 'fp16OptLevel', 'halfPrecisionBackend'],
  'kernels are chosen by themselves': ['torchCompile', 'torchCompileBackend', 'torchCompileMode', 'useLigerKernel', 'jitModeEval', 'useCpu', 'noCuda', 'torchEmptyCacheSteps'],
  'all weights are written as safetensors': ['saveSafetensors'],
  'columns that are not used are passed over': ['removeUnusedColumns', 'labelNames'],
  'the log has one form; --verbose shows more': ['logLevel', 'logLevelReplica', 'logOnEachNode', 'disableTqdm', 'loggingNanInfFilter'],
  'the lowest evaluation loss is the best': ['metricForBestModel', 'greaterIsBetter'],
  'every run is deterministic': ['fullDeterminism'],
  'speed and tokens are always counted': ['includeTokensPerSecond', 'includeNumInputTokensSeen', 'skipMemoryMetrics'],
  'the command says what is done': ['doTrain', 'doPredict'],
  'batches have no padding': ['padToMultipleOf', 'groupByLength', 'lengthColumnName', 'padToken', 'paddingFree'],
  'evaluation follows training': ['predictionLossOnly', 'evalAccumulationSteps', 'evalOnStart', 'batchEvalMetrics', 'evalPacking', 'evalDelay'],
}; // biome-ignore format: a table

/** Older names of transformers for AdamW. */
const formerAdamW = new Set(['adamw_hf', 'adamw']);

function schedulerOptions(value: unknown): Handling {
  if (value === null) return { quiet: true };
  if (typeof value !== 'object') return { refused: 'a schedule option that is no map' };
  const known: Record<string, string> = {
    minLrRate: 'minFactor',
    numDecaySteps: 'decaySteps',
    warmupLrRate: 'warmupFactor',
    minLrRatio: 'minFactor',
    timescale: 'timescaleSteps',
  };
  const options = Object.fromEntries(
    Object.entries(value).map(([key, v]) => [known[camelCase(key)] ?? camelCase(key), v]),
  );
  return { section: 'training', key: 'lrSchedulerOptions', value: options };
}

const trainingHandlers: Record<string, Handler> = {
  lr: rename('training', 'learningRate'),
  epochs: rename('training', 'numTrainEpochs'),
  numEpochs: rename('training', 'numTrainEpochs'),
  batchSize: rename('training', 'perDeviceTrainBatchSize'),
  perGpuTrainBatchSize: rename('training', 'perDeviceTrainBatchSize', 'per_gpu_train_batch_size'),
  perGpuEvalBatchSize: rename('training', 'perDeviceEvalBatchSize', 'per_gpu_eval_batch_size'),
  evaluationStrategy: rename('training', 'evalStrategy', 'evaluation_strategy'),
  warmupRatio: (value) => ({
    section: 'training',
    key: 'warmupSteps',
    value,
    note: 'warmup_ratio is the old name; training.warmupSteps below 1 is a part of all steps, and it is used as that',
  }),
  doEval: (value) =>
    value === true
      ? { quiet: true }
      : {
          section: 'training',
          key: 'evalStrategy',
          value: 'no',
          weak: true,
          note: 'no evaluation during training; lorikeet eval measures afterwards',
        },
  loggingStrategy: (value) =>
    value === 'steps' || value === null
      ? { quiet: true }
      : { note: `${JSON.stringify(value)} has no effect: the log has a line every loggingSteps` },
  loggingFirstStep: noEffect('the first step is always logged'),
  bf16: halfPrecision,
  fp16: halfPrecision,
  gradientCheckpointingKwargs: noEffect('layers are recomputed in one way (use_reentrant has no counterpart)'),
  lrSchedulerKwargs: schedulerOptions,
  optim: (value) => (formerAdamW.has(String(value)) ? { quiet: true } : { section: 'training', key: 'optim', value }),
  reportTo: reportTargets,
  optimArgs: unsupported('optim_args'),
  dataSeed: unlessOff(() => ({ note: 'has no effect: training.seed seeds the order of rows' })),
  resumeFromCheckpoint: unlessOff(() => ({ note: 'has no effect here: resume with lorikeet train --resume auto' })),
  saveOnlyModel: unlessOff(() => ({
    note: 'has no effect: checkpoints always hold the optimizer, so that they resume exactly',
  })),
  dataloaderDropLast: unsupported('dropping the last batch'),
  autoFindBatchSize: unsupported('searching the batch size'),
  lossType: (value) =>
    value === 'dft'
      ? { refused: 'dynamic fine-tuning (DFT)' }
      : noEffect('the loss never makes the full logits')(value),
  truncationMode: (value) =>
    value === 'keep_start' || value === null ? { quiet: true } : { refused: 'truncation that keeps the end' },
  packingStrategy: rename('data', 'packingStrategy'),
  trainSamplingStrategy: (value) =>
    value === 'random' || value === 'sequential'
      ? { section: 'data', key: 'order', value }
      : { refused: 'this sampling strategy' },
  chatTemplatePath: rename('model', 'chatTemplatePath'),
  maxLength: rename('data', 'maxLength'),
  packing: rename('data', 'packing'),
  maxSeqLength: rename('data', 'maxLength', 'max_seq_length'),
  ...Object.fromEntries(
    Object.entries(withoutEffect).flatMap(([why, keys]) => keys.map((key) => [key, noEffect(why)])),
  ),
};
for (const key of [
  'datasetTextField',
  'assistantOnlyLoss',
  'completionOnlyLoss',
  'datasetNumProc',
  'datasetKwargs',
  'shuffleDataset',
])
  trainingHandlers[key] = dataHandlers[key]!;

const peftHandlers: Record<string, Handler> = {
  rank: rename('peft', 'r'),
  alpha: rename('peft', 'loraAlpha'),
  dropout: rename('peft', 'loraDropout'),
  loftqConfig: (value) => {
    if (typeof value !== 'object' || value === null || Array.isArray(value))
      return { section: 'peft', key: 'loftqConfig', value };
    const entries = Object.entries(value).map(([key, v]) => [camelCase(key), v]);
    // PEFT writes {} where there is no LoftQ.
    return entries.length
      ? { section: 'peft', key: 'loftqConfig', value: Object.fromEntries(entries) }
      : { quiet: true };
  },
};

const handlers: Readonly<Record<SectionName, Readonly<Record<string, Handler>>>> = {
  model: modelHandlers,
  quantization: quantizationHandlers,
  data: dataHandlers,
  training: trainingHandlers,
  peft: peftHandlers,
};

/** `report_to` as Python has it: a name, a list of names, 'none' or 'all'. Trackers on the network are passed over. */
export function reportTargets(value: unknown): Handling {
  const asked = (Array.isArray(value) ? value : [value]).map(String);
  const strange = asked.filter((name) => !['tensorboard', 'none', 'all', 'null'].includes(name));
  const targets = asked.some((name) => name === 'tensorboard' || name === 'all') ? ['tensorboard'] : [];
  const note = strange.length
    ? { note: `${strange.join(', ')}: nothing is sent anywhere; log.jsonl holds every number` }
    : {};
  return { section: 'training', key: 'reportTo', value: targets, ...note };
}

/** What to do with a key that is not a key of the section's schema. */
export function handlePythonKey(section: SectionName, key: string, value: unknown): Handling | undefined {
  const table = handlers[section];
  return Object.hasOwn(table, key) ? table[key]!(value) : undefined;
}

/** Names that are taken besides the schema's, for suggestions. */
export const pythonKeysOf = (section: SectionName): string[] => Object.keys(handlers[section]);
