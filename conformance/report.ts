import type { Finding } from './findings.ts';

/** What came of one case on one backend. */
export interface CaseResult {
  readonly family: string;
  readonly backend: string;
  readonly name: string;
  readonly op: string;
  readonly outcome: 'passed' | 'failed' | 'skipped';
  /** Why it failed or was skipped. */
  readonly reason?: string;
  readonly findings: readonly Finding[];
}

/** One row of the table: a family on a backend. */
export interface Row {
  readonly family: string;
  readonly backend: string;
  readonly cases: number;
  readonly passed: number;
  readonly failed: number;
  readonly skipped: number;
  readonly worstAbsolute: number;
  readonly worstRelative: number;
  /** Largest error as a part of its limit, and where. */
  readonly ofLimit: number;
  readonly where: string;
}

/** Sums the cases of each family and backend up, in order of appearance. */
export function rowsOf(results: readonly CaseResult[]): Row[] {
  const groups = Map.groupBy(results, (r) => `${r.family}\0${r.backend}`);
  return [...groups.values()].map((group) => {
    const all = group.flatMap((r) => r.findings.map((f) => ({ where: `${r.name}: ${f.what}`, ...f.difference })));
    const tightest = all.reduce((a, b) => (b.ofLimit > a.ofLimit ? b : a), { ofLimit: 0, where: '' });
    const count = (outcome: CaseResult['outcome']): number => group.filter((r) => r.outcome === outcome).length;
    return {
      family: group[0]!.family,
      backend: group[0]!.backend,
      cases: group.length,
      passed: count('passed'),
      failed: count('failed'),
      skipped: count('skipped'),
      worstAbsolute: Math.max(0, ...all.map((d) => d.worstAbsolute)),
      worstRelative: Math.max(0, ...all.map((d) => d.worstRelative)),
      ofLimit: tightest.ofLimit,
      where: tightest.where,
    };
  });
}

const short = (n: number): string => (n === 0 ? '0' : n.toExponential(1));

/** The table as lines, columns aligned. */
export function tableLines(rows: readonly Row[]): string[] {
  const head = ['family', 'backend', 'cases', 'passed', 'worst abs', 'worst rel', 'of limit', 'nearest to its limit'];
  const cells = rows.map((r) => [
    r.family,
    r.backend,
    String(r.cases),
    r.skipped === r.cases ? 'skipped' : String(r.passed),
    short(r.worstAbsolute),
    short(r.worstRelative),
    `${(r.ofLimit * 100).toFixed(0)} %`,
    r.where,
  ]);
  const widths = head.map((h, i) => Math.max(h.length, ...cells.map((row) => row[i]!.length)));
  const numeric = (i: number): boolean => i >= 2 && i <= 6;
  const line = (row: readonly string[]): string =>
    row
      .map((cell, i) => (numeric(i) ? cell.padStart(widths[i]!) : cell.padEnd(widths[i]!)))
      .join('  ')
      .trimEnd();
  return [line(head), ...cells.map(line)];
}

/** Each failed case: its reason, or the tensors out of bounds and their worst element. */
export function failureLines(results: readonly CaseResult[]): string[] {
  return results
    .filter((r) => r.outcome === 'failed')
    .flatMap((r) => {
      const wrong = r.findings.filter((f) => !f.difference.passed).map(describe);
      return [
        `FAILED ${r.family} on ${r.backend}: ${r.name}`,
        ...[...(r.reason ? [r.reason] : []), ...wrong].map((l) => `  ${l}`),
      ];
    });
}

function describe({ what, difference: { at, worstAbsolute, ofLimit } }: Finding): string {
  const place = at ? ` at ${at.index}: ${at.actual}, recorded ${at.expected}` : '';
  return `${what}${place}; worst absolute error ${short(worstAbsolute)}, ${ofLimit.toFixed(2)} times the limit`;
}
