/** Which chat template a model is used with: its own, one by name, or one from a file. */
import { resolve } from 'node:path';
import { type FileSystem, joinPath, readJson, readText } from '@lorikeet/files';
import { chatTemplateName as templateFileName } from '@lorikeet/lora';
import { type ChatTemplateName, chatTemplateNames, chatTemplates, type Tokenizer } from '@lorikeet/tokenizer';
import type { Row } from '@lorikeet/trainer';
import { CliError, exitCodes, userError } from '../errors.ts';

/** A chat template that was asked for instead of the model's own; a configuration's `model` section is such a choice. */
export interface ChatTemplateChoice {
  readonly chatTemplate?: ChatTemplateName | undefined;
  /** A Jinja file, or a folder with a tokenizer that has a template. */
  readonly chatTemplatePath?: string | undefined;
}

const isName = (text: string): text is ChatTemplateName => (chatTemplateNames as string[]).includes(text);

/** What `--chat-template` means: a name, else a path. */
export function chatTemplateFlag(given: string | undefined): ChatTemplateChoice | undefined {
  if (given === undefined) return undefined;
  return isName(given) ? { chatTemplate: given } : { chatTemplatePath: resolve(given) };
}

/** Whether a choice says anything. */
export const choosesTemplate = ({ chatTemplate, chatTemplatePath }: ChatTemplateChoice): boolean =>
  chatTemplate !== undefined || chatTemplatePath !== undefined;

/** The template that an adapter was trained with, where that was not the base's own. */
export async function adapterTemplate(files: FileSystem, adapterDir: string): Promise<ChatTemplateChoice | undefined> {
  const path = joinPath(adapterDir, templateFileName);
  return (await files.kind(path)) === 'file' ? { chatTemplatePath: path } : undefined;
}

/** Source of the chosen template; undefined where none is chosen. @throws CliError (exit code 2) */
export async function readChatTemplate(
  files: FileSystem,
  { chatTemplate, chatTemplatePath }: ChatTemplateChoice,
): Promise<string | undefined> {
  if (chatTemplatePath === undefined) return chatTemplate && chatTemplates[chatTemplate];
  if (chatTemplate !== undefined)
    throw userError('model: chatTemplate and chatTemplatePath must not both be given: they are.', {
      where: 'model.chatTemplate',
      fix: 'Remove one of them.',
    });
  const kind = await files.kind(chatTemplatePath);
  if (kind === 'file') return readText(files, chatTemplatePath);
  const found = kind === 'directory' ? await templateOfFolder(files, chatTemplatePath) : undefined;
  if (found !== undefined) return found;
  throw userError(
    `chat template: must be a Jinja file, or a folder with a template: ${kind === undefined ? 'there is nothing' : 'the folder has none'}.`,
    { where: chatTemplatePath, fix: `Check the path, or name a built-in template: ${chatTemplateNames.join(', ')}.` },
  );
}

async function templateOfFolder(files: FileSystem, dir: string): Promise<string | undefined> {
  const path = joinPath(dir, templateFileName);
  if ((await files.kind(path)) === 'file') return readText(files, path);
  const config = joinPath(dir, 'tokenizer_config.json');
  if ((await files.kind(config)) !== 'file') return undefined;
  const template = ((await readJson(files, config)) as { chat_template?: unknown } | null)?.chat_template;
  return typeof template === 'string' ? template : undefined;
}

/** Whether rows are chats, which need a template. */
export const needsTemplate = ([first]: readonly Row[]): boolean =>
  first?.kind === 'chat' || (first?.kind === 'prompt-completion' && typeof first.prompt !== 'string');

const ways = {
  config: 'Set model.chatTemplate: plain (it suits any model), or model.chatTemplatePath: FILE.jinja.',
  option: 'Add --chat-template plain (it suits any model), or --chat-template FILE.jinja.',
} as const;

/** @throws CliError (exit code 2) that says how to give a template, when the tokenizer has none */
export function requireTemplate(tokenizer: Tokenizer, purpose: string, give: keyof typeof ways): void {
  if (tokenizer.chatTemplate !== undefined) return;
  throw new CliError(exitCodes.user, `${purpose}: chats need a chat template: this model's tokenizer has none.`, {
    where: give === 'config' ? 'model.chatTemplate' : '--chat-template',
    fix: ways[give],
  });
}
