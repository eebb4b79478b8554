import { lineAt, type Outcome } from './report.ts';
import type { Workspace } from './workspace.ts';

const codeFile = /\.(?:ts|mts|js|mjs|wgsl|py|sh|ya?ml)$|^\.ci\//;

// Written with classes of one letter, so that the checker and its tests do not find themselves.
const marks: readonly { pattern: RegExp; message: string }[] = [
  { pattern: /\b(?:T[O]DO|F[I]XME|X[X]X)\b/g, message: 'says that work is left: do it, or make it a clear error' },
  { pattern: /\bn[o]t (?:yet )?implemented\b/gi, message: 'says that work is left: do it, or make it a clear error' },
  {
    pattern: /\b(?:it|test|describe|suite|bench)\.(?:s[k]ip|o[n]ly|t[o]do)\b(?!If)/g,
    message: 'runs less than all tests: take it out, or report the reason at run time with context.skip(reason)',
  },
];

/** Finds code that says it is not done, and tests that do not run. */
export function checkUnfinishedWork(workspace: Workspace): Outcome {
  const files = workspace.files.filter(({ path, text }) => text !== undefined && codeFile.test(path));
  const problems = files.flatMap(({ path, text }) =>
    marks.flatMap(({ pattern, message }) =>
      [...text!.matchAll(pattern)].map((found) => ({
        path,
        line: lineAt(text!, found.index),
        message: `'${found[0]}' ${message}`,
      })),
    ),
  );
  return { problems, detail: `${files.length} files of code` };
}
