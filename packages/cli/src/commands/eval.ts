import { resolve } from 'node:path';
import type { FileSystem } from '@lorikeet/files';
import { type BootstrapDifference, bootstrapDifference, loadChatDataset } from '@lorikeet/trainer';
import { type Command, Option } from 'commander';
import {
  type Begin,
  type DeviceOptions,
  makeCommand,
  wholeNumber,
  withChatTemplate,
  withDevice,
  withModel,
  withQuantization,
} from '../command.ts';
import { loadConfig } from '../config/load-config.ts';
import { userError } from '../errors.ts';
import { type AnswerRouge, rougeNumbers, rougeTypes } from '../model/answer-rouge.ts';
import { choosesTemplate } from '../model/chat-template.ts';
import { requireFile } from '../model/load-tokenizer.ts';
import { type HeldOut, type Measured, measureModel } from '../model/measure.ts';
import { withBackend } from '../model/open-backend.ts';
import { findModelPaths, type ModelPaths, openModel } from '../model/open-model.ts';
import type { QuantizationFlags } from '../model/quantization.ts';
import type { Output } from '../output.ts';
import { formatPercent } from '../terminal/format.ts';
import { renderTable } from '../terminal/table.ts';
import { showControls } from '../terminal/width.ts';
import { defaultLossOn, loadRows, runPaths } from '../training/prepare-data.ts';

interface EvalFlags extends DeviceOptions, QuantizationFlags {
  readonly config?: string;
  readonly model?: string;
  readonly adapter?: string;
  readonly data?: string;
  readonly chatTemplate?: string;
  readonly exact?: boolean;
  readonly rouge?: boolean;
  readonly samples: number;
  readonly only?: 'base' | 'tuned';
  readonly limit?: number;
  readonly maxLength?: number;
  readonly batchSize: number;
}

interface Subject extends HeldOut {
  readonly paths: ModelPaths;
}

/** `lorikeet eval`: base and tuned on the same held-out rows, with an interval of the difference. */
export function evalCommand(begin: Begin): Command {
  const command = makeCommand('eval', 'compare base and tuned model on held-out rows');
  return withChatTemplate(withQuantization(withDevice(withModel(command))))
    .option('-c, --config <file>', 'configuration of the run: its model, its held-out rows, its adapter')
    .option('-d, --data <file>', 'held-out rows, instead of those of the configuration')
    .option('--exact', 'also generate every answer and count those that are exactly right')
    .option('--rouge', 'also generate every answer and score it with ROUGE-1, -2, -L and -Lsum (words of a-z and 0-9)')
    .option('--samples <n>', 'with --exact or --rouge: answers to show', wholeNumber(0), 0)
    .addOption(new Option('--only <which>', 'measure one of the two').choices(['base', 'tuned']))
    .option('--limit <n>', 'measure only the first rows', wholeNumber(1))
    .option(
      '--max-length <n>',
      'tokens; longer rows are cut (default: 1024, or that of the configuration)',
      wholeNumber(2),
    )
    .option('--batch-size <n>', 'rows of a batch', wholeNumber(1), 8)
    .action(async (flags: EvalFlags) => {
      const { files, output } = begin({ ...flags });
      if (flags.samples > 0 && !flags.exact && !flags.rouge)
        throw userError('--samples: shows generated answers: add --exact or --rouge.', { where: '--samples' });
      const subject = await findSubject(files, flags, output);
      if (subject.paths.adapterDir === undefined && flags.only === 'tuned')
        throw userError('--only tuned: needs an adapter: none was given.', { fix: 'Add --adapter DIR.' });
      const [base, tuned] = await measureBoth(files, subject, flags, output);
      const { object, text } = report(base, tuned, flags, output.columns);
      output.result({ command: 'eval', data: subject.path, ...object });
      output.print(text);
    });
}

