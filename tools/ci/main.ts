// `node tools/ci/main.ts REPORT` prints `passed failed skipped` of a Vitest JSON report, and what failed to stderr.
import { readFileSync } from 'node:fs';
import { sumUp } from './vitest-sums.ts';

const [path] = process.argv.slice(2);
try {
  const { passed, failed, skipped, failures } = sumUp(JSON.parse(readFileSync(path!, 'utf8')));
  for (const failure of failures) console.error(`failed: ${failure}`);
  console.log(passed, failed, skipped);
} catch (error) {
  console.error(`failed: no report of the tests: ${(error as Error).message}`);
  process.exitCode = 1;
}
