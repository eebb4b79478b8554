import { fileURLToPath } from 'node:url';

/** The program's own file, for processes that it starts: a source in the workspace, dist/main.js in the published bundle. */
export const entryPath: string = fileURLToPath(
  new URL(import.meta.url.endsWith('.ts') ? './main.ts' : './main.js', import.meta.url),
);