/** Model and rows: those of a configuration, or those of the options. */
async function findSubject(files: FileSystem, flags: EvalFlags, output: Output): Promise<Subject> {
  if (flags.config !== undefined) return subjectOfConfig(files, flags.config, flags, output);
  if (flags.data === undefined)
    throw userError('eval: needs held-out rows: none were given.', { fix: 'Add --data FILE, or -c CONFIG of a run.' });
  const path = resolve(flags.data);
  await requireFile(files, path, '--data');
  const { rows } = await loadChatDataset(files, path);
  const paths = await findModelPaths(files, flags);
  const { maxLength = 1024, limit } = flags;
  return { paths, rows: rows.slice(0, limit), path, maxLength, lossOn: defaultLossOn(rows[0]!) };
}

async function subjectOfConfig(files: FileSystem, file: string, flags: EvalFlags, output: Output): Promise<Subject> {
  const given = flags.data === undefined ? [] : [`data.eval=${JSON.stringify(flags.data)}`];
  const { config, notes } = await loadConfig(files, file, given);
  for (const note of notes) output.note(note);
  const sets = await loadRows(files, config, output);
  if (sets.evaluation.length === 0)
    throw userError('eval: needs held-out rows: the configuration holds out none.', {
      where: file,
      fix: 'Add --data FILE, or set data.eval.',
    });
  const adapter = flags.adapter ?? (flags.only === 'base' ? undefined : runPaths(config.training.outputDir).adapter);
  const paths = await findModelPaths(files, { ...flags, model: flags.model ?? config.model.path, adapter });
  const template = paths.template ?? (choosesTemplate(config.model) ? config.model : undefined);
  const quantization = { ...config.quantization, ...paths.quantization };
  return {
    paths: { ...paths, template, quantization },
    rows: sets.evaluation.slice(0, flags.limit),
    path: sets.evalPath,
    maxLength: flags.maxLength ?? config.data.maxLength,
    lossOn: config.data.lossOn ?? defaultLossOn(sets.train[0]!),
  };
}

async function measureBoth(files: FileSystem, subject: Subject, flags: EvalFlags, output: Output) {
  return withBackend(flags, async (backend): Promise<[Measured | undefined, Measured | undefined]> => {
    const opened = await openModel(files, subject.paths, backend, output);
    const measure = (tuned: boolean): Promise<Measured> =>
      measureModel(opened, subject, {
        batchSize: flags.batchSize,
        answers: (flags.exact || flags.rouge) ?? false,
        rouge: flags.rouge ?? false,
        tuned,
        onProgress: (line) => output.progress(line),
      });
    const base = flags.only === 'tuned' ? undefined : await measure(false);
    const tuned = opened.adapter && flags.only !== 'base' ? await measure(true) : undefined;
    return [base, tuned];
  });
}

/** The numbers of one model. */
const numbersOf = (measured: Measured, { exact }: EvalFlags) => {
  const { evalLoss, perplexity, tokenAccuracy, tokens } = measured.evaluation;
  return {
    loss: evalLoss,
    perplexity,
    tokenAccuracy,
    tokens,
    ...(exact ? { exactMatch: measured.answered!.exactMatch } : {}),
    ...(measured.rouge ? { rouge: rougeNumbers(measured.rouge) } : {}),
  };
};

const intervalOf = ({ difference, low, high, confidence }: BootstrapDifference) => ({
  difference,
  low,
  high,
  confidence,
});

type Verdict = 'better' | 'worse' | 'no measurable gain';

/** What a difference means; an interval that holds zero means nothing. */
function verdictOf({ conclusive, difference }: BootstrapDifference, lowerIsBetter: boolean): Verdict {
  if (!conclusive) return 'no measurable gain';
  return difference < 0 === lowerIsBetter ? 'better' : 'worse';
}

