/**
 * Compares every backend with what PyTorch, transformers, PEFT, TRL, bitsandbytes and datasets computed.
 *
 *   pnpm conformance
 *   pnpm conformance --backend cpu --family ops --case softmax --recordings DIR --report FILE
 *   pnpm conformance --sensitivity
 *
 * Prints a table, writes conformance/report.json, exits with 1 when anything failed. With --sensitivity every recorded
 * result is moved a little, and a case passes when each of its comparisons notices.
 */
import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import { type Backend, memory } from '@lorikeet/tensor';
import { type BackendName, backendNames, openBackend } from './backends.ts';
import { families, familyOf, runsOn } from './families.ts';
import { type Finding, passes, SkipCase } from './findings.ts';
import { makeOpTable, opTableLines } from './op-table.ts';
import { unrecordedOps } from './ops.ts';
import { type Case, type Recording, readRecordings } from './recording.ts';
import { type AbsentFamily, type CaseResult, failureLines, rowsOf, skipLines, tableLines } from './report.ts';
import { disturbedFindings } from './sensitivity.ts';

interface Options {
  readonly backends: readonly BackendName[];
  readonly families: ReadonlySet<string> | undefined;
  readonly recordings: string;
  /** Only cases whose name holds this text. */
  readonly cases: string;
  readonly sensitivity: boolean;
  readonly report: string;
}

function readOptions(args: readonly string[]): Options {
  const { values } = parseArgs({
    args: [...args],
    options: {
      backend: { type: 'string', multiple: true },
      family: { type: 'string', multiple: true },
      recordings: { type: 'string' },
      case: { type: 'string' },
      sensitivity: { type: 'boolean' },
      report: { type: 'string' },
    },
  });
  const backends = values.backend ?? backendNames;
  for (const name of backends)
    if (!backendNames.includes(name as BackendName))
      throw new TypeError(`--backend: must be one of ${backendNames.join(', ')}: got ${name}.`);
  const names = families.map(({ name }) => name);
  for (const name of values.family ?? [])
    if (!names.includes(name)) throw new TypeError(`--family: must be one of ${names.join(', ')}: got ${name}.`);
  return {
    backends: backends as readonly BackendName[],
    families: values.family && new Set(values.family),
    recordings: values.recordings ?? join(import.meta.dirname, 'recordings'),
    cases: values.case ?? '',
    sensitivity: values.sensitivity ?? false,
    report: values.report ?? join(import.meta.dirname, 'report.json'),
  };
}

type Judged = { readonly findings: Finding[]; readonly passed: boolean; readonly reason?: string };

async function compared(recording: Recording, testCase: Case, backend: Backend): Promise<Judged> {
  const findings = await familyOf(recording.family).run!({ recording, testCase, backend });
  return { findings, passed: findings.every(passes) };
}

async function noticed(recording: Recording, testCase: Case, backend: Backend): Promise<Judged> {
  const run = familyOf(recording.family).run!;
  const made = await disturbedFindings(recording, (r) => run({ recording: r, testCase, backend }));
  const reason = `a wrong number goes unnoticed in ${made.unnoticed.join(', ')}`;
  return { findings: made.findings, passed: !made.unnoticed.length, ...(made.unnoticed.length ? { reason } : {}) };
}

async function runCase(
  recording: Recording,
  testCase: Case,
  backend: Backend,
  judge: typeof compared,
): Promise<CaseResult> {
  const { family } = recording;
  const where = familyOf(family).once ? 'host' : backend.name;
  const base = { family, backend: where, name: testCase.name, op: testCase.op };
  const before = memory(backend).liveTensors;
  const start = performance.now();
  const elapsedMs = () => performance.now() - start;
  try {
    const { findings, passed, ...why } = await judge(recording, testCase, backend);
    const leaked = memory(backend).liveTensors - before;
    const reason = leaked === 0 ? why : { reason: `${leaked} tensors are still alive after the case` };
    const outcome = passed && leaked === 0 ? 'passed' : 'failed';
    return { ...base, outcome, findings, elapsedMs: elapsedMs(), ...reason };
  } catch (error) {
    if (error instanceof SkipCase)
      return { ...base, outcome: 'skipped', findings: [], elapsedMs: elapsedMs(), reason: error.message };
    const reason = error instanceof Error ? (error.stack ?? error.message) : String(error);
    return { ...base, outcome: 'failed', findings: [], elapsedMs: elapsedMs(), reason };
  }
}

