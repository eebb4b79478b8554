import type { Outcome, Problem } from './report.ts';
import type { Workspace } from './workspace.ts';

const maxBytes = 2 * 1024 * 1024;
/** The one large file that belongs into git: the demo's base model, which the demo must have without a network. */
const allowed = new Set(['packages/cli/assets/demo/base/model.safetensors']);

/** Keeps clones small: no large file but the demo's model. */
export function checkTrackedFiles(workspace: Workspace): Outcome {
  const problems = workspace.files
    .filter(({ path, sizeBytes }) => sizeBytes > maxBytes && !allowed.has(path))
    .map(({ path, sizeBytes }): Problem => {
      return { path, message: `${sizeBytes} bytes, at most ${maxBytes}: let a program make it, or cut it down` };
    });
  const total = workspace.files.reduce((sum, { sizeBytes }) => sum + sizeBytes, 0);
  return { problems, detail: `${(total / 1024 / 1024).toFixed(1)} MiB in ${workspace.files.length} files` };
}
