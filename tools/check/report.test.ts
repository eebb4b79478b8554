import { expect, test } from 'vitest';
import { formatProblem, formatTable, lineAt } from './report.ts';

test('a problem reads as path, line, message', () => {
  expect(formatProblem({ path: 'a/b.ts', line: 3, message: 'no' })).toBe('a/b.ts:3  no');
  expect(formatProblem({ path: 'a/b.ts', message: 'no' })).toBe('a/b.ts  no');
});

test('the table marks what failed and counts it', () => {
  const table = formatTable([
    { name: 'types', problems: [], detail: '1 project', elapsedMs: 1234 },
    { name: 'names', problems: [{ path: 'x', message: 'y' }], detail: '2 files', elapsedMs: 10 },
  ]);
  expect(table.split('\n')).toEqual([
    'check  result  time   detail',
    'types  ok      1.2 s  1 project',
    'names  FAILED  0.0 s  1 found; 2 files',
  ]);
});

test('lines count from one', () => {
  expect([0, 1, 2, 3, 4].map((offset) => lineAt('a\nb\nc', offset))).toEqual([1, 1, 2, 2, 3]);
});