async function runBackend(name: BackendName, recordings: readonly Recording[], o: Options): Promise<CaseResult[]> {
  const own = recordings.filter(({ family }) => runsOn(familyOf(family), name));
  const all = own.flatMap((recording) =>
    recording.cases.filter((c) => c.name.includes(o.cases)).map((testCase) => ({ recording, testCase })),
  );
  const opened = await openBackend(name);
  if ('reason' in opened)
    return all.map(({ recording: { family }, testCase }) => {
      const { name: caseName, op } = testCase;
      return {
        family,
        backend: name,
        name: caseName,
        op,
        outcome: 'skipped',
        findings: [],
        elapsedMs: 0,
        reason: opened.reason,
      };
    });
  const results: CaseResult[] = [];
  try {
    for (const { recording, testCase } of all)
      results.push(await runCase(recording, testCase, opened.backend, o.sensitivity ? noticed : compared));
  } finally {
    await opened.backend.close();
  }
  return results;
}

/** Ops of the registry that no recording reaches: a hole in this table. Only all families together can show one. */
function holes(recordings: readonly Recording[], options: Options): string[] {
  const recorded = new Set(recordings.map((r) => r.family));
  const isWhole = families.every((f) => recorded.has(f.name) || recorded.has(f.recordedAs ?? '') || !f.run);
  if (!isWhole || options.cases) return [];
  return unrecordedOps(new Set(recordings.flatMap((r) => r.cases.map((c) => c.op))));
}

/** Families of the list that were not compared, and why. */
function absentFamilies(recordings: readonly Recording[], options: Options): AbsentFamily[] {
  const recorded = new Set(recordings.map((r) => r.family));
  return families
    .filter(({ name }) => !recorded.has(name) && (options.families?.has(name) ?? true))
    .map(({ name, promise, run }) => ({
      name,
      promise,
      reason: run ? `no recording in ${options.recordings}` : 'absent',
    }));
}

/** The table of ops and backends; a backend that refuses an op's own samples is a failure, not the end of the run. */
async function kernelCoverage(backends: readonly BackendName[]): Promise<{ lines: string[]; failed: number }> {
  try {
    return { lines: opTableLines(await makeOpTable(backends)), failed: 0 };
  } catch (error) {
    return { lines: [`FAILED the table of ops: ${(error as Error).message}`], failed: 1 };
  }
}

/** The recordings of the chosen families; one that is recorded as another reads that one's under its own name. */
async function readAll({ recordings, families: chosen }: Options): Promise<Recording[]> {
  const wanted = families.filter(({ name }) => chosen?.has(name) ?? true);
  const sources = chosen && new Set(wanted.map(({ name, recordedAs = name }) => recordedAs));
  const found = await readRecordings(recordings, sources);
  const borrowed = wanted.flatMap(({ name, recordedAs }) =>
    found.filter(({ family }) => family === recordedAs).map((recording) => ({ ...recording, family: name })),
  );
  return [...found.filter(({ family }) => chosen?.has(family) ?? true), ...borrowed];
}

async function main(args: readonly string[]): Promise<number> {
  const options = readOptions(args);
  const read = await readAll(options);
  const place = (r: Recording): number => families.indexOf(familyOf(r.family));
  const recordings = read.sort((a, b) => place(a) - place(b));
  const results: CaseResult[] = [];
  const perBackend = recordings.filter((r) => !familyOf(r.family).once);
  for (const [i, name] of options.backends.entries())
    results.push(...(await runBackend(name, i === 0 ? recordings : perBackend, options)));
  const missing = holes(recordings, options);
  const count = (outcome: CaseResult['outcome']): number => results.filter((r) => r.outcome === outcome).length;
  const report = {
    seeds: Object.fromEntries(recordings.map((r) => [r.family, r.seed])),
    packageVersions: Object.assign({}, ...recordings.map((r) => r.packageVersions)) as Record<string, string>,
    rows: rowsOf(results),
    absentFamilies: absentFamilies(recordings, options),
    unrecordedOps: missing,
    results,
  };
  const coverage = options.cases ? { lines: [], failed: 0 } : await kernelCoverage(options.backends);
  // A misspelt case must not look like one that passes.
  const nothing = results.length ? [] : ['FAILED nothing was compared: these options leave no case of the recordings'];
  const lines = [
    `against ${Object.entries(report.packageVersions)
      .map((pair) => pair.join(' '))
      .join(', ')}`,
    '',
    ...tableLines(report.rows, report.absentFamilies),
    '',
    ...failureLines(results),
    ...coverage.lines,
    '',
    ...missing.map((op) => `FAILED no recording reaches op ${op}: add a case, or a reason in conformance/ops.ts`),
    ...skipLines(results),
    ...nothing,
  ];
  for (const line of lines) console.log(line);
  await writeFile(options.report, `${JSON.stringify(report, null, 1)}\n`);
  const failed = count('failed') + missing.length + coverage.failed + nothing.length;
  console.log(`${count('passed')} passed, ${failed} failed, ${count('skipped')} skipped`);
  return failed === 0 ? 0 : 1;
}

process.exitCode = await main(process.argv.slice(2));
