import { expect, test } from 'vitest';
import { checkFileNames } from './file-names.ts';
import { workspaceOf } from './workspace.ts';

const refused = (path: string) => checkFileNames(workspaceOf({ [path]: '' })).problems.length === 1;

test.each(['a/utils.ts', 'a/helpers/b.ts', 'common.test.ts', 'a/core.wgsl.ts', 'a/string-utils.ts', 'run-manager.ts'])(
  '%s is refused',
  (path) => expect(refused(path)).toBe(true),
);

test.each(['a/score.ts', 'a/longest-common-prefix.ts', '.gitignore', 'packages/nn/src/module.ts'])(
  '%s is allowed',
  (path) => expect(refused(path)).toBe(false),
);
