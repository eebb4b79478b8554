/**
 * Breaks one gradient rule, limit, table, template or detail of a loss at a time and shows that a named case notices.
 *
 *   node conformance/mutations.ts                      four of them, drawn by the day
 *   node conformance/mutations.ts --sample 8 --seed 3  eight others
 *   node conformance/mutations.ts --all
 *   node conformance/mutations.ts --only rope          those whose name holds that text
 *
 * The tree is not touched: a loader hook gives the changed text to a process of its own. Each mutation runs beside the
 * same case without it, which must pass. Ends with `N noticed, N missed`.
 */
import { spawn } from 'node:child_process';
import { mkdtemp, readFile, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { pathToFileURL } from 'node:url';
import { parseArgs } from 'node:util';
import { permutation, randomKey, referenceBackend } from '@lorikeet/tensor';
import type { Change } from './mutation-hook.ts';
import { type Mutation, mutations } from './mutation-list.ts';

const root = join(import.meta.dirname, '..');
const hook = join(import.meta.dirname, 'mutation-hook.ts');

/** Mutations whose text the file no longer holds exactly once: they would change nothing, or too much. */
export async function staleMutations(): Promise<string[]> {
  const stale = await Promise.all(
    mutations.map(async ({ name, file, from }) => {
      const text = await readFile(join(root, file), 'utf8');
      const found = text.split(from).length - 1;
      return found === 1 ? [] : [`${name}: its text must occur once in ${file}: found ${found} times`];
    }),
  );
  return stale.flat();
}

/** How the case of a mutation ends, with the change or without: passed, failed, skipped, or what was wrong with the run. */
async function outcomeOf(mutation: Mutation, change: Change | undefined, report: string): Promise<string> {
  const { family, backend = 'reference', fails, sensitivity } = mutation;
  const where = ['--family', family, '--backend', backend, '--case', fails, '--report', report];
  const main = join(import.meta.dirname, 'main.ts');
  const args = ['--import', pathToFileURL(hook).href, main, ...where, ...(sensitivity ? ['--sensitivity'] : [])];
  const env = { ...process.env, LORIKEET_MUTATION: change ? JSON.stringify(change) : '' };
  const child = spawn(process.execPath, args, { env, stdio: ['ignore', 'ignore', 'pipe'] });
  let errors = '';
  child.stderr.on('data', (text) => {
    errors += text;
  });
  await new Promise((done) => child.on('close', done));
  const text = await readFile(report, 'utf8').catch(() => null);
  if (text === null) return `not run: ${/^\w*Error: .*$/m.exec(errors)?.[0] ?? errors}`;
  const { results } = JSON.parse(text) as { results: { name: string; outcome: string }[] };
  return results.find((r) => r.name === fails)?.outcome ?? 'missing';
}

/** Why a mutation went unnoticed, or null. */
async function missed(mutation: Mutation, directory: string): Promise<string | null> {
  const { file, from, to } = mutation;
  const [sound, broken] = await Promise.all([
    outcomeOf(mutation, undefined, join(directory, 'sound.json')),
    outcomeOf(mutation, { path: join(root, file), from, to }, join(directory, 'broken.json')),
  ]);
  if (sound !== 'passed') return `the case ${mutation.fails} must pass without it: it is ${sound}`;
  return broken === 'failed' ? null : `the case ${mutation.fails} must fail: it is ${broken}`;
}

/** Runs mutations one after another; each line says which case noticed, or why none did. */
export async function runMutations(chosen: readonly Mutation[], say: (line: string) => void): Promise<number> {
  let unnoticed = 0;
  for (const mutation of chosen) {
    const directory = await mkdtemp(join(tmpdir(), 'mutation-'));
    try {
      const reason = await missed(mutation, directory);
      if (reason) unnoticed++;
      const { family, name, fails } = mutation;
      say(reason ? `MISSED  ${family}: ${name}: ${reason}` : `noticed ${family}: ${name}: by ${fails}`);
    } finally {
      await rm(directory, { recursive: true });
    }
  }
  say(`${chosen.length - unnoticed} noticed, ${unnoticed} missed`);
  return unnoticed;
}

/** `count` of all mutations, drawn by the seed. */
export async function sampleMutations(count: number, seed: number): Promise<Mutation[]> {
  using order = permutation(mutations.length, { backend: referenceBackend(), key: randomKey(seed) });
  return Array.from((await order.data()).slice(0, count), (i) => mutations[Number(i)]!);
}

/** Another sample every day, the same all day. */
export const seedOfToday = (): number => Math.floor(Date.now() / 86_400_000);

async function main(args: readonly string[]): Promise<number> {
  const { values } = parseArgs({
    args: [...args],
    options: {
      all: { type: 'boolean' },
      sample: { type: 'string', default: '4' },
      seed: { type: 'string' },
      only: { type: 'string' },
    },
  });
  const stale = await staleMutations();
  for (const line of stale) console.log(`STALE   ${line}`);
  const seed = Number(values.seed ?? seedOfToday());
  const some = values.all ? mutations : await sampleMutations(Number(values.sample), seed);
  const chosen = values.only ? mutations.filter((m) => m.name.includes(values.only!)) : some;
  console.log(values.all || values.only ? `${chosen.length} mutations` : `${chosen.length} mutations, seed ${seed}`);
  return (await runMutations(chosen, console.log)) + stale.length;
}

if (import.meta.main) process.exitCode = (await main(process.argv.slice(2))) === 0 ? 0 : 1;
