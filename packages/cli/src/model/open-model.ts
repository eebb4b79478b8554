import { dirname, resolve } from 'node:path';
import { type FileSystem, joinPath, readText } from '@lorikeet/files';
import { adapterConfigName, checkpointWeights, type LoadedAdapter, loadAdapter } from '@lorikeet/lora';
import { loadPhi3, type Phi3ForCausalLM, phi3Linears, readPhi3Config } from '@lorikeet/phi3';
import type { Backend } from '@lorikeet/tensor';
import type { Tokenizer } from '@lorikeet/tokenizer';
import { showBytes } from '@lorikeet/trainer';
import { parse } from 'yaml';
import { exitCodes, userError, withExitCode } from '../errors.ts';
import type { Output } from '../output.ts';
import { adapterTemplate, type ChatTemplateChoice, chatTemplateFlag } from './chat-template.ts';
import { requireRoomForWeights } from './device-memory.ts';
import { loadTokenizer, requireDirectory } from './load-tokenizer.ts';
import { requireModelFolder } from './model-folder.ts';
import {
  type BaseQuantization,
  baseQuantization,
  describeQuantization,
  loadedWeightBytes,
  notesOnSkips,
  type QuantizationChoice,
  type QuantizationFlags,
  quantizationFlag,
} from './quantization.ts';

export interface ModelPaths {
  readonly modelDir: string;
  /** The folder that holds adapter_config.json. */
  readonly adapterDir: string | undefined;
  /** A chat template that was asked for; without it the adapter's counts, then the model's. */
  readonly template?: ChatTemplateChoice | undefined;
  /** How the base is quantized while it is loaded; a folder that is quantized stays so. Default: not. */
  readonly quantization?: QuantizationChoice | undefined;
}

export interface OpenedModel {
  readonly model: Phi3ForCausalLM;
  readonly tokenizer: Tokenizer;
  readonly adapter: LoadedAdapter | undefined;
  /** How the base stands in memory. */
  readonly quantization: BaseQuantization;
}

const betweenLinesMs = 3000;

/** Name of the configuration that a run leaves in its output folder. */
export const resolvedConfigName = 'config.resolved.yaml';

/**
 * The folders that `--model` and `--adapter` mean: an adapter may be named by the folder of its run, and a run knows its base.
 * @throws CliError (exit code 2) that says which option is missing
 */
export async function findModelPaths(
  files: FileSystem,
  given: {
    readonly model?: string | undefined;
    readonly adapter?: string | undefined;
    /** `--chat-template` */
    readonly chatTemplate?: string | undefined;
  } & QuantizationFlags,
): Promise<ModelPaths> {
  const template = chatTemplateFlag(given.chatTemplate);
  const adapterDir = given.adapter === undefined ? undefined : await findAdapter(files, resolve(given.adapter));
  const asked = quantizationFlag(given);
  if (given.model !== undefined) return { modelDir: resolve(given.model), adapterDir, template, quantization: asked };
  const run = adapterDir && (await baseOfRun(files, dirname(adapterDir)));
  if (run) return { modelDir: run.modelDir, adapterDir, template, quantization: { ...run.quantization, ...asked } };
  throw userError('--model: must name the folder of the base model: it is not given.', {
    fix: 'Add --model DIR (and --adapter DIR for a tuned model).',
  });
}

async function findAdapter(files: FileSystem, dir: string): Promise<string> {
  await requireDirectory(files, dir, '--adapter');
  for (const candidate of [dir, joinPath(dir, 'adapter')])
    if (await files.exists(joinPath(candidate, adapterConfigName))) return candidate;
  throw userError(`--adapter: must name a folder with ${adapterConfigName}: it has none.`, {
    where: dir,
    fix: 'Give the adapter folder of a run, or the folder that PEFT wrote.',
  });
}

/** The base that a run tuned, quantized as it was there. */
async function baseOfRun(
  files: FileSystem,
  runDir: string,
): Promise<{ readonly modelDir: string; readonly quantization: QuantizationChoice } | undefined> {
  const path = joinPath(runDir, resolvedConfigName);
  if (!(await files.exists(path))) return undefined;
  const config = parse(await readText(files, path)) as {
    readonly model?: { readonly path?: unknown };
    readonly quantization?: QuantizationChoice;
  } | null;
  const modelPath = config?.model?.path;
  if (typeof modelPath !== 'string') return undefined;
  return { modelDir: resolve(runDir, modelPath), quantization: config?.quantization ?? {} };
}

/** Loads a model with its tokenizer, and an adapter on it where one is given. */
export async function openModel(
  files: FileSystem,
  { modelDir, adapterDir, template, quantization: asked }: ModelPaths,
  backend: Backend,
  output: Output,
): Promise<OpenedModel> {
  const choice = template ?? (adapterDir === undefined ? undefined : await adapterTemplate(files, adapterDir));
  await requireModelFolder(files, modelDir);
  const tokenizer = await loadTokenizer(files, modelDir, choice);
  const quantization = await baseQuantization(files, modelDir, asked);
  const { linear, config, stored } = quantization;
  const weightBytes = await loadedWeightBytes(files, modelDir, quantization);
  requireRoomForWeights(weightBytes, backend, config ? undefined : 'Quantize them (--load-in-4bit)');
  if (config)
    output.progress(
      `base ${stored ? 'is stored' : 'is quantized while it is loaded,'} in ${describeQuantization(config)}: ${showBytes(weightBytes)}`,
    );
  if (config && !stored)
    for (const note of notesOnSkips(phi3Linears(await readPhi3Config(files, modelDir)), config)) output.note(note);
  const model = await loadPhi3(files, modelDir, {
    ...(linear ? { linear } : {}),
    backend,
    warn: (message) => output.note(message),
    onProgress: loadingProgress(output),
  });
  await withExitCode(exitCodes.data, () => tokenizer.checkModelVocabSize(model.config.vocabSize));
  if (adapterDir === undefined) return { model, tokenizer, adapter: undefined, quantization };
  const originals = config && !stored ? { originalWeights: await checkpointWeights(files, modelDir, backend) } : {};
  const adapter = await withExitCode(exitCodes.data, () => loadAdapter(files, adapterDir, model, originals));
  for (const warning of adapter.warnings) output.note(warning);
  return { model, tokenizer, adapter, quantization };
}

/** A line every few seconds, for models that take longer. */
function loadingProgress(output: Output): (progress: { readonly loaded: number; readonly total: number }) => void {
  let saidMs = performance.now();
  return ({ loaded, total }) => {
    if (performance.now() - saidMs < betweenLinesMs) return;
    saidMs = performance.now();
    output.progress(`reading weights: ${Math.round((100 * loaded) / total)} %`);
  };
}
