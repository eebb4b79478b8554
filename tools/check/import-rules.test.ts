import { expect, test } from 'vitest';
import { checkImportRules } from './import-rules.ts';
import { workspaceOf } from './workspace.ts';

const manifests = {
  'package.json': '{"devDependencies":{"vitest":"1"}}',
  'packages/tensor/package.json': '{"name":"@lorikeet/tensor","peerDependencies":{"fast-check":"1"}}',
  'packages/cpu/package.json': '{"name":"@lorikeet/cpu","dependencies":{"@lorikeet/tensor":"1"}}',
  'packages/phi3/package.json':
    '{"name":"@lorikeet/phi3","dependencies":{"@lorikeet/nn":"1","@lorikeet/lora":"1"},"devDependencies":{"@lorikeet/cpu":"1"}}',
  'packages/trainer/package.json': '{"name":"@lorikeet/trainer","devDependencies":{"@lorikeet/tokenizer":"1"}}',
  'packages/cli/package.json': '{"name":"lorikeet","dependencies":{"@lorikeet/phi3":"1"}}',
  'examples/package.json': '{"name":"lorikeet-examples","dependencies":{"lorikeet":"1"}}',
};

const problems = (path: string, ...lines: string[]) =>
  checkImportRules(workspaceOf({ ...manifests, [path]: lines.join('\n') })).problems;

test.each([
  ['a backend below the tensor', 'packages/tensor/src/a.ts', "import { cpu } from '@lorikeet/cpu';", /may not import/],
  ['a node module in a browser package', 'packages/tensor/src/a.ts', "import fs from 'node:fs';", /runs in browsers/],
  ['the same without the prefix', 'packages/tensor/src/a.ts', "import fs from 'fs';", /runs in browsers/],
  ['the same by the back door', 'packages/tensor/src/a.ts', "process.getBuiltinModule('node:fs');", /runs in browsers/],
  ['a static node import in a backend', 'packages/cpu/src/a.ts', "import os from 'node:os';", /getBuiltinModule/],
  [
    'phi3 importing lora',
    'packages/phi3/src/a.ts',
    "import type { L } from '@lorikeet/lora';",
    /never import each other/,
  ],
  [
    'the same in a test',
    'packages/phi3/src/a.test.ts',
    "import { L } from '@lorikeet/lora';",
    /never import each other/,
  ],
  ['the command line', 'packages/phi3/src/a.ts', "import { main } from 'lorikeet';", /nobody imports/],
  ['an undeclared dependency', 'packages/cli/src/a.ts', "import { parse } from 'yaml';", /not declared/],
  ['a subpath of one', 'packages/cli/src/a.ts', "import { z } from 'zod/v4';", /'zod' is not declared/],
  ['a development dependency in source', 'packages/phi3/src/a.ts', "import { cpu } from '@lorikeet/cpu';", /may not/],
  [
    'more than types of the tokenizer',
    'packages/trainer/src/a.ts',
    "import { T } from '@lorikeet/tokenizer';",
    /types/,
  ],
  ['a path into another package', 'packages/cpu/src/a.ts', "import { t } from '../../tensor/src/t.ts';", /leaves/],
  ['its own name', 'packages/cpu/src/a.ts', "import { t } from '@lorikeet/cpu';", /relative path/],
])('%s is refused', (_, path, line, message) => {
  expect(problems(path, '', line)).toEqual([{ path, line: 2, message: expect.stringMatching(message) }]);
});

test.each([
  ['a lower package', 'packages/cpu/src/a.ts', "import { tensor } from '@lorikeet/tensor';"],
  ['node at run time in a backend', 'packages/cpu/src/a.ts', "process.getBuiltinModule('node:os');"],
  [
    'a backend and node in a test',
    'packages/phi3/src/a.test.ts',
    "import { cpu } from '@lorikeet/cpu';\nimport 'node:fs';",
  ],
  ['the test runner in a test', 'packages/cpu/src/a.test.ts', "import { test } from 'vitest';"],
  ['an optional peer', 'packages/tensor/src/testing/a.ts', "import fc from 'fast-check';"],
  ['types of the tokenizer', 'packages/trainer/src/a.ts', "import type { T } from '@lorikeet/tokenizer';"],
  ['a neighbour', 'packages/cpu/src/a/b.ts', "import { t } from '../t.ts';"],
  ['the command line in an example', 'examples/a.ts', "import { main } from 'lorikeet';"],
])('%s is allowed', (_, path, line) => {
  expect(problems(path, line)).toEqual([]);
});
