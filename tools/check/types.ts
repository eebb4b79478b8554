import { spawnSync } from 'node:child_process';
import { resolve } from 'node:path';
import type { Outcome, Problem } from './report.ts';

const errorLine = /^(?<path>[^\s(][^(\n]*)\((?<line>\d+),\d+\): error (?<message>TS\d+: .*)$/;

/** Runs the TypeScript compiler of the checkout at `root` on the project in `folder`. */
export function checkTypes(root: string, folder = root): Outcome {
  const compiler = resolve(root, 'node_modules/typescript/bin/tsc');
  const run = spawnSync(process.execPath, [compiler, '-p', '.', '--pretty', 'false'], {
    cwd: folder,
    encoding: 'utf8',
    maxBuffer: 2 ** 28,
  });
  const problems = run.stdout.split(/\r?\n/).flatMap((text): Problem[] => {
    const found = errorLine.exec(text)?.groups;
    return found ? [{ path: found.path!, line: Number(found.line), message: found.message! }] : [];
  });
  if (run.status !== 0 && problems.length === 0) {
    const message = `the compiler failed with code ${run.status}: ${run.stdout}${run.stderr}`.trim();
    problems.push({ path: 'tsconfig.json', message });
  }
  return { problems, detail: 'one project' };
}
