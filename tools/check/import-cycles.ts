import { posix } from 'node:path';
import type { Outcome, Problem } from './report.ts';
import { sourceImports } from './source-imports.ts';
import { sourceFiles, type Workspace } from './workspace.ts';

/**
 * Finds circles of relative imports. Type-only imports do not count: they are gone when the program runs, and a circle
 * hurts only by the order in which modules are evaluated.
 */
export function checkImportCycles(workspace: Workspace): Outcome {
  const files = sourceFiles(workspace);
  const graph = new Map(
    files.map(({ path, text }) => [
      path,
      sourceImports(text)
        .filter(({ specifier, typeOnly }) => specifier.startsWith('.') && !typeOnly)
        .map(({ specifier, line }) => ({ target: posix.join(posix.dirname(path), specifier), line })),
    ]),
  );
  const problems: Problem[] = [];
  const done = new Set<string>();
  const trail: string[] = [];
  const visit = (path: string) => {
    trail.push(path);
    for (const { target, line } of graph.get(path) ?? []) {
      const start = trail.indexOf(target);
      if (start !== -1) problems.push({ path, line, message: describeCircle([...trail.slice(start), target]) });
      else if (graph.has(target) && !done.has(target)) visit(target);
    }
    trail.pop();
    done.add(path);
  };
  for (const path of graph.keys()) if (!done.has(path)) visit(path);
  return { problems, detail: `${files.length} files` };
}

function describeCircle(circle: readonly string[]): string {
  return `circular import: ${circle.join(' -> ')}. Move what both need into a file of its own`;
}
