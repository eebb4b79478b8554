import { resolve } from 'node:path';
import type { Command } from 'commander';
import { type Begin, collect, type DeviceOptions, makeCommand, wholeNumber, withDevice } from '../command.ts';
import { loadConfig } from '../config/load-config.ts';
import { printConfig } from '../config/print-config.ts';
import type { ResolvedConfig } from '../config/schema.ts';
import { withBackend } from '../model/open-backend.ts';
import type { Output } from '../output.ts';
import { formatCount, formatDuration } from '../terminal/format.ts';
import { commandLine, shortPath } from '../terminal/shell.ts';
import { renderFields } from '../terminal/table.ts';
import { catchInterrupts } from '../training/interrupt.ts';
import { runTraining, summaryOf, type TrainingOutcome } from '../training/run-training.ts';

interface TrainOptions extends DeviceOptions {
  readonly config: string;
  readonly set: readonly string[];
  readonly resume?: string;
  readonly maxSteps?: number;
  readonly outputDir?: string;
  readonly dryRun?: boolean;
  readonly printConfig?: boolean;
}

/** `lorikeet train`: from a configuration to an adapter. */
export function trainCommand(begin: Begin): Command {
  return withDevice(makeCommand('train', 'fine-tune a model as a configuration says'))
    .requiredOption('-c, --config <file>', 'YAML configuration; lorikeet init writes one')
    .option('--set <section.key=value>', 'override a key; may be repeated', collect, [])
    .option('--resume <auto|dir>', 'continue from the newest checkpoint, or from this one')
    .option('--max-steps <n>', 'optimizer steps in all', wholeNumber(1))
    .option('--output-dir <dir>', 'where to write, instead of training.outputDir')
    .option('--dry-run', 'check everything and say what the run will cost; train nothing')
    .option('--print-config', 'print the configuration with every default and stop')
    .action(async (options: TrainOptions) => {
      const { files, output } = begin({ ...options });
      const { config, notes } = await loadConfig(files, options.config, overridesOf(options));
      for (const note of notes) output.note(note);
      if (options.printConfig) {
        output.print(printConfig(config).trimEnd());
        output.result({ command: 'train', config, notes });
        return;
      }
      using interrupt = catchInterrupts((signal) =>
        output.progress(`\n${signal}: saving a checkpoint after this step; once more to stop at once`),
      );
      const outcome = await withBackend(options, (backend) =>
        runTraining(config, {
          files,
          output,
          backend,
          signal: interrupt.signal,
          resume: options.resume === undefined || options.resume === 'auto' ? options.resume : resolve(options.resume),
          ...(options.dryRun ? { dryRun: true } : {}),
        }),
      );
      report(outcome, config, options, output);
    });
}

function overridesOf({ set, maxSteps, outputDir }: TrainOptions): string[] {
  return [
    ...set,
    ...(maxSteps === undefined ? [] : [`training.maxSteps=${maxSteps}`]),
    ...(outputDir === undefined ? [] : [`training.outputDir=${JSON.stringify(outputDir)}`]),
  ];
}

function resumeCommand(options: TrainOptions): string {
  const again = overridesOf(options).flatMap((text) => ['--set', text]);
  return commandLine(['train', '-c', options.config, ...again, '--resume', 'auto']);
}

function report(outcome: TrainingOutcome, config: ResolvedConfig, options: TrainOptions, output: Output): void {
  const resume = resumeCommand(options);
  const summary = summaryOf(outcome);
  output.result({ command: 'train', ...summary, ...(outcome.status === 'interrupted' ? { resume } : {}) });
  if (outcome.status === 'planned') {
    output.print('Nothing was trained (--dry-run).');
    return;
  }
  if (outcome.status === 'interrupted') {
    const saved = outcome.end?.lastCheckpoint;
    output.print(saved ? `Stopped after step ${outcome.step}; saved ${saved}.` : 'Stopped before the first step.');
    output.print(`Continue with:\n  ${resume}`);
    return;
  }
  const { end, adapter } = outcome;
  const loss = (value: number | undefined): string => (value === undefined ? '-' : value.toFixed(4));
  output.print(
    renderFields([
      ['steps', formatCount(outcome.step)],
      ['time', formatDuration(end!.elapsedMs)],
      ['training loss', `${loss(summary.firstLoss)} -> ${loss(summary.lastLoss)}`],
      ...(outcome.evalLoss === undefined
        ? []
        : ([
            [
              'held-out loss',
              `${loss(outcome.evalLoss)} (perplexity ${outcome.perplexity!.toFixed(2)}, token accuracy ${(outcome.tokenAccuracy! * 100).toFixed(1)} %)`,
            ],
          ] as const)),
      ['adapter', adapter!],
    ]),
  );
  output.print(nextSteps(outcome, config, options));
}

/** What a person does with an adapter, as command lines. */
function nextSteps(
  { adapter, format, evalRows }: TrainingOutcome,
  config: ResolvedConfig,
  { config: file }: TrainOptions,
): string {
  const { loadIn4bit, loadIn8bit } = config.quantization;
  // A run knows its base and how it was quantized; a base that is named is taken as it is stored.
  const base = loadIn4bit || loadIn8bit ? [] : ['-m', shortPath(config.model.path)];
  const tuned = [...base, '-a', shortPath(adapter!)];
  const steps = [
    ...(evalRows > 0
      ? [['Compare it with the base:', commandLine(['eval', '-c', file, '-a', shortPath(adapter!)])]]
      : []),
    format === 'text'
      ? ['Let it write:', commandLine(['generate', ...tuned, '--raw', '-p', 'Once'])]
      : ['Talk to it beside the base:', commandLine(['chat', '--compare', ...tuned])],
  ];
  return steps.map(([name, line]) => `\n${name}\n  ${line}`).join('');
}
