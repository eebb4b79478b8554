import { expect, test } from 'vitest';
import { checkUnfinishedWork } from './unfinished-work.ts';
import { workspaceOf } from './workspace.ts';

const found = (text: string, path = 'a.ts') => checkUnfinishedWork(workspaceOf({ [path]: text })).problems;

// Joined at run time, so that this file is not found itself.
test.each([
  ['// TO', 'DO: later'],
  ['/* FIX', 'ME */'],
  ["throw new Error('not ", "implemented');"],
  ['it.', "skip('x', () => {});"],
  ['describe.', "only('x', () => {});"],
  ['test.', "todo('x');"],
])('%s%s is found', (start, end) => {
  expect(found(`const a = 1;\n${start}${end}`)).toEqual([expect.objectContaining({ path: 'a.ts', line: 2 })]);
});

test('a reason at run time and prose are allowed', () => {
  expect(found("it('x', (context) => context.skip('skipped: no adapter'));\ntest.skipIf(x)('y', f);")).toEqual([]);
  expect(found(['TO', 'DO'].join(''), 'notes.md')).toEqual([]);
});
