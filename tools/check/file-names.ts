import type { Outcome, Problem } from './report.ts';
import type { Workspace } from './workspace.ts';

/** Drawers, not names: whatever lies in them could lie anywhere. */
const drawers = new Set(['utils', 'util', 'helpers', 'helper', 'common', 'misc', 'core', 'manager']);
/** Endings that make a drawer of any name: `string-utils`. */
const drawerEndings = /-(?:utils?|helpers?|misc|manager)$/;

/** Refuses files and folders whose name does not say what is in them. */
export function checkFileNames(workspace: Workspace): Outcome {
  const problems = workspace.files.flatMap(({ path }): Problem[] => {
    const drawer = path
      .split('/')
      .map((part) => part.replace(/(?<=.)\..*$/, ''))
      .find((stem) => drawers.has(stem) || drawerEndings.test(stem));
    if (drawer === undefined) return [];
    return [{ path, message: `'${drawer}' does not say what it holds: name it after its main export` }];
  });
  return { problems, detail: `${workspace.files.length} files` };
}