function report(base: Measured | undefined, tuned: Measured | undefined, flags: EvalFlags, columns: number) {
  const object: Record<string, unknown> = { rows: (base ?? tuned)!.evaluation.rows.length };
  if (base) object.base = numbersOf(base, flags);
  if (tuned) object.tuned = numbersOf(tuned, flags);
  const lines = [tableOf(base, tuned, flags)];
  if (base && tuned) {
    const loss = bootstrapDifference(base.evaluation.rows, tuned.evaluation.rows);
    const verdict = verdictOf(loss, true);
    Object.assign(object, { lossDifference: intervalOf(loss), verdict });
    lines.push('', intervalLine('loss', loss, verdict));
  }
  if (flags.exact && base?.answered && tuned?.answered) {
    const exact = bootstrapDifference(base.answered.matches, tuned.answered.matches);
    const verdict = verdictOf(exact, false);
    Object.assign(object, { exactMatchDifference: intervalOf(exact), exactMatchVerdict: verdict });
    lines.push(intervalLine('exact match', exact, verdict));
  }
  if (base?.rouge && tuned?.rouge) {
    const fmeasures = ({ rougeL: scores }: AnswerRouge) => scores.map(({ fmeasure }) => fmeasure);
    const rougeL = bootstrapDifference(fmeasures(base.rouge), fmeasures(tuned.rouge));
    const verdict = verdictOf(rougeL, false);
    Object.assign(object, { rougeLDifference: intervalOf(rougeL), rougeLVerdict: verdict });
    lines.push(intervalLine('ROUGE-L', rougeL, verdict));
  }
  const shown = samplesOf(base, tuned, flags.samples);
  if (shown.length > 0) {
    object.samples = shown;
    lines.push('', sampleTable(shown, columns));
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

function tableOf(base: Measured | undefined, tuned: Measured | undefined, { exact }: EvalFlags): string {
  const models = [base, tuned].filter((measured) => measured !== undefined);
  const titles = [...(base ? ['base'] : []), ...(tuned ? ['tuned'] : [])];
  const row = (name: string, pick: (measured: Measured) => string): string[] => [name, ...models.map(pick)];
  return renderTable(
    [
      { title: `${models[0]!.evaluation.rows.length} held-out rows` },
      ...titles.map((title) => ({ title, align: 'right' }) as const),
    ],
    [
      row('loss', ({ evaluation }) => evaluation.evalLoss.toFixed(4)),
      row('perplexity', ({ evaluation }) => evaluation.perplexity.toFixed(2)),
      row('token accuracy', ({ evaluation }) => formatPercent(evaluation.tokenAccuracy)),
      ...(exact ? [row('exact match', ({ answered }) => formatPercent(answered!.exactMatch))] : []),
      ...(models[0]!.rouge
        ? rougeTypes.map((type) =>
            row(`${type.replace('rouge', 'ROUGE-')} F1`, (m) => rougeNumbers(m.rouge!)[type]!.mid.toFixed(4)),
          )
        : []),
    ],
  );
}

/** A question with what was said to it. */
export interface Sample {
  readonly line: number;
  readonly prompt: string;
  readonly reference: string;
  readonly base?: string;
  readonly tuned?: string;
}

function samplesOf(base: Measured | undefined, tuned: Measured | undefined, count: number): Sample[] {
  const questions = (base ?? tuned)?.questions ?? [];
  return questions.slice(0, count).map(({ line, prompt, reference }, i) => ({
    line,
    prompt: prompt.at(-1)?.content ?? '',
    reference,
    ...(base ? { base: base.answered!.answers[i]! } : {}),
    ...(tuned ? { tuned: tuned.answered!.answers[i]! } : {}),
  }));
}

/** Dialogues side by side within a terminal's columns. */
function sampleTable(samples: readonly Sample[], columns: number): string {
  const named = (['base', 'tuned'] as const).filter((name) => samples[0]![name] !== undefined);
  const titles = ['asked', 'right', ...named];
  return renderTable(
    titles.map((title) => ({ title, maxColumns: Math.max(8, Math.floor((columns + 2) / titles.length) - 2) })),
    samples.map((sample) => [sample.prompt, sample.reference, ...named.map((name) => sample[name]!)].map(showControls)),
  );
}
