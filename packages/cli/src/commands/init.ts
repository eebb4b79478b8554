import { basename, dirname, relative, resolve, sep } from 'node:path';
import { type FileSystem, joinPath, writeAtomic } from '@lorikeet/files';
import { readPhi3Config } from '@lorikeet/phi3';
import { indexName, singleName } from '@lorikeet/safetensors';
import type { ChatTemplateName } from '@lorikeet/tokenizer';
import { type ChatDataset, loadChatDataset, tokenizeRows } from '@lorikeet/trainer';
import type { Command } from 'commander';
import { type Begin, makeCommand } from '../command.ts';
import { type NewConfig, printCommentedConfig } from '../config/print-config.ts';
import { userError } from '../errors.ts';
import { needsTemplate } from '../model/chat-template.ts';
import { loadTokenizer, requireDirectory, requireFile } from '../model/load-tokenizer.ts';
import { baseQuantization, loadedWeightBytes } from '../model/quantization.ts';
import { formatCount } from '../terminal/format.ts';
import { commandLine } from '../terminal/shell.ts';
import { defaultLossOn } from '../training/prepare-data.ts';

interface InitFlags {
  readonly model?: string;
  readonly out: string;
  readonly force?: boolean;
}

/** Where a model folder is looked for when none is named. */
const usualModelDir = 'phi-3-mini-4k-instruct';
/** Cutting the longest tenth of a percent of the rows is not worth a much longer batch. */
const lengthSteps = [128, 256, 512, 1024, 2048, 4096];

/** `lorikeet init`: looks at a data file and writes a configuration that trains it. */
export function initCommand(begin: Begin): Command {
  return makeCommand('init', 'write a commented configuration for a data file')
    .argument('<data>', 'file of rows: JSONL, JSON, or .txt of plain text')
    .option('-m, --model <dir>', 'folder of the base model')
    .option('-o, --out <file>', 'file to write', 'finetune.yaml')
    .option('--force', 'replace the file if it is there')
    .action(async (data: string, flags: InitFlags) => {
      const { files, output } = begin({ ...flags });
      const [dataPath, out] = [resolve(data), resolve(flags.out)];
      await requireFile(files, dataPath, 'data');
      if ((await files.exists(out)) && !flags.force)
        throw userError('init: the configuration must not exist yet: it does.', {
          where: out,
          fix: 'Choose another --out, or add --force.',
        });
      await requireDirectory(files, dirname(out), '--out');
      const dataset = await loadChatDataset(files, dataPath);
      const seen = flags.model === undefined ? undefined : await lookAtModel(files, resolve(flags.model), dataset);
      const config = newConfig(dataset, out, dataPath, flags, seen);
      await writeAtomic(files, out, printCommentedConfig(config, adviceOf(dataset, out, flags)));
      output.result({
        command: 'init',
        config: out,
        format: dataset.format,
        rows: dataset.rows.length,
        modelKnown: seen !== undefined,
      });
      output.print(`Wrote ${out} for ${formatCount(dataset.rows.length)} rows of the format ${dataset.format}.`);
      if (seen?.loadIn4bit)
        output.print('The weights are large for the memory that is free: it loads them in 4 bits (QLoRA).');
      if (!seen) output.print(`Set model.path in it: no --model was given.`);
      output.print(`\nTrain with:\n  ${commandLine(['train', '-c', flags.out])}`);
    });
}

interface Seen {
  readonly maxLength: number;
  /** Set where rows are chats and the model has no template of its own. */
  readonly chatTemplate: ChatTemplateName | undefined;
  /** Whether the weights leave too little memory beside them. */
  readonly loadIn4bit: boolean;
}

