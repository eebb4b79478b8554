/**
 * `pnpm bench`: our kernels and programs beside the libraries that people would use instead and beside the machine's limits.
 * Results are checked, then contenders and probes take turns; best against best. The README says what the columns mean.
 *   --filter TEXT     cases whose name holds TEXT; with commas: one of several
 *   --rounds N        turns of each contender (default 10)
 *   --threads N,M     thread counts of ours (default 1 and one a core)
 *   --peers A,B       these alone; --no-peers: none
 *   --host A,B        of cli, library, chromium (default all): where the main rows are measured; cli always is
 *   --json FILE       the rows as JSON, and beside it the same name with .md: the table with the machine and the versions
 *   --tune            searches kernel parameters instead
 */
import { writeFileSync } from 'node:fs';
import { availableParallelism, cpus, release, totalmem } from 'node:os';
import { type CpuBackend, cpu } from '@lorikeet/cpu';
import type { BenchCase, BenchContext } from './case.ts';
import { attentionCases } from './cases/attention.ts';
import { eightBitCases } from './cases/eight-bits.ts';
import { endToEndCases } from './cases/end-to-end.ts';
import { matmulCases } from './cases/matmul.ts';
import { memoryCases } from './cases/memory.ts';
import { phi3Cases } from './cases/phi3.ts';
import { quantizeCases } from './cases/quantize.ts';
import { teamCases } from './cases/team.ts';
import { openHosts } from './hosts/open-hosts.ts';
import { alternate } from './measure.ts';
import type { Peer } from './peer.ts';
import { openers } from './peers.ts';
import { Probing } from './probing.ts';
import { markdownOf, printRows, type Setting } from './report.ts';
import { type Measured, neededProbes, resultsOf } from './rows.ts';
import { parseSettings, type Settings } from './settings.ts';
import { tuned } from './tuned.ts';

const all: readonly BenchCase[] = [
  ...matmulCases, ...attentionCases, ...memoryCases, ...teamCases, ...quantizeCases, ...eightBitCases, ...phi3Cases, ...endToEndCases,
]; // biome-ignore format: a list

async function openBackends(counts: readonly number[]): Promise<Map<number, CpuBackend>> {
  const backends = new Map<number, CpuBackend>();
  for (const threads of counts) backends.set(threads, await cpu({ threads, revectorize: 'auto', ...tuned() }));
  return backends;
}

async function openPeers(names: readonly string[], threads: readonly number[]): Promise<Peer[]> {
  const opened: Peer[] = [];
  for (const name of names) opened.push(...(await (await openers[name]!()).open(threads)));
  return opened;
}

function settingOf(peers: readonly Peer[], hosts: readonly Peer[], settings: Settings): Setting {
  const versions = [...new Set([...peers, ...hosts].map(({ name, version }) => `${name} ${version}`))];
  return {
    date: new Date().toISOString().slice(0, 10),
    facts: {
      processor: `${cpus()[0]?.model ?? 'unknown'}, ${availableParallelism()} threads`,
      memory: `${(totalmem() / 2 ** 30).toFixed(0)} GiB`,
      system: `${process.platform} ${release()}, Node ${process.versions.node}, V8 ${process.versions.v8}`,
      beside: versions.join(', ') || 'nobody',
      rounds: `${settings.rounds}`,
    },
  };
}

/** Prepares, checks, and measures one case beside the probes its limits need. */
async function measure(
  of: BenchCase,
  context: Omit<BenchContext, 'defer'>,
  probing: Probing,
  rounds: number,
): Promise<Measured> {
  const frees: (() => void)[] = [];
  try {
    const contenders = await of.contenders({ ...context, defer: (free) => frees.push(free) });
    const probes = probing.contenders(neededProbes(contenders));
    const rates = await alternate([...contenders, ...probes], rounds);
    const limits = Probing.limits(rates.slice(contenders.length));
    return {
      of,
      contenders: contenders.map(({ row, peer, name, work }) => ({
        name,
        work,
        ...(row && { row }),
        ...(peer && { peer }),
      })),
      rates,
      limits,
    };
  } finally {
    for (const free of frees.reverse()) free();
  }
}

async function bench(settings: Settings): Promise<void> {
  const chosen = all.filter(({ name }) => settings.filter.split(',').some((text) => name.includes(text)));
  if (chosen.length === 0)
    throw new RangeError(
      `bench: --filter must match a case: got ${settings.filter}. Cases: ${[...new Set(all.map((c) => c.name))].join(', ')}.`,
    );
  const cores = availableParallelism();
  const backends = await openBackends([...new Set([...settings.threads, 1, cores])]);
  const measuredOn = new Map([...backends].filter(([threads]) => settings.threads.includes(threads)));
  const peers = await openPeers(settings.peers ?? Object.keys(openers), settings.threads);
  const hosts = await openHosts(settings.hosts, settings.threads);
  const setting = settingOf(peers, hosts, settings);
  for (const [name, fact] of Object.entries(setting.facts)) console.log(`${name}: ${fact}`);
  const probing = new Probing(backends);
  const context = { one: backends.get(1)!, many: backends.get(cores)!, backends: measuredOn, peers, hosts };
  const measured: Measured[] = [];
  for (const [i, of] of chosen.entries()) {
    const start = performance.now();
    try {
      measured.push(await measure(of, context, probing, settings.rounds));
    } catch (error) {
      console.error(`\n[${i + 1} of ${chosen.length}] ${of.name} FAILED:`, error);
      process.exitCode = 1;
      continue;
    }
    console.log(`\n[${i + 1} of ${chosen.length}, ${((performance.now() - start) / 1000).toFixed(0)} s]`);
    printRows(resultsOf(measured.slice(-1)));
  }
  probing.close();
  const results = resultsOf(measured);
  if (settings.json) {
    writeFileSync(
      settings.json,
      `${JSON.stringify(
        results.map(({ row }) => row),
        null,
        2,
      )}\n`,
    );
    writeFileSync(settings.json.replace(/(?:\.json)?$/, '.md'), markdownOf(setting, results));
  }
  for (const { close } of [...peers, ...hosts]) await close();
  for (const backend of backends.values()) await backend.close();
}

const settings = parseSettings(process.argv.slice(2), Object.keys(openers));
if (settings.tune) {
  const program = './tune.ts';
  await import(program);
} else await bench(settings);
