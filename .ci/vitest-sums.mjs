// Prints `passed failed skipped` of a Vitest JSON report, and the names of what failed to standard error.
// A test file that could not be loaded has no tests, but is a failure all the same.
import { readFileSync } from 'node:fs';

const [path] = process.argv.slice(2);
let report;
try {
  report = JSON.parse(readFileSync(path, 'utf8'));
} catch (error) {
  console.error(`failed: no report of the tests: ${error.message}`);
  process.exit(1);
}
const tests = report.testResults.flatMap((file) => file.assertionResults);
const broken = report.testResults.filter((file) => file.status === 'failed' && !file.assertionResults.some(hasFailed));
for (const file of report.testResults) {
  for (const test of file.assertionResults.filter(hasFailed)) console.error(`failed: ${file.name} > ${test.fullName}`);
}
for (const file of broken) console.error(`failed: ${file.name} did not load: ${file.message}`);
const passed = tests.filter(({ status }) => status === 'passed').length;
const failed = tests.filter(hasFailed).length + broken.length;
console.log(passed, failed, tests.length - passed - tests.filter(hasFailed).length);

function hasFailed({ status }) {
  return status === 'failed';
}
