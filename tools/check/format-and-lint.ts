import { spawnSync } from 'node:child_process';
import { resolve } from 'node:path';
import type { Outcome, Problem } from './report.ts';

/** The part of Biome 2.6's json report that is read here; the version is pinned in package.json. */
interface BiomeReport {
  readonly summary: { readonly changed: number; readonly unchanged: number };
  readonly diagnostics: readonly {
    readonly message: string;
    readonly category: string;
    readonly location?: { readonly path?: string; readonly start?: { readonly line: number } };
  }[];
}

/** Runs Biome over `folder` with the tools of the checkout at `root`; a warning fails like an error. */
export function checkFormatAndLint(root: string, folder = root): Outcome {
  const biome = resolve(root, 'node_modules/@biomejs/biome/bin/biome');
  const options = ['check', '--reporter=json', '--diagnostic-level=warn', '--max-diagnostics=none'];
  const run = spawnSync(process.execPath, [biome, ...options], { cwd: folder, encoding: 'utf8', maxBuffer: 2 ** 28 });
  if (!run.stdout.startsWith('{')) {
    return {
      problems: [{ path: 'biome.json', message: `Biome did not run: ${run.stderr.trim()}` }],
      detail: 'no report',
    };
  }
  const { summary, diagnostics }: BiomeReport = JSON.parse(run.stdout);
  const problems = diagnostics.map(({ message, category, location }): Problem => {
    const path = location?.path ?? 'biome.json';
    if (category === 'format') return { path, message: 'is not formatted: run `biome check --write` on it' };
    return { path, line: location?.start?.line, message: `${category}: ${message}` };
  });
  problems.sort((a, b) => a.path.localeCompare(b.path, 'en') || (a.line ?? 0) - (b.line ?? 0));
  if (run.status !== 0 && problems.length === 0) {
    problems.push({ path: 'biome.json', message: `Biome failed with code ${run.status}: ${run.stderr.trim()}` });
  }
  return { problems, detail: `${summary.changed + summary.unchanged} files` };
}
