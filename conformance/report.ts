import { type Finding, passes } from './findings.ts';

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
  readonly elapsedMs: number;
}

/** A family that was not compared. */
export interface AbsentFamily {
  readonly name: string;
  readonly promise: string;
  /** `absent` where what it compares does not exist yet. */
  readonly reason: string;
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
  /** Of the tensors that PyTorch computed in f32 too: how many came nearer to f64 here than there. */
  readonly nearer: number;
  readonly withTorchError: number;
  /** Past their limit, and passed because PyTorch's f32 is further from f64. */
  readonly excused: number;
  readonly elapsedMs: number;
}

/** Sums the cases of each family and backend up, in order of appearance. */
export function rowsOf(results: readonly CaseResult[]): Row[] {
  const groups = Map.groupBy(results, (r) => `${r.family}\0${r.backend}`);
  return [...groups.values()].map((group) => {
    const all = group.flatMap((r) =>
      r.findings.map((f) => ({ where: `${r.name}: ${f.what}`, isNearer: isExcused(f), ...f.difference })),
    );
    const tightest = all
      .filter(({ isNearer }) => !isNearer)
      .reduce((a, b) => (b.ofLimit > a.ofLimit ? b : a), { ofLimit: 0, where: '' });
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
      ...nearness(group),
      elapsedMs: group.reduce((sum, r) => sum + r.elapsedMs, 0),
    };
  });
}

/** Tensors whose error against f64 is smaller than that of PyTorch's f32, and how many have one to compare with. */
function nearness(group: readonly CaseResult[]): Pick<Row, 'nearer' | 'withTorchError' | 'excused'> {
  const measured = group.flatMap((r) => r.findings.filter((f) => f.torchError !== undefined));
  const nearer = measured.filter((f) => f.difference.worstAbsolute < f.torchError!).length;
  return { nearer, withTorchError: measured.length, excused: measured.filter(isExcused).length };
}

const isExcused = (found: Finding): boolean => !found.difference.passed && passes(found);

const short = (n: number): string => (n === 0 ? '0' : n.toExponential(1));

const columns = [
  'family', 'backend', 'cases', 'passed', 'seconds', 'worst abs', 'worst rel', 'of limit', 'nearer than torch',
  'nearest to its limit',
] as const; // biome-ignore format: a list
const isNumeric = (column: number): boolean => column >= 2 && column <= 8;

/** The table as lines, columns aligned; families that were not compared stand below with their reason. */
export function tableLines(rows: readonly Row[], absent: readonly AbsentFamily[]): string[] {
  const cells = [...rows.map(cellsOf), ...absent.map(({ name, reason }) => [name, reason])];
  const widths = columns.map((head, i) => Math.max(head.length, ...rows.map((row) => cellsOf(row)[i]!.length)));
  const pad = (cell: string, i: number): string => (isNumeric(i) ? cell.padStart(widths[i]!) : cell.padEnd(widths[i]!));
  return [columns, ...cells].map((row) => row.map(pad).join('  ').trimEnd());
}

const cellsOf = (r: Row): string[] => [
  r.family,
  r.backend,
  String(r.cases),
  r.skipped === r.cases ? 'skipped' : String(r.passed),
  (r.elapsedMs / 1000).toFixed(1),
  short(r.worstAbsolute),
  short(r.worstRelative),
  `${(r.ofLimit * 100).toFixed(0)} %`,
  r.withTorchError === 0
    ? '-'
    : `${r.nearer} of ${r.withTorchError}${r.excused ? `, ${r.excused} past the limit` : ''}`,
  r.where,
];

/** Every reason why cases were skipped, with how many. */
export function skipLines(results: readonly CaseResult[]): string[] {
  const skipped = results.filter((r) => r.outcome === 'skipped');
  const groups = Map.groupBy(skipped, (r) => `${r.backend}: ${r.reason}`);
  return [...groups].map(([reason, cases]) => `skipped ${cases.length} on ${reason}`);
}

/** Each failed case: its reason, or the tensors out of bounds and their worst element. */
export function failureLines(results: readonly CaseResult[]): string[] {
  return results
    .filter((r) => r.outcome === 'failed')
    .flatMap((r) => {
      const wrong = r.findings.filter((f) => !passes(f)).map(describe);
      return [
        `FAILED ${r.family} on ${r.backend}: ${r.name}`,
        ...[...(r.reason ? [r.reason] : []), ...wrong].map((l) => `  ${l}`),
      ];
    });
}

function describe({ what, note, difference: { at, worstAbsolute, ofLimit } }: Finding): string {
  if (note !== undefined) return `${what}: ${note}`;
  const place = at ? ` at ${at.index}: ${at.actual}, recorded ${at.expected}` : '';
  return `${what}${place}; worst absolute error ${short(worstAbsolute)}, ${ofLimit.toFixed(2)} times the limit`;
}
