/** The part of Vitest's JSON report that is read here. */
export interface VitestReport {
  readonly testResults: readonly {
    readonly name: string;
    readonly status: string;
    readonly message?: string;
    readonly assertionResults: readonly { readonly status: string; readonly fullName: string }[];
  }[];
}

/** Numbers of tests, and a line for each failure. */
export interface Sums {
  readonly passed: number;
  readonly failed: number;
  readonly skipped: number;
  readonly failures: readonly string[];
}

/** One report of several: a file in a later one takes the place of the same file in an earlier one. */
export function joined(reports: readonly VitestReport[]): VitestReport {
  const files = new Map(reports.flatMap(({ testResults }) => testResults.map((file) => [file.name, file])));
  return { testResults: [...files.values()] };
}

/** Sums a report up. A file that did not load has no tests, but is a failure all the same. */
export function sumUp({ testResults }: VitestReport): Sums {
  const failures: string[] = [];
  let passed = 0;
  let skipped = 0;
  for (const { name, status, message, assertionResults } of testResults) {
    const before = failures.length;
    for (const test of assertionResults) {
      if (test.status === 'passed') passed++;
      else if (test.status === 'failed') failures.push(`${name} > ${test.fullName}`);
      else skipped++;
    }
    if (status === 'failed' && failures.length === before)
      failures.push(`${name} did not run: ${message ?? 'no reason'}`);
  }
  return { passed, failed: failures.length, skipped, failures };
}
