// `pnpm check`: everything that can be said about the workspace without running its tests.
import { resolve } from 'node:path';
import budgets from './budgets.json' with { type: 'json' };
import { checkBundleBudgets } from './bundle-budgets.ts';
import { checkDocumentPaths } from './document-paths.ts';
import { checkFileNames } from './file-names.ts';
import { checkFormatAndLint } from './format-and-lint.ts';
import { checkImportCycles } from './import-cycles.ts';
import { checkImportRules } from './import-rules.ts';
import { checkLineBudgets } from './line-budgets.ts';
import { checkPrivateNames, machinePathsOf } from './private-names.ts';
import { checkReadmeHeadings } from './readme-headings.ts';
import { formatProblem, formatTable, type Outcome, type Row } from './report.ts';
import { checkTrackedFiles } from './tracked-files.ts';
import { checkTypes } from './types.ts';
import { checkUnfinishedWork } from './unfinished-work.ts';
import { readWorkspace } from './workspace.ts';

const root = resolve(import.meta.dirname, '../..');
const workspace = readWorkspace(root);

const checks: Readonly<Record<string, () => Outcome | Promise<Outcome>>> = {
  'format and lint': () => checkFormatAndLint(root),
  types: () => checkTypes(root),
  'import rules': () => checkImportRules(workspace),
  'import cycles': () => checkImportCycles(workspace),
  'file names': () => checkFileNames(workspace),
  'line budgets': () => checkLineBudgets(workspace, budgets),
  'bundle budgets': () => checkBundleBudgets(root, budgets),
  'unfinished work': () => checkUnfinishedWork(workspace),
  'tracked files': () => checkTrackedFiles(workspace),
  'private names': () => checkPrivateNames(workspace, machinePathsOf(root)),
  'document paths': () => checkDocumentPaths(workspace),
  'README headings': () => checkReadmeHeadings(workspace),
};

const rows: Row[] = [];
for (const [name, check] of Object.entries(checks)) {
  const start = performance.now();
  const outcome = await check();
  rows.push({ name, ...outcome, elapsedMs: performance.now() - start });
  if (outcome.problems.length === 0) continue;
  console.log(`${name}:\n${outcome.problems.map((problem) => `  ${formatProblem(problem)}`).join('\n')}\n`);
}
console.log(formatTable(rows));
process.exitCode = rows.some(({ problems }) => problems.length > 0) ? 1 : 0;
