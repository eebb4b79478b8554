import { spawn } from 'node:child_process';
import { resolve } from 'node:path';
import { type FileSystem, joinPath, writeAtomic, writeJson } from '@lorikeet/files';
import type { Command } from 'commander';
import { type Begin, collect, type DeviceOptions, makeCommand, withDevice } from '../command.ts';
import { loadConfig } from '../config/load-config.ts';
import type { ResolvedConfig } from '../config/schema.ts';
import { type DemoReport, type Dialogue, renderDemoHtml, renderDemoText } from '../demo/demo-report.ts';
import { demoAssetsPath, entryPath } from '../entry.ts';
import { CliError, type ErrorObject, exitCodes } from '../errors.ts';
import { type Measured, measureModel } from '../model/measure.ts';
import { withBackend } from '../model/open-backend.ts';
import { openModel } from '../model/open-model.ts';
import type { Output } from '../output.ts';
import { formatPercent } from '../terminal/format.ts';
import { commandLine, shortPath } from '../terminal/shell.ts';
import { catchInterrupts } from '../training/interrupt.ts';
import { defaultLossOn, loadRows } from '../training/prepare-data.ts';
import { runTraining, type TrainingOutcome } from '../training/run-training.ts';
import type { Sample } from './eval.ts';

interface DemoFlags extends DeviceOptions {
  readonly outputDir: string;
  readonly set: readonly string[];
}

const shownDialogues = 3;
const evalBatchRows = 16;

/** `lorikeet demo`: before, a fine-tuning, after. Needs nothing but this package. */
export function demoCommand(begin: Begin): Command {
  return withDevice(makeCommand('demo', 'a whole fine-tuning in two minutes: before, training, after'))
    .option('--output-dir <dir>', 'where to write', 'runs/demo')
    .option('--set <section.key=value>', 'override a key of its configuration; may be repeated', collect, [])
    .action(async (flags: DemoFlags) => {
      const { files, output } = begin({ ...flags });
      const outputDir = `training.outputDir=${JSON.stringify(resolve(flags.outputDir))}`;
      const overrides = ['training.overwriteOutputDir=true', outputDir, ...flags.set];
      const { config } = await loadConfig(files, joinPath(demoAssetsPath, 'config.yaml'), overrides);
      await runDemo(files, config, flags, output);
    });
}

async function runDemo(files: FileSystem, config: ResolvedConfig, flags: DemoFlags, output: Output): Promise<void> {
  const { outputDir } = config.training;
  output.print(output.style('1. Before: what the base model makes of requests it has never seen', 'bold'));
  const before = await measureBase(files, config, flags, output);
  output.print(
    `   ${formatPercent(before.answered!.exactMatch)} of ${before.questions!.length} answered exactly right\n`,
  );
  output.print(output.style('2. Fine-tuning with LoRA', 'bold'));
  const outcome = await trainDemo(files, config, flags, output);
  if (outcome.status !== 'finished') {
    output.result({ command: 'demo', status: outcome.status, step: outcome.step });
    output.print(`Stopped after step ${outcome.step}. Begin again with: ${commandLine(['demo'])}`);
    return;
  }
  output.print(output.style('\n3. After: the saved adapter, measured in a new process', 'bold'));
  const after = await measureInNewProcess(config, outcome.adapter!, flags, output);
  const report = makeReport(config, before, outcome, after);
  await writeJson(files, joinPath(outputDir, 'summary.json'), report.summary);
  const page = joinPath(outputDir, 'report.html');
  await writeAtomic(files, page, renderDemoHtml(report));
  output.result({ command: 'demo', status: 'finished', ...report.summary, dialogues: report.dialogues, report: page });
  output.print(`\n${renderDemoText(report, output.columns)}`);
  output.print(
    `\nadapter  ${shortPath(outcome.adapter!)}\nreport   ${shortPath(page)}\n\nTalk to it beside the base:\n  ${report.chatCommand}`,
  );
}

/** The base on the held-out requests. */
async function measureBase(
  files: FileSystem,
  config: ResolvedConfig,
  flags: DemoFlags,
  output: Output,
): Promise<Measured> {
  const { evaluation, evalPath, train } = await loadRows(files, config, output);
  const heldOut = {
    rows: evaluation,
    path: evalPath,
    lossOn: config.data.lossOn ?? defaultLossOn(train[0]!),
    maxLength: config.data.maxLength,
  };
  return withBackend(flags, async (backend) => {
    const { model, quantization } = config;
    const opened = await openModel(
      files,
      { modelDir: model.path, adapterDir: undefined, quantization },
      backend,
      output,
    );
    return measureModel(opened, heldOut, { batchSize: evalBatchRows, answers: true, tuned: false });
  });
}

