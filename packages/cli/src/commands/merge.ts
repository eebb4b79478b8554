import { dirname, resolve } from 'node:path';
import { writeDirectoryAtomic } from '@lorikeet/files';
import { chatTemplateName, mergeAndUnload } from '@lorikeet/lora';
import { savePhi3 } from '@lorikeet/phi3';
import type { Command } from 'commander';
import { type Begin, type DeviceOptions, makeCommand, withDevice, withModel } from '../command.ts';
import { userError } from '../errors.ts';
import { checkModelTarget, copyCompanions, modelCompanions } from '../model/model-folder.ts';
import { withBackend } from '../model/open-backend.ts';
import { findModelPaths, openModel } from '../model/open-model.ts';

interface MergeFlags extends DeviceOptions {
  readonly model?: string;
  readonly adapter?: string;
  readonly out: string;
  readonly force?: boolean;
}

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
      await checkModelTarget(files, out, [paths.modelDir, paths.adapterDir!], flags.force ?? false);
      const written = await withBackend(flags, async (backend) => {
        const { model } = await openModel(files, paths, backend, output);
        await mergeAndUnload(model);
        let names: string[] = [];
        await files.makeDirectory(dirname(out));
        await writeDirectoryAtomic(files, out, async (draft) => {
          names = await savePhi3(files, draft, model);
          names.push(...(await copyCompanions(files, paths.modelDir, draft, modelCompanions)));
          // The merged model speaks as it was trained to.
          names.push(...(await copyCompanions(files, paths.adapterDir!, draft, [chatTemplateName])));
        });
        return [...new Set(names)].sort();
      });
      output.result({ command: 'merge', out, files: written });
      output.print(`Merged into ${out}:\n  ${written.join('\n  ')}`);
    });
}
