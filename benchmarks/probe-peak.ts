/**
 * `node benchmarks/probe-peak.ts [--threads N,M] [--rounds N]`: the limits that the bench probes, beside a C program that does the
 * same, compiled with this machine's cc (`probe-peak.c`; Debian: apt-get install gcc). Both take turns; best of all rounds.
 */
import { execFileSync, spawnSync } from 'node:child_process';
import { mkdtempSync, rmSync } from 'node:fs';
import { availableParallelism, cpus, tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import { cpu, type Probe, probes } from '@lorikeet/cpu';
import { timed } from './timed.ts';

const mebibytes = 24;
/** What the program calls each of our probes. */
const named: Readonly<Record<string, string>> = {
  multiplyAdd: 'multiply-add', copyBulk: 'copy bulk', copyVectors: 'copy vectors',
  read1: 'read 1', read2: 'read 2', read4: 'read 4', read8: 'read 8',
}; // biome-ignore format: a table

/** Where the compiled program lies, or why there is none. */
function compile(folder: string): { readonly program: string } | { readonly why: string } {
  const source = fileURLToPath(new URL('./probe-peak.c', import.meta.url));
  const program = join(folder, 'probe-peak');
  const options = ['-O3', '-march=native', '-pthread', source, '-o', program];
  const { status, error, stderr } = spawnSync('cc', options, { encoding: 'utf8' });
  if (error) return { why: 'there is no cc on this machine (Debian: apt-get install gcc)' };
  return status === 0 ? { program } : { why: `cc failed: ${stderr.trim().split('\n')[0]}` };
}

/** One round of the C program: GFLOP/s or GB/s by name. */
function cRound(program: string, threads: number): Map<string, number> {
  const text = execFileSync(program, [`${threads}`, `${mebibytes}`, '1'], { encoding: 'utf8' });
  return new Map(
    text.trim().split('\n').map((line) => [line.split('\t')[0]!, Number(line.split('\t')[1])]),
  ); // biome-ignore format: a table
}

function keepBest(best: Map<string, number>, name: string, rate: number): void {
  best.set(name, Math.max(best.get(name) ?? 0, rate));
}

async function compare(threads: number, rounds: number, program: string | null): Promise<void> {
  await using backend = await cpu({ threads, revectorize: 'auto' });
  const { multiplyAdd, copies, reads, close } = probes(backend, { bytes: mebibytes * 2 ** 20 });
  const ours: readonly Probe[] = [multiplyAdd, ...copies, ...reads];
  const [best, inC] = [new Map<string, number>(), new Map<string, number>()];
  for (let round = 0; round < rounds; round++) {
    for (const { name, work, run } of ours) keepBest(best, named[name]!, work / (await timed(run, 0.02)) / 1e9);
    if (program) for (const [name, rate] of cRound(program, threads)) keepBest(inC, name, rate);
  }
  close();
  console.log(`\n${threads} thread${threads === 1 ? '' : 's'}    ours       C   ours / C   (GFLOP/s; GB/s of 24 MiB)`);
  for (const [name, rate] of best) {
    const c = inC.get(name);
    const beside =
      c === undefined ? '      -          -' : `${c.toFixed(1).padStart(7)}${(rate / c).toFixed(2).padStart(11)}`;
    console.log(`${name.padEnd(13)}${rate.toFixed(1).padStart(7)} ${beside}`);
  }
}

const { values } = parseArgs({ options: { threads: { type: 'string' }, rounds: { type: 'string', default: '10' } } });
const counts = values.threads?.split(',').map(Number) ?? [1, availableParallelism()];
const folder = mkdtempSync(join(tmpdir(), 'lorikeet-probe-'));
try {
  const made = compile(folder);
  console.log(`${cpus()[0]?.model ?? 'unknown processor'}, Node ${process.versions.node}`);
  if ('why' in made) console.log(`Without C: ${made.why}.`);
  for (const threads of new Set(counts))
    await compare(threads, Number(values.rounds), 'program' in made ? made.program : null);
} finally {
  rmSync(folder, { recursive: true, force: true });
}
