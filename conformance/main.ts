/**
 * Compares every backend with what PyTorch, transformers, PEFT and loralib computed.
 *
 *   pnpm conformance
 *   pnpm conformance --backend cpu --family ops --recordings DIR
 *
 * Prints a table, writes conformance/report.json, exits with 1 when anything failed.
 */
import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import { type Backend, memory } from '@lorikeet/tensor';
import { type BackendName, backendNames, openBackend } from './backends.ts';
import { runners } from './families.ts';
import { makeOpTable, opTableLines } from './op-table.ts';
import { unrecordedOps } from './ops.ts';
import { type Recording, readRecordings } from './recording.ts';
import { type CaseResult, failureLines, rowsOf, tableLines } from './report.ts';

interface Options {
  readonly backends: readonly BackendName[];
  readonly families: ReadonlySet<string> | undefined;
  readonly recordings: string;
}

function readOptions(args: readonly string[]): Options {
  const { values } = parseArgs({
    args: [...args],
    options: {
      backend: { type: 'string', multiple: true },
      family: { type: 'string', multiple: true },
      recordings: { type: 'string' },
    },
  });
  const backends = values.backend ?? backendNames;
  for (const name of backends)
    if (!backendNames.includes(name as BackendName))
      throw new TypeError(`--backend: must be one of ${backendNames.join(', ')}: got ${name}.`);
  return {
    backends: backends as readonly BackendName[],
    families: values.family && new Set(values.family),
    recordings: values.recordings ?? join(import.meta.dirname, 'recordings'),
  };
}

async function runCase(recording: Recording, testCase: Recording['cases'][number], backend: Backend) {
  const base = { family: recording.family, backend: backend.name, name: testCase.name, op: testCase.op };
  const before = memory(backend).liveTensors;
  try {
    const findings = await runners[recording.family]!({ recording, testCase, backend });
    const leaked = memory(backend).liveTensors - before;
    const passed = leaked === 0 && findings.every((f) => f.difference.passed);
    const reason = leaked === 0 ? {} : { reason: `${leaked} tensors are still alive after the case` };
    return { ...base, outcome: passed ? 'passed' : 'failed', findings, ...reason } as const;
  } catch (error) {
    const reason = error instanceof Error ? (error.stack ?? error.message) : String(error);
    return { ...base, outcome: 'failed', findings: [], reason } as const;
  }
}

async function runBackend(name: BackendName, recordings: readonly Recording[]): Promise<CaseResult[]> {
  const all = recordings.flatMap((recording) => recording.cases.map((testCase) => ({ recording, testCase })));
  const opened = await openBackend(name);
  if ('reason' in opened)
    return all.map(({ recording: { family }, testCase }) => {
      const { name: caseName, op } = testCase;
      return { family, backend: name, name: caseName, op, outcome: 'skipped', findings: [], reason: opened.reason };
    });
  const results: CaseResult[] = [];
  try {
    for (const { recording, testCase } of all) results.push(await runCase(recording, testCase, opened.backend));
  } finally {
    await opened.backend.close();
  }
  return results;
}

/** Ops of the registry that no recording reaches: a hole in this table. */
function holes(recordings: readonly Recording[]): string[] {
  const ops = recordings.find((r) => r.family === 'ops');
  return ops ? unrecordedOps(new Set(ops.cases.map((c) => c.op))) : [];
}

async function main(args: readonly string[]): Promise<number> {
  const options = readOptions(args);
  const recordings = await readRecordings(options.recordings, options.families);
  const results: CaseResult[] = [];
  for (const name of options.backends) results.push(...(await runBackend(name, recordings)));
  const rows = rowsOf(results);
  const missing = holes(recordings);
  const count = (outcome: CaseResult['outcome']): number => results.filter((r) => r.outcome === outcome).length;
  const versions = recordings[0]?.packageVersions ?? {};
  console.log(
    `against ${Object.entries(versions)
      .map(([name, version]) => `${name} ${version}`)
      .join(', ')}\n`,
  );
  for (const line of [...tableLines(rows), '', ...failureLines(results)]) console.log(line);
  for (const line of [...opTableLines(await makeOpTable(options.backends)), '']) console.log(line);
  for (const name of missing)
    console.log(`FAILED no recording reaches op ${name}: add a case, or a reason in conformance/ops.ts`);
  for (const reason of new Set(results.flatMap((r) => (r.outcome === 'skipped' ? [`${r.backend}: ${r.reason}`] : []))))
    console.log(`skipped ${reason}`);
  const failed = count('failed') + missing.length;
  const report = { packageVersions: versions, rows, unrecordedOps: missing, results };
  await writeFile(join(import.meta.dirname, 'report.json'), `${JSON.stringify(report, null, 1)}\n`);
  console.log(`${count('passed')} passed, ${failed} failed, ${count('skipped')} skipped`);
  return failed === 0 ? 0 : 1;
}

process.exitCode = await main(process.argv.slice(2));
