import { dirname, resolve } from 'node:path';
import { type FileSystem, joinPath, readText } from '@lorikeet/files';
import { adapterConfigName, type LoadedAdapter, loadAdapter } from '@lorikeet/lora';
import { loadPhi3, type Phi3ForCausalLM } from '@lorikeet/phi3';
import type { Backend } from '@lorikeet/tensor';
import type { Tokenizer } from '@lorikeet/tokenizer';
import { parse } from 'yaml';
import { exitCodes, userError, withExitCode } from '../errors.ts';
import type { Output } from '../output.ts';
import { adapterTemplate, type ChatTemplateChoice, chatTemplateFlag } from './chat-template.ts';
import { requireRoomForWeights } from './device-memory.ts';
import { loadTokenizer, requireDirectory } from './load-tokenizer.ts';

export interface ModelPaths {
  readonly modelDir: string;
  /** The folder that holds adapter_config.json. */
  readonly adapterDir: string | undefined;
  /** A chat template that was asked for; without it the adapter's counts, then the model's. */
  readonly template?: ChatTemplateChoice | undefined;
}

export interface OpenedModel {
  readonly model: Phi3ForCausalLM;
  readonly tokenizer: Tokenizer;
  readonly adapter: LoadedAdapter | undefined;
}

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
  },
): Promise<ModelPaths> {
  const template = chatTemplateFlag(given.chatTemplate);
  const adapterDir = given.adapter === undefined ? undefined : await findAdapter(files, resolve(given.adapter));
  if (given.model !== undefined) return { modelDir: resolve(given.model), adapterDir, template };
  const modelDir = adapterDir && (await modelOfRun(files, dirname(adapterDir)));
  if (!modelDir)
    throw userError('--model: must name the folder of the base model: it is not given.', {
      fix: 'Add --model DIR (and --adapter DIR for a tuned model).',
    });
  return { modelDir, adapterDir, template };
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

async function modelOfRun(files: FileSystem, runDir: string): Promise<string | undefined> {
  const path = joinPath(runDir, resolvedConfigName);
  if (!(await files.exists(path))) return undefined;
  const config: unknown = parse(await readText(files, path));
  const modelPath = (config as { model?: { path?: unknown } } | null)?.model?.path;
  return typeof modelPath === 'string' ? resolve(runDir, modelPath) : undefined;
}

/** Loads a model with its tokenizer, and an adapter on it where one is given. */
export async function openModel(
  files: FileSystem,
  { modelDir, adapterDir, template }: ModelPaths,
  backend: Backend,
  output: Output,
): Promise<OpenedModel> {
  const choice = template ?? (adapterDir === undefined ? undefined : await adapterTemplate(files, adapterDir));
  const tokenizer = await loadTokenizer(files, modelDir, choice);
  await requireRoomForWeights(files, modelDir, backend);
  const model = await loadPhi3(files, modelDir, { backend, warn: (message) => output.note(message) });
  await withExitCode(exitCodes.data, () => tokenizer.checkModelVocabSize(model.config.vocabSize));
  if (adapterDir === undefined) return { model, tokenizer, adapter: undefined };
  const adapter = await withExitCode(exitCodes.data, () => loadAdapter(files, adapterDir, model));
  for (const warning of adapter.warnings) output.note(warning);
  return { model, tokenizer, adapter };
}
