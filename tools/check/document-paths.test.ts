import { expect, test } from 'vitest';
import { checkDocumentPaths } from './document-paths.ts';
import { workspaceOf } from './workspace.ts';

const missing = (text: string) =>
  checkDocumentPaths(workspaceOf({ 'README.md': text, 'packages/nn/src/module.ts': '', 'LICENSE.md': '' })).problems;

test('a file, a folder and a link that do not exist fail', () => {
  expect(missing('# A\nsee `packages/nn/src/linear.ts`')).toEqual([
    { path: 'README.md', line: 2, message: "names 'packages/nn/src/linear.ts', which is not there" },
  ]);
  expect(missing('`examples/`')).toHaveLength(1);
  expect(missing('[how](CONTRIBUTING.md)')).toHaveLength(1);
  expect(missing('[how](docs/from-python.md#train)')).toHaveLength(1);
});

test('what exists, what programs make and what is no path of ours passes', () => {
  expect(missing('`packages/nn/src/module.ts` `packages/nn/` `packages` [l](LICENSE.md) [m](./LICENSE.md)')).toEqual(
    [],
  );
  expect(missing('`runs/demo/summary.json` `../shared/data` `@lorikeet/nn` `input/output` `tensor/testing`')).toEqual(
    [],
  );
});
