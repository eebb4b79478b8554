import { resolve } from 'node:path';
import type { FileSystem } from '@lorikeet/files';
import { setAdapterEnabled } from '@lorikeet/lora';
import type { Tokenizer } from '@lorikeet/tokenizer';
import {
  type BootstrapDifference,
  bootstrapDifference,
  type Evaluation,
  loadChatDataset,
  type Row,
  tokenizeRows,
} from '@lorikeet/trainer';
import type { Command } from 'commander';
import { type Begin, type DeviceOptions, makeCommand, wholeNumber, withDevice, withModel } from '../command.ts';
import { loadConfig } from '../config/load-config.ts';
import { CliError, exitCodes, userError, withExitCode } from '../errors.ts';
import { type Answered, answerQuestions, questionOf } from '../model/exact-answers.ts';
import { requireFile } from '../model/load-tokenizer.ts';
import { withBackend } from '../model/open-backend.ts';
import { findModelPaths, type ModelPaths, type OpenedModel, openModel } from '../model/open-model.ts';
import type { Output } from '../output.ts';
import { formatPercent } from '../terminal/format.ts';
import { renderTable } from '../terminal/table.ts';
import { defaultLossOn, loadRows, runPaths } from '../training/prepare-data.ts';
import { evaluatePhi3 } from '../training/run-training.ts';

interface EvalFlags extends DeviceOptions {
  readonly config?: string;
  readonly model?: string;
  readonly adapter?: string;
  readonly data?: string;
  readonly exact?: boolean;
  readonly limit?: number;
  readonly maxLength?: number;
  readonly batchSize: number;
}

interface Subject {
  readonly paths: ModelPaths;
  readonly rows: readonly Row[];
  readonly dataPath: string;
  readonly maxLength: number;
  readonly lossOn: ReturnType<typeof defaultLossOn>;
}

/** `lorikeet eval`: base and tuned on the same held-out rows, with an interval of the difference. */
export function evalCommand(begin: Begin): Command {
  return withDevice(withModel(makeCommand('eval', 'compare base and tuned model on held-out rows')))
    .option('-c, --config <file>', 'configuration of the run: its model, its held-out rows, its adapter')
    .option('-d, --data <file>', 'held-out rows, instead of those of the configuration')
    .option('--exact', 'also generate every answer and count those that are exactly right')
    .option('--limit <n>', 'measure only the first rows', wholeNumber(1))
    .option(
      '--max-length <n>',
      'tokens; longer rows are cut (default: 1024, or that of the configuration)',
      wholeNumber(2),
    )
    .option('--batch-size <n>', 'rows of a batch', wholeNumber(1), 8)
    .action(async (flags: EvalFlags) => {
      const { files, output } = begin({ ...flags });
      const subject = await findSubject(files, flags, output);
      await withBackend(flags, async (backend) => {
        const opened = await openModel(files, subject.paths, backend, output);
        const result = await compare(opened, subject, flags, output);
        output.result({ command: 'eval', data: subject.dataPath, ...result.object });
        output.print(result.text);
      });
    });
}

async function findSubject(files: FileSystem, flags: EvalFlags, output: Output): Promise<Subject> {
  if (flags.config === undefined) {
    if (flags.data === undefined)
      throw userError('eval: needs held-out rows: none were given.', {
        fix: 'Add --data FILE, or -c CONFIG of a run.',
      });
    const dataPath = resolve(flags.data);
    await requireFile(files, dataPath, '--data');
    const { rows } = await loadChatDataset(files, dataPath);
    const paths = await findModelPaths(files, flags);
    return {
      paths,
      rows: rows.slice(0, flags.limit),
      dataPath,
      maxLength: flags.maxLength ?? 1024,
      lossOn: defaultLossOn(rows[0]!),
    };
  }
  const given = flags.data === undefined ? [] : [`data.eval=${JSON.stringify(flags.data)}`];
  const { config, notes } = await loadConfig(files, flags.config, given);
  for (const note of notes) output.note(note);
  const sets = await loadRows(files, config, output);
  if (sets.evaluation.length === 0)
    throw userError('eval: needs held-out rows: the configuration holds out none.', {
      where: flags.config,
      fix: 'Add --data FILE, or set data.eval.',
    });
  const { adapter } = runPaths(config.training.outputDir);
  const paths = await findModelPaths(files, {
    model: flags.model ?? config.model.path,
    adapter: flags.adapter ?? adapter,
  });
  return {
    paths,
    rows: sets.evaluation.slice(0, flags.limit),
    dataPath: sets.evalPath,
    maxLength: flags.maxLength ?? config.data.maxLength,
    lossOn: config.data.lossOn ?? defaultLossOn(sets.train[0]!),
  };
}