async function trainDemo(
  files: FileSystem,
  config: ResolvedConfig,
  flags: DemoFlags,
  output: Output,
): Promise<TrainingOutcome> {
  using interrupt = catchInterrupts((signal) =>
    output.progress(`\n${signal}: stopping after this step; once more to stop at once`),
  );
  // Awaited here: the signals are caught until this function ends.
  return await withBackend(flags, (backend) =>
    runTraining(config, { files, output, backend, signal: interrupt.signal }),
  );
}

interface EvalResult {
  readonly tuned: { readonly loss: number; readonly exactMatch: number };
  readonly samples: readonly Sample[];
}

/** Runs `lorikeet eval` on what lies on the disk: nothing of this process can help it. The run's folder knows its base. */
async function measureInNewProcess(
  config: ResolvedConfig,
  adapter: string,
  flags: DemoFlags,
  output: Output,
): Promise<EvalResult> {
  const { data } = config;
  const options = [
    '--adapter', adapter, '--data', data.eval!, '--only', 'tuned', '--exact',
    '--samples', '1000000', '--batch-size', `${evalBatchRows}`, '--max-length', `${data.maxLength}`, '--device', flags.device,
    ...(flags.threads === undefined ? [] : ['--threads', `${flags.threads}`]),
  ]; // biome-ignore format: a command line
  const child = spawn(process.execPath, [entryPath, 'eval', ...options, '--json'], {
    stdio: ['ignore', 'pipe', 'pipe'],
  });
  const texts = { stdout: '', stderr: '' };
  child.stdout.setEncoding('utf8').on('data', (text: string) => (texts.stdout += text));
  child.stderr.setEncoding('utf8').on('data', (text: string) => (texts.stderr += text));
  const code = await new Promise<number | null>((done, failed) => child.once('error', failed).once('close', done));
  if (code !== 0) throw childError(code, texts.stdout, texts.stderr);
  if (output.verbose) output.progress(texts.stderr.trimEnd());
  return JSON.parse(texts.stdout) as EvalResult;
}

function childError(code: number | null, stdout: string, stderr: string): CliError {
  const known = Object.values(exitCodes).find((value) => value === code);
  try {
    const { message } = (JSON.parse(stdout) as ErrorObject).error;
    return new CliError(known ?? exitCodes.internal, `demo: measuring the adapter failed: ${message}`);
  } catch {
    return new CliError(
      exitCodes.internal,
      `demo: measuring the adapter ended with code ${code}: ${stderr.trim().slice(-500)}`,
    );
  }
}

function makeReport(config: ResolvedConfig, before: Measured, outcome: TrainingOutcome, after: EvalResult): DemoReport {
  const { end, adapter } = outcome;
  const chat = ['chat', '--compare', '-m', shortPath(config.model.path), '-a', shortPath(adapter!)];
  return {
    summary: {
      evalLossBefore: before.evaluation.evalLoss,
      evalLossAfter: after.tuned.loss,
      exactMatchBefore: before.answered!.exactMatch,
      exactMatchAfter: after.tuned.exactMatch,
      heldOutRequests: before.questions!.length,
      trainableParameters: outcome.trainableParameters,
      steps: outcome.step,
      tokensPerSecond: end!.tokensPerSecond,
      seconds: end!.elapsedMs / 1000,
      peakBytes: process.resourceUsage().maxRSS * 1024,
      adapter: adapter!,
    },
    dialogues: dialoguesOf(before, after),
    losses: outcome.losses,
    chatCommand: commandLine(chat),
  };
}

/** The first requests of as many kinds as can be: those whose right answers begin differently. */
function dialoguesOf(before: Measured, { samples }: EvalResult): Dialogue[] {
  const kindOf = ({ reference }: Sample): string => reference.split(/[^\w]/)[0] ?? '';
  const kinds = new Set<string>();
  const first = samples.filter((sample) => !kinds.has(kindOf(sample)) && kinds.add(kindOf(sample)));
  return [...first, ...samples].slice(0, shownDialogues).map((sample) => ({
    prompt: sample.prompt,
    reference: sample.reference,
    before: before.answered!.answers[before.questions!.findIndex(({ line }) => line === sample.line)]!,
    after: sample.tuned!,
  }));
}
