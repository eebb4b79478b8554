import { dirname, resolve } from 'node:path';
import { type FileSystem, writeDirectoryAtomic } from '@lorikeet/files';
import {
  type BitsAndBytesConfig,
  type ComputeDType,
  completeBitsAndBytesConfig,
  type QuantizedCheckpoint,
  quantizeCheckpoint,
} from '@lorikeet/lora';
import { phi3Linears, readPhi3Config } from '@lorikeet/phi3';
import { openCheckpoint } from '@lorikeet/safetensors';
import { showBytes } from '@lorikeet/trainer';
import { type Command, Option } from 'commander';
import { type Begin, collect, type DeviceOptions, makeCommand, numberWhere, withDevice } from '../command.ts';
import { exitCodes, userError, withExitCode } from '../errors.ts';
import { checkModelTarget, copyCompanions, modelCompanions, requireModelFolder } from '../model/model-folder.ts';
import { withBackend } from '../model/open-backend.ts';
import { describeQuantization, notesOnSkips } from '../model/quantization.ts';

interface QuantizeFlags extends DeviceOptions {
  readonly model: string;
  readonly out: string;
  readonly quantType: 'nf4' | 'fp4';
  readonly doubleQuant: boolean;
  readonly int8?: boolean;
  readonly skip?: readonly string[];
  readonly maxShardSize: number;
  readonly force?: boolean;
}

const betweenLinesMs = 3000;

/** `lorikeet quantize`: a 16-bit model folder into one of 4 bits (or 8), which loads faster and needs no second look. */
export function quantizeCommand(begin: Begin): Command {
  return withDevice(makeCommand('quantize', 'write a model folder in 4 bits (or 8), as bitsandbytes has it'))
    .requiredOption('-m, --model <dir>', 'folder of the 16-bit model')
    .requiredOption('-o, --out <dir>', 'folder to write')
    .addOption(
      new Option('--quant-type <name>', 'codes of 4 bits; nf4 suits normal weights')
        .choices(['nf4', 'fp4'])
        .default('nf4')
        .conflicts('int8'),
    )
    .option('--no-double-quant', 'keep the scales of 4-bit blocks in 32 bits: 4.5 bits a weight, not 4.13')
    .option('--int8', 'LLM.int8 instead of 4 bits')
    .option(
      '--skip <name>',
      'a linear that stays dense; may be repeated (default: lm_head, which it replaces)',
      collect,
    )
    .option(
      '--max-shard-size <GB>',
      'most gigabytes of a file',
      numberWhere((x) => x > 0, 'above 0'),
      5,
    )
    .option('--force', 'replace a model folder that is there')
    .action(async (flags: QuantizeFlags) => {
      const { files, output } = begin({ ...flags });
      const [from, out] = [resolve(flags.model), resolve(flags.out)];
      await requireModelFolder(files, from, '--model');
      await checkModelTarget(files, out, [from], flags.force ?? false);
      const linears = phi3Linears(await readPhi3Config(files, from));
      const config = await quantizationOf(files, from, flags);
      await withExitCode(exitCodes.user, async () => completeBitsAndBytesConfig(config));
      for (const note of notesOnSkips(linears, config)) output.note(note);
      await requireDisk(files, from, out);
      let saidMs = performance.now();
      const onProgress = ({ done, total }: { readonly done: number; readonly total: number }): void => {
        if (performance.now() - saidMs < betweenLinesMs) return;
        saidMs = performance.now();
        output.progress(`quantized: ${Math.round((100 * done) / total)} %`);
      };
      const report = await withBackend(flags, (backend) =>
        withExitCode(exitCodes.data, () =>
          write(files, from, out, (draft) =>
            quantizeCheckpoint(files, from, draft, config, {
              ...{ backend, linears, onProgress },
              maxShardBytes: flags.maxShardSize * 1e9,
            }),
          ),
        ),
      );
      output.result({ command: 'quantize', out, ...report });
      output.print(
        `Wrote ${out}: ${report.quantized.length} linears in ${describeQuantization(config)}, ${showBytes(report.bytesBefore)} are ${showBytes(report.bytesAfter)} now.`,
      );
    });
}

async function quantizationOf(files: FileSystem, from: string, flags: QuantizeFlags): Promise<BitsAndBytesConfig> {
  const skip = flags.skip ? { llmInt8SkipModules: flags.skip } : {};
  // Python computes in the dtype of the activations' model unless told otherwise: that of the weights.
  const [first] = (await openCheckpoint(files, from)).entries.values();
  const names: Readonly<Record<string, ComputeDType>> = { bf16: 'bfloat16', f16: 'float16' };
  const bnb4bitComputeDtype = names[first?.dtype ?? ''] ?? 'float32';
  if (flags.int8) return { loadIn8bit: true, bnb4bitComputeDtype, ...skip };
  const { quantType: bnb4bitQuantType, doubleQuant: bnb4bitUseDoubleQuant } = flags;
  return { loadIn4bit: true, bnb4bitQuantType, bnb4bitUseDoubleQuant, bnb4bitComputeDtype, ...skip };
}

/** The whole folder, or nothing. */
async function write(
  files: FileSystem,
  from: string,
  out: string,
  quantize: (draft: string) => Promise<QuantizedCheckpoint>,
): Promise<QuantizedCheckpoint> {
  let report: QuantizedCheckpoint | undefined;
  await files.makeDirectory(dirname(out));
  await writeDirectoryAtomic(files, out, async (draft) => {
    const made = await quantize(draft);
    const copied = await copyCompanions(files, from, draft, modelCompanions);
    report = { ...made, files: [...made.files, ...copied].sort() };
  });
  return report!;
}

/** @throws CliError (exit code 2) when the disk cannot hold the result and what is spooled for it, at most the source's size */
async function requireDisk(files: FileSystem, from: string, out: string): Promise<void> {
  const { entries } = await openCheckpoint(files, from);
  const most = [...entries.values()].reduce((sum, { byteLength }) => sum + byteLength, 0);
  const free = await files.freeBytes(dirname(out)).catch(() => undefined);
  if (free !== undefined && free < most)
    throw userError(`--out: the disk must have ${showBytes(most)} free: it has ${showBytes(free)}.`, {
      where: out,
      fix: 'Free some space, or choose another disk.',
    });
}
