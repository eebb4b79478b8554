import fc from 'fast-check';
import { expect, test } from 'vitest';
import { checkImportCycles } from './import-cycles.ts';
import { workspaceOf } from './workspace.ts';

const importing = (...names: string[]) => names.map((name) => `import { x } from './${name}.ts';`).join('\n');

test('a circle is found and told in full', () => {
  const { problems } = checkImportCycles(
    workspaceOf({ 'p/a.ts': importing('b'), 'p/b.ts': importing('d', 'c'), 'p/c.ts': importing('a'), 'p/d.ts': '' }),
  );
  expect(problems).toEqual([
    { path: 'p/c.ts', line: 1, message: expect.stringContaining('p/a.ts -> p/b.ts -> p/c.ts -> p/a.ts') },
  ]);
});

test('a file that imports itself is a circle', () => {
  expect(checkImportCycles(workspaceOf({ 'a.ts': importing('a') })).problems).toHaveLength(1);
});

test('types may point back', () => {
  const back = "import type { X } from './a.ts';";
  expect(checkImportCycles(workspaceOf({ 'a.ts': importing('b'), 'b.ts': back })).problems).toEqual([]);
});

test('imports that only go down never make a circle, one edge up does', () => {
  const edges = fc.uniqueArray(fc.tuple(fc.nat(7), fc.nat(7)), { maxLength: 20, selector: String });
  const problemsOf = (pairs: [number, number][]) => {
    const targets = (file: number) => pairs.filter(([from]) => from === file).map(([, to]) => `f${to}`);
    const texts = Array.from({ length: 8 }, (_, file) => [`f${file}.ts`, importing(...targets(file))]);
    return checkImportCycles(workspaceOf(Object.fromEntries(texts))).problems;
  };
  fc.assert(
    fc.property(edges, (pairs) => {
      const down = pairs.filter(([from, to]) => from < to);
      expect(problemsOf(down)).toEqual([]);
      if (down.length > 0) expect(problemsOf([...down, [down[0]![1], down[0]![0]]])).not.toEqual([]);
    }),
  );
});
