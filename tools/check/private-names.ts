import { readdirSync } from 'node:fs';
import { homedir, tmpdir } from 'node:os';
import { basename, dirname, join } from 'node:path';
import { lineAt, type Outcome } from './report.ts';
import type { Workspace } from './workspace.ts';

// Classes of one letter keep the pattern from finding itself. A host in a lock file or a script ties the build to one
// mirror; the package manager of the machine knows which registry it uses.
const registryHosts =
  /registry\.n[p]mjs|n[p]mjs\.(?:org|com)|p[y]pi\.org|p[y]thonhosted|deb\.d[e]bian|c[r]ates\.io|proxy\.g[o]lang|repo1?\.m[a]ven/gi;
const homeFolders =
  /(?<![\w.$}~-])(?:\/h[o]me\/[a-z][\w-]*\/|\/U[s]ers\/[A-Za-z][\w-]*\/|\/r[o]ot\/|[A-Z]:\\U[s]ers\\)/g;

/** Refuses the addresses of package registries, and paths that exist on one machine only. */
export function checkPrivateNames(workspace: Workspace, machinePaths: readonly string[]): Outcome {
  const files = workspace.files.filter(({ text }) => text !== undefined);
  const rules = [
    { pattern: registryHosts, why: 'names a package registry: leave the choice to the package manager' },
    { pattern: homeFolders, why: 'is a path of one machine: make it relative' },
    ...machinePaths.map((path) => ({ pattern: pathPattern(path), why: 'is a path of this machine: make it relative' })),
  ];
  const problems = files.flatMap(({ path, text }) =>
    rules.flatMap(({ pattern, why }) =>
      [...text!.matchAll(pattern)].map((found) => ({
        path,
        line: lineAt(text!, found.index),
        message: `'${found[0]}' ${why}`,
      })),
    ),
  );
  return { problems, detail: `${files.length} files` };
}

/** The checkout, what lies beside it, and the home folder, as far as their paths are long enough to mean anything. */
export function machinePathsOf(root: string): string[] {
  const parent = dirname(root);
  const besides = parent === tmpdir() || dirname(parent) === parent ? [basename(root)] : readdirSync(parent);
  const paths = [...besides.map((name) => join(parent, name)), homedir()];
  return paths.filter((path) => path.length > 4).map((path) => path.replaceAll('\\', '/'));
}

function pathPattern(path: string): RegExp {
  return new RegExp(`(?<![\\w.])${RegExp.escape(path)}(?![\\w-])`, 'g');
}
