import type { Outcome, Problem } from './report.ts';
import { isTest, manifestOf, sourceFiles, type Workspace } from './workspace.ts';

/** The size table, `budgets.json`. A commit may raise a number and says why in its message. */
export interface Budgets {
  /** Most lines of one file of code, tests included. */
  readonly maxFileLines: number;
  /** Most lines of source of a workspace folder, tests and benches excluded. */
  readonly maxSourceLines: Readonly<Record<string, number>>;
  /** Most gzipped bytes of a package's bundle for the browser. */
  readonly maxBundleGzipBytes: Readonly<Record<string, number>>;
}

const codeFile = /\.(?:ts|mts|js|mjs|py|sh)$/;

/** Holds every file and every workspace folder to its number of lines. */
export function checkLineBudgets(workspace: Workspace, budgets: Budgets): Outcome {
  const lines = sourceLines(workspace);
  const problems = [...longFiles(workspace, budgets.maxFileLines)];
  for (const [folder, count] of lines) {
    const path = `${folder}/package.json`;
    const most = budgets.maxSourceLines[folder];
    if (most === undefined) {
      problems.push({ path, message: `${folder} has no line budget: add it to tools/check/budgets.json` });
    } else if (count > most) {
      problems.push({ path, message: `${folder} has ${count} lines of source, its budget is ${most}: cut, or raise` });
    }
  }
  for (const folder of Object.keys(budgets.maxSourceLines)) {
    if (lines.has(folder)) continue;
    problems.push({ path: 'tools/check/budgets.json', message: `no workspace folder ${folder}: remove its budget` });
  }
  const total = [...lines.values()].reduce((sum, count) => sum + count, 0);
  return { problems, detail: `${total} lines of source in ${lines.size} folders` };
}

function longFiles(workspace: Workspace, maxFileLines: number): Problem[] {
  return workspace.files
    .filter(({ path, text }) => text !== undefined && codeFile.test(path))
    .map(({ path, text }) => ({ path, count: countLines(text!) }))
    .filter(({ count }) => count > maxFileLines)
    .map(({ path, count }) => ({ path, message: `${count} lines, at most ${maxFileLines}: split it by meaning` }));
}

/** Lines of source by workspace folder; the root's own files are configuration and not counted. */
function sourceLines(workspace: Workspace): Map<string, number> {
  const lines = new Map(workspace.manifests.filter(({ folder }) => folder !== '').map(({ folder }) => [folder, 0]));
  for (const { path, text } of sourceFiles(workspace)) {
    const folder = manifestOf(workspace, path)?.folder;
    if (folder === undefined || folder === '' || isTest(path)) continue;
    lines.set(folder, lines.get(folder)! + countLines(text));
  }
  return lines;
}

function countLines(text: string): number {
  return text === '' ? 0 : text.replace(/\n$/, '').split('\n').length;
}
