import { dirname, resolve } from 'node:path';
import { type FileSystem, writeDirectoryAtomic } from '@lorikeet/files';
import { chatTemplateName, type MergedCheckpoint, type MergeInto, mergeCheckpoint, mergeWays } from '@lorikeet/lora';
import { loadPhi3, phi3Linears, phi3Tensors, readPhi3Config } from '@lorikeet/phi3';
import { type Backend, OutOfMemoryError } from '@lorikeet/tensor';
import type { Tokenizer } from '@lorikeet/tokenizer';
import { type Command, Option } from 'commander';
import {
  type Begin,
  collect,
  type DeviceOptions,
  makeCommand,
  withDevice,
  withModel,
  withQuantization,
} from '../command.ts';
import { exitCodes, userError, withExitCode } from '../errors.ts';
import { type LogitDifference, logitDifference, type SampleLogits, sampleLogits, samplePrompts } from '../model/logit-difference.ts'; // biome-ignore format: one line
import { checkModelTarget, copyCompanions, modelCompanions, requireModelFolder } from '../model/model-folder.ts';
import { withBackend } from '../model/open-backend.ts';
import { findModelPaths, type ModelPaths, openModel } from '../model/open-model.ts';
import { baseQuantization, describeQuantization, type QuantizationFlags } from '../model/quantization.ts';
import type { Output } from '../output.ts';

interface MergeFlags extends DeviceOptions, QuantizationFlags {
  readonly model?: string;
  readonly adapter?: string;
  readonly out: string;
  readonly into: MergeInto;
  readonly prompt?: readonly string[];
  readonly compare: boolean;
  readonly force?: boolean;
}

/** What a merge works with. */
interface Merge {
  readonly files: FileSystem;
  readonly output: Output;
  readonly backend: Backend;
  readonly paths: ModelPaths & { readonly adapterDir: string };
  readonly flags: MergeFlags;
}

const betweenLinesMs = 3000;

/** `lorikeet merge`: an adapter into a plain model folder. */
export function mergeCommand(begin: Begin): Command {
  const described = 'merge an adapter into its base: a folder that transformers loads';
  return withQuantization(withDevice(withModel(makeCommand('merge', described))))
    .requiredOption('-o, --out <dir>', 'folder to write')
    .addOption(
      new Option(
        '--into <way>',
        'original: the 16-bit weights; dequantized: the decoded weights of a quantized base; quantized: those, quantized anew',
      )
        .choices([...mergeWays])
        .default('original'),
    )
    .option('--prompt <text>', 'sample prompt to compare logits on; may be repeated (default: four)', collect)
    .option('--no-compare', 'do not compare: neither model is loaded, and memory stays below 1 GB')
    .option('--force', 'replace a model folder that is there')
    .action(async (flags: MergeFlags) => {
      const { files, output } = begin({ ...flags });
      if (flags.adapter === undefined)
        throw userError('merge: needs an adapter: none was given.', { fix: 'Add --adapter DIR.' });
      const found = await findModelPaths(files, flags);
      const paths = { ...found, adapterDir: found.adapterDir! };
      const out = resolve(flags.out);
      await checkModelTarget(files, out, [paths.modelDir, paths.adapterDir], flags.force ?? false);
      await checkBase(files, paths, flags.into);
      const report = await withBackend(flags, (backend) => write({ files, output, backend, paths, flags }, out));
      const { into } = flags;
      output.result({ command: 'merge', out, into, ...report });
      output.print(`Merged into ${out} (${into}, ${report.merged.length} layers):\n  ${report.files.join('\n  ')}`);
      if (report.logits) output.print(describe(report.logits));
    });
}

