import type { Outcome, Problem } from './report.ts';
import type { Workspace } from './workspace.ts';

const maxBytes = 2 * 1024 * 1024;
/** The one large file that belongs into git: the demo's base model, which the demo must have without a network. */
const allowed = new Set(['packages/cli/assets/demo/base/model.safetensors']);

/** What Python computed, for all families together. */
const recordings = { folder: 'conformance/recordings', maxBytes: 12 * 1024 * 1024 };

/** Keeps clones small: no large file but the demo's model, and few recordings. */
export function checkTrackedFiles(workspace: Workspace): Outcome {
  const recorded = sizeOf(workspace.files.filter(({ path }) => path.startsWith(`${recordings.folder}/`)));
  const problems = workspace.files
    .filter(({ path, sizeBytes }) => sizeBytes > maxBytes && !allowed.has(path))
    .map(({ path, sizeBytes }): Problem => {
      return { path, message: `${sizeBytes} bytes, at most ${maxBytes}: let a program make it, or cut it down` };
    });
  if (recorded > recordings.maxBytes)
    problems.push({
      path: recordings.folder,
      message: `${recorded} bytes in all, at most ${recordings.maxBytes}: record fewer or smaller cases`,
    });
  const total = sizeOf(workspace.files);
  return { problems, detail: `${(total / 1024 / 1024).toFixed(1)} MiB in ${workspace.files.length} files` };
}

const sizeOf = (files: Workspace['files']): number => files.reduce((sum, { sizeBytes }) => sum + sizeBytes, 0);
