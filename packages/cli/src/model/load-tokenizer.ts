import { type FileSystem, joinPath, readJson, readText } from '@lorikeet/files';
import { checkChatTemplate, createTokenizer, type Tokenizer } from '@lorikeet/tokenizer';
import { CliError, exitCodes, userError, withExitCode } from '../errors.ts';
import { type ChatTemplateChoice, readChatTemplate } from './chat-template.ts';

/**
 * The tokenizer of a model folder: tokenizer.json, and tokenizer_config.json and chat_template.jinja where they are. A chosen
 * template takes the place of the folder's.
 */
export async function loadTokenizer(
  files: FileSystem,
  dir: string,
  choice: ChatTemplateChoice = {},
): Promise<Tokenizer> {
  await requireDirectory(files, dir, 'model');
  const path = joinPath(dir, 'tokenizer.json');
  if ((await files.kind(path)) !== 'file')
    throw new CliError(exitCodes.data, `tokenizer: ${dir} must hold tokenizer.json: it does not.`, {
      where: path,
      fix: 'Copy tokenizer.json and tokenizer_config.json of the model into the folder.',
    });
  const optional = async <T>(name: string, read: (path: string) => Promise<T>): Promise<T | undefined> => {
    const file = joinPath(dir, name);
    return (await files.kind(file)) === 'file' ? read(file) : undefined;
  };
  const tokenizerJson = await readJson(files, path);
  const tokenizerConfig = await optional('tokenizer_config.json', (file) => readJson(files, file));
  const chosen = await readChatTemplate(files, choice);
  const chatTemplate = chosen ?? (await optional('chat_template.jinja', (file) => readText(files, file)));
  return withExitCode(exitCodes.data, () => {
    const source = { tokenizerJson, tokenizerConfig, ...(chatTemplate === undefined ? {} : { chatTemplate }) };
    const tokenizer = createTokenizer(source);
    if (choice.chatTemplate !== undefined) checkChatTemplate(choice.chatTemplate, tokenizer);
    return tokenizer;
  });
}

/** A folder that the user named must be there. */
export async function requireDirectory(files: FileSystem, dir: string, what: string): Promise<void> {
  const kind = await files.kind(dir);
  if (kind !== 'directory')
    throw userError(`${what}: must be a folder: ${kind === 'file' ? 'a file is there' : 'there is none'}.`, {
      where: dir,
      fix: 'Check the path.',
    });
}

/** A file that the user named must be there. */
export async function requireFile(files: FileSystem, path: string, what: string): Promise<void> {
  const kind = await files.kind(path);
  if (kind !== 'file')
    throw userError(`${what}: must be a file: ${kind === 'directory' ? 'a folder is there' : 'there is none'}.`, {
      where: path,
      fix: 'Check the path.',
    });
}
