import { fileURLToPath } from 'node:url';

const beside = (path: string): string => fileURLToPath(new URL(path, import.meta.url));

/** The program's own file, for processes that it starts: a source in the workspace, dist/main.js in the published bundle. */
export const entryPath: string = beside(import.meta.url.endsWith('.ts') ? './main.ts' : './main.js');

/** The demo's folder; src/ and dist/ stand beside it alike. */
export const demoAssetsPath: string = beside('../assets/demo');
