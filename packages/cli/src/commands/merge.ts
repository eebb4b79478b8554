import { dirname, resolve } from 'node:path';
import { FileError, type FileSystem, joinPath, manifestName, writeAtomic, writeDirectoryAtomic } from '@lorikeet/files';
import { chatTemplateName, mergeAndUnload } from '@lorikeet/lora';
import { savePhi3 } from '@lorikeet/phi3';
import type { Command } from 'commander';
import { type Begin, type DeviceOptions, makeCommand, withDevice, withModel } from '../command.ts';
import { userError } from '../errors.ts';
import { withBackend } from '../model/open-backend.ts';
import { findModelPaths, openModel } from '../model/open-model.ts';

interface MergeFlags extends DeviceOptions {
  readonly model?: string;
  readonly adapter?: string;
  readonly out: string;
  readonly force?: boolean;
}

/** What belongs to a model beside its weights, taken over as it is. */
const companions = [
  'tokenizer.json', 'tokenizer_config.json', 'special_tokens_map.json', 'added_tokens.json', 'tokenizer.model',
  'chat_template.jinja', 'generation_config.json', 'LICENSE',
]; // biome-ignore format: a table

/** `lorikeet merge`: an adapter into a plain model folder. */
export function mergeCommand(begin: Begin): Command {
  return withDevice(withModel(makeCommand('merge', 'merge an adapter into its base: a folder that transformers loads')))
    .requiredOption('-o, --out <dir>', 'folder to write')
    .option('--force', 'replace a model folder that is there')
    .action(async (flags: MergeFlags) => {
      const { files, output } = begin({ ...flags });
      if (flags.adapter === undefined)
        throw userError('merge: needs an adapter: none was given.', { fix: 'Add --adapter DIR.' });
      const paths = await findModelPaths(files, flags);
      const out = resolve(flags.out);
      await checkTarget(files, out, [paths.modelDir, paths.adapterDir!], flags.force ?? false);
      const written = await withBackend(flags, async (backend) => {
        const { model } = await openModel(files, paths, backend, output);
        await mergeAndUnload(model);
        let names: string[] = [];
        await files.makeDirectory(dirname(out));
        await writeDirectoryAtomic(files, out, async (draft) => {
          names = await savePhi3(files, draft, model);
          names.push(...(await copyCompanions(files, paths.modelDir, draft, companions)));
          // The merged model speaks as it was trained to.
          names.push(...(await copyCompanions(files, paths.adapterDir!, draft, [chatTemplateName])));
        });
        return [...new Set(names)].sort();
      });
      output.result({ command: 'merge', out, files: written });
      output.print(`Merged into ${out}:\n  ${written.join('\n  ')}`);
    });
}

async function copyCompanions(
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
async function checkTarget(files: FileSystem, out: string, sources: readonly string[], force: boolean): Promise<void> {
  if (sources.includes(out)) throw userError('--out: must not be a folder that is read from: it is.', { where: out });
  const kind = await files.kind(out);
  if (kind === undefined) return;
  if (kind === 'file') throw new FileError('ENOTDIR', out, `merge: ${out} must be a folder: a file is there.`);
  const names = await files.list(out);
  if (names.length === 0) return;
  const known = new Set([...companions, manifestName, 'config.json']);
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
