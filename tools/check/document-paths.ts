import { lineAt, type Outcome } from './report.ts';
import type { Workspace } from './workspace.ts';

/** Pages that describe the tree; a path in them that does not exist is a lie. */
const documents = ['ARCHITECTURE.md', 'CONTRIBUTING.md', 'README.md', 'README.ko.md', 'SECURITY.md'];
/** What programs make and git ignores. */
const made = /^(?:runs|dist|coverage|node_modules|benchmarks\/peers)(?:\/|$)/;
// In backticks or as the target of a link: a path with a folder in it, or a page at the root.
const path =
  /(?:`|\]\()(?<path>(?:[.\w-]+\/)+(?:[\w-]+(?:\.[\w-]+)+|\.?[\w-]+)?|[A-Z]+(?:\.ko)?\.md)(?:#[^)\s]*)?(?:`|\))/g;
const firstFolders = /^(?:packages|tools|conformance|benchmarks|examples|docs|\.ci|\.github)\//;

/** Checks that the files and folders named in the project's pages exist. */
export function checkDocumentPaths(workspace: Workspace): Outcome {
  const known = new Set<string>();
  for (const { path } of workspace.files) {
    for (let part = path; part !== ''; part = part.slice(0, Math.max(0, part.lastIndexOf('/')))) known.add(part);
  }
  const pages = workspace.files.filter((file) => documents.includes(file.path) && file.text !== undefined);
  const problems = pages.flatMap((page) =>
    [...page.text!.matchAll(path)].flatMap((found) => {
      const named = found.groups!.path!.replace(/^\.\//, '').replace(/\/$/, '');
      const isOurs = firstFolders.test(`${named}/`) || /^[A-Z]+(?:\.ko)?\.md$/.test(named);
      if (!isOurs || made.test(named) || known.has(named)) return [];
      return [
        { path: page.path, line: lineAt(page.text!, found.index), message: `names '${named}', which is not there` },
      ];
    }),
  );
  return { problems, detail: `${pages.length} pages` };
}
