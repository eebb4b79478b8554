/** From files of rows to examples: read, split, tokenized, with everything worth knowing said. */
import { type FileSystem, joinPath } from '@lorikeet/files';
import type { Tokenizer } from '@lorikeet/tokenizer';
import {
  type ChatDataset,
  type Example,
  findOverlap,
  type LossOn,
  loadChatDataset,
  type Row,
  splitDataset,
  type TokenizeReport,
  tokenizeRows,
} from '@lorikeet/trainer';
import type { ResolvedConfig } from '../config/schema.ts';
import { CliError, exitCodes, withExitCode } from '../errors.ts';
import { needsTemplate, requireTemplate } from '../model/chat-template.ts';
import { requireFile } from '../model/load-tokenizer.ts';
import type { Output } from '../output.ts';

export interface RowSets {
  readonly train: readonly Row[];
  /** Empty when nothing is held out. */
  readonly evaluation: readonly Row[];
  readonly trainPath: string;
  /** The file of the held-out rows: the same as trainPath when they were taken out of it. */
  readonly evalPath: string;
  readonly format: ChatDataset['format'];
  readonly sha256: string;
  readonly evalSha256: string | null;
}

export interface PreparedData extends RowSets {
  readonly examples: readonly Example[];
  readonly evalExamples: readonly Example[];
  readonly lossOn: LossOn;
  readonly report: TokenizeReport;
}

/** What is learned where the configuration does not say: answers only, not what users wrote. */
export const defaultLossOn = (row: Row): LossOn =>
  row.kind === 'chat' ? 'assistant' : row.kind === 'prompt-completion' ? 'completion' : 'all';

/** Reads and splits the rows. The same configuration gives the same split, in train as in eval. */
export async function loadRows(
  files: FileSystem,
  { data }: Pick<ResolvedConfig, 'data'>,
  output: Output,
): Promise<RowSets> {
  await requireFile(files, data.train, 'data.train');
  const reading = { onBadRow: data.onBadRow, ...(data.sampleBy ? { sampleBy: data.sampleBy } : {}) };
  const options = { ...reading, ...(data.format ? { format: data.format } : {}) };
  const first = await loadOne(files, data.train, options, output);
  const common = { trainPath: data.train, format: first.format, sha256: first.sha256 };
  if (data.eval !== undefined) {
    await requireFile(files, data.eval, 'data.eval');
    const second = await loadOne(files, data.eval, reading, output);
    return {
      ...common,
      train: first.rows.slice(0, data.maxRows),
      evaluation: second.rows.slice(0, data.maxEvalRows),
      evalPath: data.eval,
      evalSha256: second.sha256,
    };
  }
  const { train, test } = splitRows(first.rows, data, output);
  return {
    ...common,
    train: train.slice(0, data.maxRows),
    evaluation: test.slice(0, data.maxEvalRows),
    evalPath: data.train,
    evalSha256: null,
  };
}

async function loadOne(
  files: FileSystem,
  path: string,
  options: Parameters<typeof loadChatDataset>[2],
  output: Output,
): Promise<ChatDataset> {
  const dataset = await loadChatDataset(files, path, options);
  const { count, problems } = dataset.skipped;
  if (count > 0)
    output.note(`${path}: left out ${count} bad rows; the first: line ${problems[0]!.line}: ${problems[0]!.message}`);
  return dataset;
}

function splitRows(rows: readonly Row[], { testSize, splitSeed }: ResolvedConfig['data'], output: Output) {
  if (testSize === 0) return { train: rows, test: [] };
  if (rows.length < 2) {
    output.note('there is one row: none is held out, so nothing will say whether the model learned more than that row');
    return { train: rows, test: [] };
  }
  const most = rows.length - 1;
  if (testSize > most)
    throw new CliError(
      exitCodes.user,
      `config: data.testSize must leave a row to train on: ${rows.length} rows, ${testSize} held out.`,
      {
        where: 'data.testSize',
        fix: 'Lower data.testSize, or give a file as data.eval.',
      },
    );
  return splitDataset(rows, { testSize: testSize < 1 ? testSize : Math.floor(testSize), seed: splitSeed });
}

/** All a training needs of its data. @throws DatasetError, CliError (exit code 3): they name lines and fields, never texts */
export async function prepareData(
  files: FileSystem,
  config: ResolvedConfig,
  tokenizer: Tokenizer,
  output: Output,
): Promise<PreparedData> {
  const sets = await loadRows(files, config, output);
  const lossOn = config.data.lossOn ?? defaultLossOn(sets.train[0]!);
  if (needsTemplate(sets.train) || needsTemplate(sets.evaluation)) requireTemplate(tokenizer, 'train', 'config');
  const { packing, packingStrategy } = config.data;
  const tokenize = (rows: readonly Row[], path: string, maxLength: number | null) =>
    withExitCode(exitCodes.data, async () => tokenizeRows(rows, tokenizer, { lossOn, maxLength })).catch(
      (error: Error) => {
        throw new CliError(exitCodes.data, `data: rows must suit the tokenizer and the options: ${error.message}`, {
          where: path,
          cause: error,
        });
      },
    );
  // Packing that cuts rows itself loses no token of them.
  const cutLater = packing && packingStrategy !== 'bfd';
  const { examples, report } = await tokenize(sets.train, sets.trainPath, cutLater ? null : config.data.maxLength);
  for (const warning of report.warnings) output.note(`${sets.trainPath}: ${warning}`);
  const evaluated =
    sets.evaluation.length > 0 ? await tokenize(sets.evaluation, sets.evalPath, config.data.maxLength) : undefined;
  noteOverlap(sets, output);
  return { ...sets, examples, evalExamples: evaluated?.examples ?? [], lossOn, report };
}

function noteOverlap({ train, evaluation, evalPath }: RowSets, output: Output): void {
  const { equalRows, equalPrompts } = findOverlap(train, evaluation);
  const [first] = equalRows;
  if (first)
    output.note(
      `${evalPath}: ${equalRows.length === 1 ? '1 held-out row is a training row' : `${equalRows.length} held-out rows are training rows`} too (line ${first[1]} is training line ${first[0]}): such results prove nothing`,
    );
  const [same] = equalPrompts;
  if (same)
    output.note(
      `${evalPath}: ${equalPrompts.length} held-out rows ask what a training row asks (line ${same[1]}, training line ${same[0]})`,
    );
}

/** Where a run writes. */
export const runPaths = (outputDir: string) => ({
  adapter: joinPath(outputDir, 'adapter'),
  log: joinPath(outputDir, 'log.jsonl'),
  summary: joinPath(outputDir, 'summary.json'),
});
