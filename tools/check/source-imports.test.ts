import { expect, test } from 'vitest';
import { sourceImports } from './source-imports.ts';

// Made at run time, so that the import rules do not take these fixtures for imports of this file.
const dynamic = (specifier: string) => `${'im'}port('${specifier}')`;
const found = (...lines: string[]) => sourceImports(lines.join('\n'));

test('static, side-effect, re-exporting, dynamic and built-in imports are found', () => {
  const imports = found(
    "import { a } from './a.ts';",
    'import {',
    '  b,',
    "} from '@lorikeet/nn';",
    "import './c.ts';",
    "export * from './d.ts';",
    "export { e } from './e.ts';",
    `  const f = await ${dynamic('webgpu')};`,
    "  const g = process.getBuiltinModule('node:fs');",
    "  const h = process.getBuiltinModule?.('node:os');",
  );
  expect(imports.map(({ specifier }) => specifier)).toEqual([
    './a.ts',
    '@lorikeet/nn',
    './c.ts',
    './d.ts',
    './e.ts',
    'webgpu',
    'node:fs',
    'node:os',
  ]);
  expect(imports.map(({ line }) => line)).toEqual([1, 2, 5, 6, 7, 8, 9, 10]);
  expect(imports.filter(({ via }) => via === 'getBuiltinModule')).toHaveLength(2);
});

test('only whole type imports are erased', () => {
  expect(found("import type { A } from 'a';", "export type { B } from 'b';").map((x) => x.typeOnly)).toEqual([
    true,
    true,
  ]);
  expect(found("import { type A } from 'a';", "import typeNames from 'b';").map((x) => x.typeOnly)).toEqual([
    false,
    false,
  ]);
});

test('imports in the place of a type are erased, with a promise they are not', () => {
  const typeOnly = (text: string) => found(text).map((x) => x.typeOnly);
  expect(typeOnly(`type A = typeof ${dynamic('a')};`)).toEqual([true]);
  expect(typeOnly(`type A = ${dynamic('a')}.Handle;`)).toEqual([true]);
  expect(typeOnly(`const a = ${dynamic('a')}.then(use);`)).toEqual([false]);
  expect(typeOnly(`const a = (await ${dynamic('a')}).Handle;`)).toEqual([false]);
});

test('comments and code that only looks alike are passed over', () => {
  expect(
    found(
      " * import { a } from 'a';",
      `// ${dynamic('b')}`,
      `/** {@link ${dynamic('c')}} */`,
      "export const from = 'd';",
      "export function f(x = 'e') {}",
    ),
  ).toEqual([]);
});
