import { expect, test } from 'vitest';
import { joined, sumUp } from './vitest-sums.ts';

const file = (name: string, status: string, ...statuses: string[]) => ({
  name,
  status,
  message: 'a syntax error',
  assertionResults: statuses.map((each, index) => ({ status: each, fullName: `test ${index}` })),
});

test('passed, failed and skipped tests are told apart', () => {
  const report = {
    testResults: [file('a', 'passed', 'passed', 'skipped'), file('b', 'failed', 'passed', 'failed', 'pending')],
  };
  expect(sumUp(report)).toEqual({ passed: 2, failed: 1, skipped: 2, failures: ['b > test 1'] });
});

test('a file that did not load, or failed after its tests, is a failure', () => {
  expect(sumUp({ testResults: [file('a', 'failed'), file('b', 'failed', 'passed')] })).toEqual({
    passed: 1,
    failed: 2,
    skipped: 0,
    failures: ['a did not run: a syntax error', 'b did not run: a syntax error'],
  });
});

test('a file that ran again counts as it did the last time', () => {
  const first = { testResults: [file('a', 'passed', 'passed'), file('b', 'failed')] };
  const again = { testResults: [file('b', 'passed', 'passed', 'passed')] };
  expect(sumUp(joined([first, again]))).toMatchObject({ passed: 3, failed: 0 });
  expect(sumUp(joined([first]))).toMatchObject({ passed: 1, failed: 1 });
});
