/** What a configuration may say: every key with its values, default, unit and meaning, in one place. */
import { optimizers, schedules } from '@lorikeet/nn';
import { type ChatTemplateName, chatTemplateNames } from '@lorikeet/tokenizer';
import * as z from 'zod';

const whole = (least: number) => z.int().min(least);
const part = z.number().min(0).lt(1);
const text = z.string().min(1);
const names = z.union([text, z.array(text).min(1)]);
const interval = z.enum(['no', 'steps', 'epoch']);
const scheduleNames = Object.keys(schedules) as [keyof typeof schedules, ...(keyof typeof schedules)[]];
const course = z.enum(['linear', 'cosine', '1-sqrt']);

/** The base model. */
export const modelSchema = z.strictObject({
  path: text.describe('Folder of the base model: config.json, tokenizer.json, *.safetensors'),
  revision: text.optional().describe('Recorded in the adapter for Python; a folder has no revisions'),
  chatTemplate: z
    .enum(chatTemplateNames as [ChatTemplateName, ...ChatTemplateName[]])
    .optional()
    .describe("Chat template by name, instead of the model's; plain suits models without chat tokens"),
  chatTemplatePath: text
    .optional()
    .describe("Chat template instead of the model's: a Jinja file, or a folder with a tokenizer that has one"),
  allowNonfinite: z.boolean().default(false).describe('Train although base weights hold NaN or infinity'),
});

/** How the base is quantized. Names are those of transformers' BitsAndBytesConfig, defaults QLoRA's. */
export const quantizationSchema = z.strictObject({
  loadIn4bit: z.boolean().default(false).describe('Quantize the linears to 4 bits while loading (QLoRA)'),
  loadIn8bit: z.boolean().default(false).describe('Quantize them to 8 bits (LLM.int8)'),
  bnb4bitQuantType: z
    .enum(['nf4', 'fp4'])
    .default('nf4')
    .describe('Codes of 4 bits; nf4 suits normal weights. transformers takes fp4 where nothing is said'),
  bnb4bitUseDoubleQuant: z
    .boolean()
    .default(true)
    .describe('Quantize the scales too: 4.13 bits a weight, not 4.5. transformers does not where nothing is said'),
  computeDtype: z
    .enum(['f32', 'int8'])
    .default('f32')
    .describe('int8 multiplies 4-bit weights in integers where the device can: faster and less exact'),
  llmInt8Threshold: z
    .number()
    .min(0)
    .lt(Infinity)
    .default(6)
    .describe('Activations from here on are outliers of loadIn8bit, computed in full; 0: none'),
  llmInt8SkipModules: z
    .array(text)
    .optional()
    .describe('Linears that stay dense, by name or expression; default: lm_head, which a list replaces'),
});

/** The data. */
export const dataSchema = z.strictObject({
  train: text.describe('File of training rows: JSONL, JSON, or .txt of plain text'),
  eval: text.optional().describe('File of held-out rows; without it, testSize takes some of train'),
  testSize: z
    .number()
    .min(0)
    .default(0.1)
    .describe('Held out of train when there is no eval file: a part below 1, or a number of rows; 0 holds out none'),
  splitSeed: whole(0).default(42).describe("Seed of that split; Python's train_test_split holds out the same rows"),
  format: z
    .enum(['messages', 'conversations', 'prompt-completion', 'alpaca', 'question-answer', 'text'])
    .optional()
    .describe('Format of the rows; found by looking'),
  sampleBy: z
    .enum(['line', 'paragraph'])
    .optional()
    .describe('What one row of a .txt file is; default: a paragraph where blank lines part the text'),
  lossOn: z
    .enum(['all', 'completion', 'assistant'])
    .optional()
    .describe('Which tokens are learned; for chats assistant, for prompts completion, for text all'),
  maxLength: whole(2).default(1024).describe('Tokens; longer rows are cut at the end'),
  packing: z.boolean().default(false).describe('Fill each batch item with several short rows, up to maxLength tokens'),
  packingStrategy: z
    .enum(['bfd', 'bfd_split', 'wrapped'])
    .default('bfd')
    .describe(
      'Whole rows, best fit first; the same with rows over maxLength cut in pieces; or all rows end to end, cut',
    ),
  packingRows: whole(1).optional().describe('Rows packed with each other; default all, TRL 1000'),
  onBadRow: z.enum(['error', 'skip']).default('error').describe('A bad row stops the run, or is left out and counted'),
  maxRows: whole(1).optional().describe('Use only the first rows of train'),
  maxEvalRows: whole(1).optional().describe('Use only the first held-out rows'),
  order: z.enum(['random', 'sequential']).default('random').describe('Order of rows within an epoch'),
});

