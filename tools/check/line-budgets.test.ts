import { expect, test } from 'vitest';
import { checkLineBudgets } from './line-budgets.ts';
import { workspaceOf } from './workspace.ts';

const manifest = { 'packages/a/package.json': '{"name":"a"}' };
const budgets = { maxFileLines: 3, maxSourceLines: { 'packages/a': 4 }, maxBundleGzipBytes: {} };
const messages = (texts: Record<string, string>, limits = budgets) =>
  checkLineBudgets(workspaceOf({ ...manifest, ...texts }), limits).problems.map(
    ({ path, message }) => `${path} ${message}`,
  );

test('a long file fails, a test file too', () => {
  expect(messages({ 'packages/a/b.test.ts': '1\n2\n3\n4\n' })).toEqual([
    'packages/a/b.test.ts 4 lines, at most 3: split it by meaning',
  ]);
  expect(messages({ 'packages/a/b.test.ts': '1\n2\n3\n' })).toEqual([]);
});

test('a package over its budget fails, its tests do not count', () => {
  const full = { 'packages/a/b.ts': '1\n2\n3', 'packages/a/c.ts': '1' };
  expect(messages({ ...full, 'packages/a/c.test.ts': '1' })).toEqual([]);
  expect(messages({ ...full, 'packages/a/d.ts': '1\n' })).toEqual([
    'packages/a/package.json packages/a has 5 lines of source, its budget is 4: cut, or raise',
  ]);
});

test('a folder without a budget and a budget without a folder fail', () => {
  expect(messages({}, { ...budgets, maxSourceLines: { 'packages/b': 4 } as never })).toEqual([
    'packages/a/package.json packages/a has no line budget: add it to tools/check/budgets.json',
    'tools/check/budgets.json no workspace folder packages/b: remove its budget',
  ]);
});
