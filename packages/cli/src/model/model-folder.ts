/** Model folders that are written: what goes with the weights, and what may be replaced. */
import { FileError, type FileSystem, joinPath, manifestName, writeAtomic } from '@lorikeet/files';
import { CliError, exitCodes, userError } from '../errors.ts';
import { requireDirectory } from './load-tokenizer.ts';

/** What belongs to a model beside its weights, taken over as it is. */
export const modelCompanions = [
  'tokenizer.json', 'tokenizer_config.json', 'special_tokens_map.json', 'added_tokens.json', 'tokenizer.model',
  'chat_template.jinja', 'generation_config.json', 'LICENSE',
]; // biome-ignore format: a table

/** @throws CliError (exit code 2 where there is no folder, 3 where it holds no model) */
export async function requireModelFolder(files: FileSystem, dir: string, what = 'model'): Promise<void> {
  await requireDirectory(files, dir, what);
  if ((await files.kind(joinPath(dir, 'config.json'))) !== 'file')
    throw new CliError(exitCodes.data, `${what}: must be the folder of a model: it holds no config.json.`, {
      where: dir,
      fix: 'Check the path.',
    });
}

/** Copies those of `names` that are there, and returns them. */
export async function copyCompanions(
  files: FileSystem,
  from: string,
  to: string,
  names: readonly string[],
): Promise<string[]> {
  const present: string[] = [];
  for (const name of names) {
    const path = joinPath(from, name);
    if ((await files.kind(path)) !== 'file') continue;
    await writeAtomic(files, joinPath(to, name), await files.read(path));
    present.push(name);
  }
  return present;
}

/** What is replaced must be a model folder, and never one that is read from. */
export async function checkModelTarget(
  files: FileSystem,
  out: string,
  sources: readonly string[],
  force: boolean,
): Promise<void> {
  if (sources.includes(out)) throw userError('--out: must not be a folder that is read from: it is.', { where: out });
  const kind = await files.kind(out);
  if (kind === undefined) return;
  if (kind === 'file') throw new FileError('ENOTDIR', out, `--out: ${out} must be a folder: a file is there.`);
  const names = await files.list(out);
  if (names.length === 0) return;
  const known = new Set([...modelCompanions, manifestName, 'config.json']);
  const foreign = names.filter((name) => !known.has(name) && !/^model.*\.safetensors(\.index\.json)?$/.test(name));
  if (foreign.length > 0)
    throw userError('--out: must be new or hold a model alone: it holds something else.', {
      where: out,
      found: foreign.slice(0, 5).join(', '),
      fix: 'Choose another folder.',
    });
  if (!force)
    throw userError('--out: must not exist yet: a model is there.', {
      where: out,
      fix: 'Choose another folder, or add --force.',
    });
}