/** The context that the rows need, at most that of the model. */
async function lookAtModel(files: FileSystem, dir: string, dataset: ChatDataset): Promise<Seen> {
  const own = await loadTokenizer(files, dir);
  const chatTemplate = needsTemplate(dataset.rows) && own.chatTemplate === undefined ? 'plain' : undefined;
  const tokenizer = chatTemplate ? await loadTokenizer(files, dir, { chatTemplate }) : own;
  const { maxPositionEmbeddings } = await readPhi3Config(files, dir);
  const lossOn = defaultLossOn(dataset.rows[0]!);
  const { report } = tokenizeRows(dataset.rows.slice(0, 2000), tokenizer, { lossOn, maxLength: maxPositionEmbeddings });
  const needed = lengthSteps.find((length) => length >= report.longestTokens) ?? lengthSteps.at(-1)!;
  const loadIn4bit = await isTight(files, dir, process.availableMemory());
  return { maxLength: Math.min(needed, maxPositionEmbeddings), chatTemplate, loadIn4bit };
}

/** Weights in 16 bits that take more than this part of what is free leave a training no room. */
const tightShare = 0.6;

/** Whether a folder's weights had better be quantized to be trained on in so much memory. */
export async function isTight(files: FileSystem, dir: string, freeBytes: number): Promise<boolean> {
  const { config, stored } = await baseQuantization(files, dir);
  // A folder that has no weights yet is one to be filled.
  const has = await Promise.all([singleName, indexName].map((name) => files.exists(joinPath(dir, name))));
  if (stored || !has.includes(true)) return false;
  return (await loadedWeightBytes(files, dir, { config, stored })) > tightShare * freeBytes;
}

/** A path as the configuration writes it: relative to its folder where that is short. */
function fromConfig(out: string, path: string): string {
  const way = relative(dirname(out), path);
  return way.startsWith(`..${sep}..${sep}..`) ? path : `./${way}`.replaceAll(sep, '/').replace(/^\.\/\.\.\//, '../');
}

function newConfig(
  dataset: ChatDataset,
  out: string,
  dataPath: string,
  flags: InitFlags,
  seen: Seen | undefined,
): NewConfig {
  const rows = dataset.rows.length;
  // A few hundred rows are seen three times, many thousands once.
  const epochs = rows < 3000 ? 3 : 1;
  const batch = rows < 64 ? 2 : 8;
  const maxLength = seen?.maxLength ?? 1024;
  return {
    model: {
      path: flags.model === undefined ? `./${usualModelDir}` : fromConfig(out, resolve(flags.model)),
      ...(seen?.chatTemplate === undefined ? {} : { chatTemplate: seen.chatTemplate }),
    },
    quantization: seen?.loadIn4bit ? { loadIn4bit: true } : {},
    data: {
      train: fromConfig(out, dataPath),
      ...(rows < 10 ? { testSize: 0 } : { testSize: 0.1 }),
      lossOn: defaultLossOn(dataset.rows[0]!),
      maxLength,
    },
    training: {
      outputDir: `./runs/${basename(out).replace(/\.ya?ml$/, '')}`,
      learningRate: 2e-4,
      lrSchedulerType: 'cosine',
      warmupSteps: 0.05,
      numTrainEpochs: epochs,
      perDeviceTrainBatchSize: batch,
      gradientAccumulationSteps: 1,
      gradientCheckpointing: maxLength > 512,
      loggingSteps: 10,
      saveSteps: 100,
      seed: 42,
    },
    peft: { r: 16, loraAlpha: 32, loraDropout: 0.05, targetModules: 'all-linear' },
  };
}

const adviceOf = (dataset: ChatDataset, out: string, { model }: InitFlags): string[] => [
  `Fine-tunes a Phi-3 model with LoRA on ${formatCount(dataset.rows.length)} rows (${dataset.format}).`,
  ...(model === undefined
    ? ['', 'Set model.path: the folder with config.json, tokenizer.json and *.safetensors of Phi-3.']
    : []),
  '',
  `  lorikeet train -c ${basename(out)} --dry-run   says what it will cost`,
  `  lorikeet train -c ${basename(out)}             trains; Ctrl-C saves and tells how to go on`,
  `  lorikeet eval  -c ${basename(out)}             base and tuned on held-out rows`,
  '',
  'Paths are relative to this file. Every key that is left out has a default: --print-config shows all.',
  "Python's spelling (learning_rate, training_config, peft_config) is accepted too.",
];
