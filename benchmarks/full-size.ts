/**
 * `node benchmarks/full-size.ts --dir DIR`: Phi-3-mini at full size on this machine. A 4-bit base is made while loading,
 * adapters are trained, measured, saved, resumed, spoken with and merged; each phase is a process of its own, its peak
 * memory the kernel's VmHWM. What was done is kept in --work and not done again.
 *   --dir DIR        the 16-bit model; made there (7.6 GB) where it is missing
 *   --work DIR       results, checkpoints, the 4-bit folder (default DIR-work)
 *   --steps N        training steps (default 10); --tokens N  tokens of a step (default 512)
 *   --threads N      default 2
 *   --phase A,B      only these; --fresh  again, although they are done
 *   --tokenizer DIR  default ../shared/data/phi3-tokenizer, else the demo's
 *   --python FILE    a Python with transformers, peft, bitsandbytes, for the same job there
 *   --out PREFIX     PREFIX.json and PREFIX.md (default benchmarks/results/full-size)
 */
import { existsSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { availableParallelism, cpus, totalmem } from 'node:os';
import { join, resolve } from 'node:path';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import { measure } from './full-size/measured-process.ts';
import { type PhaseName, type PhaseResult, phases, type Rehearsal } from './full-size/rehearsal.ts';
import { reportOf } from './full-size/report.ts';

const { values } = parseArgs({
  options: {
    dir: { type: 'string' },
    work: { type: 'string' },
    steps: { type: 'string', default: '10' },
    tokens: { type: 'string', default: '512' },
    threads: { type: 'string', default: '2' },
    phase: { type: 'string' },
    fresh: { type: 'boolean', default: false },
    tokenizer: { type: 'string' },
    python: { type: 'string' },
    'python-steps': { type: 'string', default: '2' },
    'wide-steps': { type: 'string', default: '2' },
    out: { type: 'string' },
  },
});
const here = (path: string): string => fileURLToPath(new URL(path, import.meta.url));
if (values.dir === undefined) throw new Error('full-size: --dir must name the model folder: it is not given.');
const dir = resolve(values.dir);
const rehearsal: Rehearsal = {
  dir,
  work: resolve(values.work ?? `${dir}-work`),
  steps: Number(values.steps),
  tokens: Number(values.tokens),
  threads: Number(values.threads),
  python: values.python,
  pythonSteps: Number(values['python-steps']),
  wideSteps: Number(values['wide-steps']),
};
if (!(rehearsal.steps >= 2))
  throw new RangeError(`full-size: --steps must be at least 2, one to resume after: got ${values.steps}.`);
const names = Object.keys(phases) as PhaseName[];
const asked = values.phase?.split(',') as PhaseName[] | undefined;
for (const name of asked ?? [])
  if (!names.includes(name)) throw new RangeError(`full-size: --phase must be of ${names.join(', ')}: got ${name}.`);

/** The model, where it is missing; a tokenizer beside it, of which only ids below the vocabulary's size matter. */
async function prepare(): Promise<void> {
  mkdirSync(rehearsal.work, { recursive: true });
  const shared = here('../../shared/data/phi3-tokenizer');
  const tokenizer = values.tokenizer ?? (existsSync(shared) ? shared : here('../packages/cli/assets/demo/base'));
  if (!existsSync(join(dir, 'config.json')))
    await measure([process.execPath, here('../tools/full-size/make-phi3-mini.ts'), dir, '--tokenizer', tokenizer]);
  for (const name of ['tokenizer.json', 'tokenizer_config.json'])
    if (!existsSync(join(dir, name))) writeFileSync(join(dir, name), readFileSync(join(tokenizer, name)));
}

const resultPath = (name: string): string => join(rehearsal.work, `${name}.result.json`);
const earlier = (name: PhaseName): PhaseResult | undefined =>
  existsSync(resultPath(name)) ? (JSON.parse(readFileSync(resultPath(name), 'utf8')) as PhaseResult) : undefined;

async function run(name: PhaseName): Promise<void> {
  if (asked ? !asked.includes(name) : name === 'python' && values.python === undefined) return;
  if (!values.fresh && earlier(name)) {
    console.error(`${name}: done before`);
    return;
  }
  console.error(`\n${name} ...`);
  const result = await phases[name](rehearsal);
  writeFileSync(resultPath(name), JSON.stringify({ ...result, steps: rehearsal.steps, tokens: rehearsal.tokens }));
  console.error(`${name}: ${result.seconds.toFixed(1)} s, peak ${(result.peakBytes / 1e9).toFixed(2)} GB`);
}

await prepare();
for (const name of names) await run(name);
const results = Object.fromEntries(names.flatMap((name) => (earlier(name) ? [[name, earlier(name)!]] : [])));
const machine = {
  processor: cpus()[0]?.model ?? 'unknown',
  cores: availableParallelism(),
  threads: rehearsal.threads,
  memoryBytes: totalmem(),
  node: process.versions.node,
};
const text = reportOf(results, machine, rehearsal);
const out = values.out ?? here('./results/full-size');
writeFileSync(`${out}.json`, `${JSON.stringify({ date: new Date().toISOString(), machine, results }, null, 2)}\n`);
writeFileSync(`${out}.md`, text);
console.log(text);
