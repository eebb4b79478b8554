import { resolve } from 'node:path';
import type { FileSystem } from '@lorikeet/files';
import type { Tokenizer } from '@lorikeet/tokenizer';
import { type ChatDataset, type LossOn, loadChatDataset, previewRow, tokenizeRows } from '@lorikeet/trainer';
import { type Command, Option } from 'commander';
import { type Begin, makeCommand, wholeNumber, withChatTemplate } from '../command.ts';
import { exitCodes, withExitCode } from '../errors.ts';
import { chatTemplateFlag, needsTemplate, requireTemplate } from '../model/chat-template.ts';
import { loadTokenizer, requireFile } from '../model/load-tokenizer.ts';
import type { Output } from '../output.ts';
import { formatCount } from '../terminal/format.ts';
import { renderFields } from '../terminal/table.ts';
import { defaultLossOn } from '../training/prepare-data.ts';

interface DataFlags {
  readonly model?: string;
  readonly chatTemplate?: string;
  readonly maxLength: number;
  readonly lossOn?: LossOn;
  readonly onBadRow: 'error' | 'skip';
  readonly rows: number;
  readonly tokens?: boolean;
}

const withData = (command: Command): Command =>
  withChatTemplate(command)
    .argument('<file>', 'file of rows: JSONL, JSON, or .txt of plain text')
    .option('-m, --model <dir>', 'model folder, for its tokenizer and chat template')
    .option('--max-length <n>', 'tokens; longer rows are cut', wholeNumber(2), 1024)
    .addOption(new Option('--loss-on <what>', 'which tokens are learned').choices(['all', 'completion', 'assistant']))
    .addOption(
      new Option('--on-bad-row <what>', 'refuse the file, or leave bad rows out')
        .choices(['error', 'skip'])
        .default('error'),
    );

/** `lorikeet data check|preview`: what training will see of a file. */
export function dataCommand(begin: Begin): Command {
  const check = withData(
    makeCommand('check', 'find every bad row of a file, and what tokenizing does to the others'),
  ).action(async (file: string, flags: DataFlags) => {
    const { files, output } = begin({ ...flags });
    const loaded = await load(files, file, flags);
    await reportCheck(loaded, flags, output);
  });
  const preview = withData(makeCommand('preview', 'show rows as the model sees them, learned text marked'))
    .option('--rows <n>', 'rows to show', wholeNumber(1), 3)
    .option('--tokens', 'show every token with its id')
    .action(async (file: string, flags: DataFlags) => {
      const { files, output } = begin({ ...flags });
      const loaded = await load(files, file, flags);
      await reportPreview(loaded, flags, output);
    });
  return makeCommand('data', 'look at a data file before training').addCommand(check).addCommand(preview);
}

interface Loaded {
  readonly dataset: ChatDataset;
  readonly tokenizer: Tokenizer | undefined;
  readonly lossOn: LossOn;
}

async function load(files: FileSystem, file: string, flags: DataFlags): Promise<Loaded> {
  const path = resolve(file);
  await requireFile(files, path, 'data');
  const choice = chatTemplateFlag(flags.chatTemplate);
  const tokenizer = flags.model === undefined ? undefined : await loadTokenizer(files, resolve(flags.model), choice);
  const dataset = await loadChatDataset(files, path, { onBadRow: flags.onBadRow });
  if (tokenizer && needsTemplate(dataset.rows)) requireTemplate(tokenizer, 'data', 'option');
  return { dataset, tokenizer, lossOn: flags.lossOn ?? defaultLossOn(dataset.rows[0]!) };
}

async function reportCheck(
  { dataset, tokenizer, lossOn }: Loaded,
  { maxLength }: DataFlags,
  output: Output,
): Promise<void> {
  const { path, format, rows, skipped } = dataset;
  const report =
    tokenizer &&
    (await withExitCode(exitCodes.data, () => tokenizeRows(rows, tokenizer, { lossOn, maxLength }))).report;
  output.result({
    command: 'data check',
    path,
    format,
    rows: rows.length,
    skipped: skipped.count,
    problems: skipped.problems,
    lossOn,
    ...(report ? { report } : {}),
  });
  output.print(
    renderFields([
      ['file', path],
      ['format', format],
      ['rows', formatCount(rows.length)],
      ...(skipped.count > 0 ? [['left out', formatCount(skipped.count)] as const] : []),
      ['learned', lossOn],
      ...(report
        ? ([
            ['tokens', `${formatCount(report.tokens)}, ${formatCount(report.trainedTokens)} of them learned`],
            ['longest row', `${formatCount(report.longestTokens)} tokens`],
          ] as const)
        : []),
    ]),
  );
  for (const { line, message } of skipped.problems) output.print(`left out ${path}:${line}: ${message}`);
  for (const warning of report?.warnings ?? []) output.note(warning);
  if (!report) output.print('\nWith --model DIR the rows are tokenized too.');
}

async function reportPreview({ dataset, tokenizer, lossOn }: Loaded, flags: DataFlags, output: Output): Promise<void> {
  const rows = dataset.rows.slice(0, flags.rows);
  if (!tokenizer) {
    output.result({ command: 'data preview', path: dataset.path, format: dataset.format, rows });
    for (const row of rows) output.print(JSON.stringify(row, undefined, 2));
    output.print('\nWith --model DIR the rows are shown as the model sees them.');
    return;
  }
  const previews = await withExitCode(exitCodes.data, () =>
    rows.map((row) => previewRow(row, tokenizer, { lossOn, maxLength: flags.maxLength })),
  );
  output.result({ command: 'data preview', path: dataset.path, format: dataset.format, lossOn, rows: previews });
  for (const { line, tokens, spans, trainedTokens } of previews) {
    output.print(output.style(`line ${line}: ${tokens.length} tokens, ${trainedTokens} learned`, 'bold'));
    if (flags.tokens)
      for (const token of tokens)
        output.print(
          `${token.trained ? '*' : ' '} ${String(token.id).padStart(6)}  ${token.token}${token.truncated ? '  (cut off)' : ''}`,
        );
    else output.print(spans.map(({ text, trained }) => markSpan(text, trained, output)).join(''));
    output.print();
  }
}

/** Learned text in green; in brackets where there are no colours. */
function markSpan(text: string, trained: boolean, output: Output): string {
  if (!trained) return text;
  return output.colors ? output.style(text, 'green') : `[[${text}]]`;
}