/** Before a model is loaded: the base is what the way of merging needs. */
async function checkBase(files: FileSystem, { modelDir, quantization }: ModelPaths, into: MergeInto): Promise<void> {
  await requireModelFolder(files, modelDir);
  const { config, stored } = await baseQuantization(files, modelDir, quantization);
  if (into === 'original' && stored)
    throw userError('--into original: must have the 16-bit weights: the folder is quantized.', {
      where: modelDir,
      found: describeQuantization(config!),
      fix: 'Give the folder of the 16-bit model with --model, or use --into dequantized or --into quantized.',
    });
  if (into !== 'original' && !config)
    throw userError(`--into ${into}: must have a quantized base: it is none.`, {
      where: modelDir,
      fix: 'Add --load-in-4bit if the adapter was trained so, or use --into original.',
    });
}

type Report = MergedCheckpoint & { readonly logits: LogitDifference | null };

const describe = ({ prompts, tokens, largest, mean, sameTop }: LogitDifference): string =>
  `Logits differ from base and adapter by ${largest.toPrecision(3)} at most, ${mean.toPrecision(3)} on average; the likeliest token is the same at ${(100 * sameTop).toFixed(1)} % of ${tokens} places (${prompts} prompts).`;

/** The whole folder, or nothing. */
async function write(merge: Merge, out: string): Promise<Report> {
  const { files, paths, flags } = merge;
  const before = flags.compare ? await logitsBefore(merge) : null;
  let report: Report | undefined;
  await files.makeDirectory(dirname(out));
  await writeDirectoryAtomic(files, out, async (draft) => {
    const made = await withExitCode(exitCodes.data, () => mergeInto(merge, draft));
    const copied = await copyCompanions(files, paths.modelDir, draft, modelCompanions);
    // The merged model speaks as it was trained to.
    copied.push(...(await copyCompanions(files, paths.adapterDir, draft, [chatTemplateName])));
    const logits = before && logitDifference(before.logits, await logitsAfter(merge, draft, before.tokenizer));
    report = { ...made, files: [...new Set([...made.files, ...copied])].sort(), logits };
  });
  return report!;
}

async function mergeInto({ files, output, backend, paths, flags }: Merge, draft: string): Promise<MergedCheckpoint> {
  const config = await readPhi3Config(files, paths.modelDir);
  const shapes = phi3Tensors(config);
  const linears = new Map(phi3Linears(config).map((path) => [path, shapes.get(`${path}.weight`)!]));
  const { config: quantization } = await baseQuantization(files, paths.modelDir, paths.quantization);
  let saidMs = performance.now();
  const onProgress = ({ done, total }: { readonly done: number; readonly total: number }): void => {
    if (performance.now() - saidMs < betweenLinesMs) return;
    saidMs = performance.now();
    output.progress(`merged: ${Math.round((100 * done) / Math.max(1, total))} %`);
  };
  const options = { backend, into: flags.into, linears, quantization, onProgress };
  return mergeCheckpoint(files, paths.modelDir, paths.adapterDir, draft, options);
}

/** Logits of the model as it was trained; null, with a note, where it does not fit into memory. */
async function logitsBefore({
  files,
  output,
  backend,
  paths,
  flags,
}: Merge): Promise<{ logits: SampleLogits; tokenizer: Tokenizer } | null> {
  try {
    const { model, tokenizer } = await openModel(files, paths, backend, output);
    using _ = model;
    const logits = await sampleLogits(model, tokenizer, flags.prompt ?? samplePrompts, 'the base with its adapter');
    return { logits, tokenizer };
  } catch (error) {
    if (!(error instanceof OutOfMemoryError)) throw error;
    output.note(`logits are not compared: ${error.message}`);
    return null;
  }
}

async function logitsAfter(
  { files, output, backend, flags }: Merge,
  draft: string,
  tokenizer: Tokenizer,
): Promise<SampleLogits> {
  const { linear } = await baseQuantization(files, draft, {});
  using model = await loadPhi3(files, draft, {
    ...(linear ? { linear } : {}),
    backend,
    warn: (message) => output.note(message),
  });
  return sampleLogits(model, tokenizer, flags.prompt ?? samplePrompts, 'the merged model');
}