/** The run. Names and meanings are those of transformers' TrainingArguments. */
export const trainingSchema = z.strictObject({
  outputDir: text.default('lorikeet-output').describe('Folder for adapter/, checkpoints, log.jsonl, summary.json'),
  overwriteOutputDir: z.boolean().default(false).describe('Discard an earlier run in outputDir'),
  learningRate: z.number().min(0).lt(Infinity).default(2e-4).describe('Peak learning rate'),
  lrSchedulerType: z.enum(scheduleNames).default('linear').describe('Course of the learning rate'),
  lrSchedulerOptions: z
    .strictObject({
      numCycles: z.number().positive(),
      power: z.number().positive(),
      endFactor: z.number().min(0),
      minFactor: part,
      timescaleSteps: z.number().positive(),
      decaySteps: whole(1),
      warmupFactor: part,
      warmupType: course,
      decayType: course,
    })
    .partial()
    .default({})
    .describe('Options of that schedule'),
  warmupSteps: z.number().min(0).default(0).describe('Steps of linear warm-up; below 1: a part of all steps'),
  numTrainEpochs: z.number().positive().lt(Infinity).default(3).describe('Passes over the data'),
  maxSteps: z
    .union([z.literal(-1), whole(1)])
    .default(-1)
    .describe('Optimizer steps; -1: from numTrainEpochs'),
  perDeviceTrainBatchSize: whole(1).default(8).describe('Rows (or packs) of a micro-batch'),
  perDeviceEvalBatchSize: whole(1).default(8).describe('Rows of an evaluation batch'),
  gradientAccumulationSteps: whole(1).default(1).describe('Micro-batches of one optimizer step'),
  gradientCheckpointing: z
    .union([z.boolean(), z.literal('auto')])
    .default(false)
    .describe('Recompute layers in the backward: less memory, more time; auto: only where memory is short'),
  activationStorage: z
    .enum(['f32', 'bf16', 'auto'])
    .default('f32')
    .describe(
      'How gradientCheckpointing keeps inputs of layers; bf16 takes half and moves gradients by a few thousandths of their norm; auto: only where memory is short',
    ),
  sharePrefix: z
    .union([z.boolean(), z.literal('auto')])
    .default('auto')
    .describe(
      'Compute the tokens with which several rows of a batch begin, such as a system prompt, once; auto: unless dropout or noise is drawn for each token, which true refuses',
    ),
  maxGradNorm: z.number().min(0).default(1).describe('Gradients are scaled down to this norm; 0: never'),
  optim: z
    .enum(Object.keys(optimizers) as [keyof typeof optimizers, ...(keyof typeof optimizers)[]])
    .default('adamw_torch')
    .describe('Optimizer; the 8-bit ones need a quarter of the memory for their state'),
  weightDecay: z.number().min(0).lt(Infinity).default(0).describe('Decay of weights, but for biases and norms'),
  adamBeta1: part.default(0.9).describe('Decay rate of the mean of gradients in AdamW and Lion'),
  adamBeta2: part.default(0.999).describe('Decay rate of the mean of their squares; the second of Lion'),
  adamEpsilon: z.number().min(0).default(1e-8).describe('Added to the root of that mean'),
  neftuneNoiseAlpha: z
    .number()
    .positive()
    .lt(Infinity)
    .optional()
    .describe('Noise on the embeddings in training (NEFTune), such as 5; default: none'),
  labelSmoothingFactor: part.default(0).describe('Weight of the uniform distribution in the target'),
  seed: whole(0).max(Number.MAX_SAFE_INTEGER).default(42).describe('Seed of data order, dropout and adapter'),
  loggingSteps: whole(1).default(10).describe('Steps between lines in log.jsonl'),
  evalStrategy: interval.optional().describe('When to measure held-out rows; default: epoch where there are any'),
  evalSteps: whole(1).default(500).describe('Steps between evaluations for evalStrategy steps'),
  saveStrategy: interval
    .default('steps')
    .describe('When to write checkpoints; one is written at the end in any case but no'),
  saveSteps: whole(1).default(500).describe('Steps between checkpoints'),
  saveTotalLimit: whole(1).nullable().default(2).describe('Checkpoints kept, the best one besides; null: all'),
  reportTo: z
    .array(z.enum(['tensorboard']))
    .default(['tensorboard'])
    .describe('Where numbers go besides log.jsonl: an event file for TensorBoard; nothing leaves this machine'),
  loadBestModelAtEnd: z.boolean().default(false).describe('End with the checkpoint of the lowest evaluation loss'),
});

