// `node tools/ci/main.ts REPORT...` prints `passed failed skipped` of Vitest's JSON reports, and what failed to stderr. A file in
// a later report takes the place of the same file in an earlier one.
import { readFileSync } from 'node:fs';
import { joined, sumUp } from './vitest-sums.ts';

try {
  const reports = process.argv.slice(2).map((path) => JSON.parse(readFileSync(path, 'utf8')));
  const { passed, failed, skipped, failures } = sumUp(joined(reports));
  for (const failure of failures) console.error(`failed: ${failure}`);
  console.log(passed, failed, skipped);
} catch (error) {
  console.error(`failed: no report of the tests: ${(error as Error).message}`);
  process.exitCode = 1;
}