/** Both models on the same rows, or the base alone where there is no adapter. */
async function compare(opened: OpenedModel, subject: Subject, flags: EvalFlags, output: Output) {
  const { model, tokenizer, adapter } = opened;
  const { rows, maxLength, lossOn, dataPath } = subject;
  const { examples } = await withExitCode(exitCodes.data, async () =>
    tokenizeRows(rows, tokenizer, { maxLength, lossOn }),
  ).catch((error: Error) => {
    throw error instanceof CliError
      ? new CliError(exitCodes.data, error.message, { where: dataPath, cause: error })
      : error;
  });
  const measure = async (enabled: boolean): Promise<Measured> => {
    if (adapter) setAdapterEnabled(model, enabled);
    output.progress(`measuring the ${enabled ? 'tuned' : 'base'} model on ${examples.length} rows`);
    const evaluation = await evaluatePhi3(model, examples, flags.batchSize);
    return flags.exact ? { evaluation, answered: await answer(opened, rows, output) } : { evaluation };
  };
  const base = await measure(false);
  const tuned = adapter ? await measure(true) : undefined;
  return report(base, tuned);
}

interface Measured {
  readonly evaluation: Evaluation;
  readonly answered?: Answered;
}

async function answer(
  { model, tokenizer }: { model: OpenedModel['model']; tokenizer: Tokenizer },
  rows: readonly Row[],
  output: Output,
): Promise<Answered> {
  const questions = rows.flatMap((row) => questionOf(row, tokenizer) ?? []);
  if (questions.length === 0)
    throw userError('--exact: needs rows with an answer: these are plain text.', { fix: 'Leave out --exact.' });
  const onProgress = (done: number): void => {
    if (done % 50 === 0) output.progress(`answered ${done} of ${questions.length}`);
  };
  return withExitCode(exitCodes.user, () => answerQuestions(model, tokenizer, questions, { onProgress }));
}

const numbersOf = ({ evaluation: { evalLoss, perplexity, tokenAccuracy, tokens }, answered }: Measured) => ({
  loss: evalLoss,
  perplexity,
  tokenAccuracy,
  tokens,
  ...(answered ? { exactMatch: answered.exactMatch } : {}),
});

const intervalOf = ({ difference, low, high, confidence }: BootstrapDifference) => ({
  difference,
  low,
  high,
  confidence,
});

/** What a difference of a quantity means; an interval that holds zero means nothing. */
function verdictOf(
  { conclusive, difference }: BootstrapDifference,
  lowerIsBetter: boolean,
): 'better' | 'worse' | 'no measurable gain' {
  if (!conclusive) return 'no measurable gain';
  return difference < 0 === lowerIsBetter ? 'better' : 'worse';
}

function report(base: Measured, tuned: Measured | undefined) {
  const rows = base.evaluation.rows.length;
  if (!tuned) return { object: { rows, base: numbersOf(base) }, text: tableOf(base, undefined) };
  const loss = bootstrapDifference(base.evaluation.rows, tuned.evaluation.rows);
  const verdict = verdictOf(loss, true);
  const lines = [tableOf(base, tuned), '', intervalLine('loss', loss, verdict)];
  const object: Record<string, unknown> = {
    rows,
    base: numbersOf(base),
    tuned: numbersOf(tuned),
    lossDifference: intervalOf(loss),
    verdict,
  };
  if (base.answered && tuned.answered) {
    const exact = bootstrapDifference(base.answered.matches, tuned.answered.matches);
    object.exactMatchDifference = intervalOf(exact);
    object.exactMatchVerdict = verdictOf(exact, false);
    lines.push(intervalLine('exact match', exact, verdictOf(exact, false)));
  }
  return { object, text: lines.join('\n') };
}

function intervalLine(
  name: string,
  { difference, low, high, confidence }: BootstrapDifference,
  verdict: string,
): string {
  const signed = (value: number): string => `${value >= 0 ? '+' : ''}${value.toFixed(4)}`;
  return `${name}: ${signed(difference)}, ${Math.round(confidence * 100)} % interval ${signed(low)} to ${signed(high)}: ${verdict}`;
}

function tableOf(base: Measured, tuned: Measured | undefined): string {
  const cells = (pick: (measured: Measured) => string): string[] => [pick(base), ...(tuned ? [pick(tuned)] : [])];
  return renderTable(
    [
      { title: `${base.evaluation.rows.length} held-out rows` },
      { title: 'base', align: 'right' },
      ...(tuned ? [{ title: 'tuned', align: 'right' } as const] : []),
    ],
    [
      ['loss', ...cells(({ evaluation }) => evaluation.evalLoss.toFixed(4))],
      ['perplexity', ...cells(({ evaluation }) => evaluation.perplexity.toFixed(2))],
      ['token accuracy', ...cells(({ evaluation }) => formatPercent(evaluation.tokenAccuracy))],
      ...(base.answered ? [['exact match', ...cells(({ answered }) => formatPercent(answered!.exactMatch))]] : []),
    ],
  );
}