/** The adapter. Names and meanings are those of PEFT's LoraConfig. */
export const peftSchema = z.strictObject({
  r: whole(1).default(16).describe('Rank of the update'),
  loraAlpha: z.number().positive().lt(Infinity).default(32).describe('The update is scaled by loraAlpha / r'),
  loraDropout: part.default(0.05).describe('Part of the adapter inputs dropped in training'),
  targetModules: names.default('all-linear').describe("Names, a regular expression, or 'all-linear'"),
  excludeModules: names.optional().describe('Taken out of targetModules: names or a regular expression'),
  modulesToSave: z.array(text).optional().describe('Modules trained and saved whole'),
  bias: z.enum(['none', 'all', 'lora_only']).default('none').describe('Biases trained beside the adapter'),
  useRslora: z.boolean().default(false).describe('Scale by loraAlpha / sqrt(r)'),
  initLoraWeights: z
    .union([
      z.boolean(),
      z.enum(['gaussian', 'orthogonal', 'pissa', 'olora', 'loftq']),
      z.templateLiteral(['pissa_niter_', z.int()]),
    ])
    .default(true)
    .describe(
      'First values of the adapter; pissa, pissa_niter_N (faster, N iterations), olora and loftq take them from the base',
    ),
  loftqConfig: z
    .strictObject({ loftqBits: z.union([z.literal(4), z.literal(8)]), loftqIter: whole(1) })
    .partial()
    .optional()
    .describe('Of loftq: bits of the base (4), alternations of quantizing and decomposing (1)'),
  rankPattern: z.record(text, whole(1)).optional().describe('Rank of layers whose path ends as an expression says'),
  alphaPattern: z.record(text, z.number().positive()).optional().describe('loraAlpha of such layers'),
  layersToTransform: z
    .union([whole(0), z.array(whole(0))])
    .optional()
    .describe('Indices of the layers to adapt; default: all'),
  layersPattern: names.optional().describe('Name of the list in which layersToTransform counts'),
});

export const sectionSchemas = {
  model: modelSchema,
  quantization: quantizationSchema,
  data: dataSchema,
  training: trainingSchema,
  peft: peftSchema,
} as const;

export type SectionName = keyof typeof sectionSchemas;
export const sectionNames = Object.keys(sectionSchemas) as SectionName[];

/** Keys of a section. */
export const keysOf = (section: SectionName): string[] => Object.keys(sectionSchemas[section].shape);

/** A configuration with all defaults in place; paths are absolute. */
export interface ResolvedConfig {
  readonly model: z.output<typeof modelSchema>;
  readonly quantization: z.output<typeof quantizationSchema>;
  readonly data: z.output<typeof dataSchema>;
  readonly training: z.output<typeof trainingSchema>;
  readonly peft: z.output<typeof peftSchema>;
}
