/**
 * `pnpm bench --tune FILE`: searches the kernel parameters of the CPU backend for this machine, one after the other, each
 * choice in turns with the others over the products it matters for, and writes the table that `cpu({ tuning })` takes.
 *   --only TEXT    parameters whose name holds TEXT
 *   --rounds N     turns of each choice (default 8)
 */
import { writeFileSync } from 'node:fs';
import { cpus } from 'node:os';
import { parseArgs } from 'node:util';
import {
  type CpuBackend,
  cpu,
  defaults,
  type KernelParameters,
  type ParameterName,
  readTuning,
  tunable,
  tuningVersion,
} from '@lorikeet/cpu';
import { fromBytes, matmul, type Tensor } from '@lorikeet/tensor';

/** A choice must be so much faster than the default, in its best and in its middle rounds, to take its place. */
const worthwhile = 1.03;

interface Work {
  readonly name: string;
  readonly a: readonly number[];
  readonly b: readonly number[];
  readonly dtype?: 'f32' | 'bf16';
  readonly transposeA?: boolean;
  readonly transposeB?: boolean;
  /** B is written whole and so lies in the store, as weights do; else it is computed. */
  readonly far?: boolean;
}

const wide = 3072;
const large: readonly Work[] = [
  { name: 'NT', a: [512, wide], b: [wide, wide], transposeB: true, far: true },
  { name: 'NN', a: [512, wide], b: [wide, wide] },
  { name: 'TN', a: [wide, 512], b: [wide, wide], transposeA: true },
];
const middle: readonly Work[] = [
  { name: 'batched', a: [32, 128, 96], b: [32, 128, 96], transposeB: true },
  { name: 'layer', a: [128, 784], b: [512, 784], transposeB: true },
  { name: 'thin', a: [512, 16], b: [wide, 16], transposeB: true },
];
const tiny: readonly Work[] = [16, 32, 48, 64].map((size) => ({ name: `${size}`, a: [size, size], b: [size, size] }));
const rows = (counts: readonly number[]): readonly Work[] =>
  counts.flatMap((m) =>
    [true, false].flatMap((far) =>
      (['f32', 'bf16'] as const).map((dtype) => ({
        name: `${m} rows, ${dtype}${far ? ', store' : ''}`,
        ...{ a: [m, wide], b: [wide, wide], dtype, far, transposeB: true },
      })),
    ),
  );

/** What each parameter is judged by. */
const worksOf: Readonly<Record<ParameterName, readonly Work[]>> = {
  'matmul.pairedTile': large,
  'matmul.plainTile': large,
  'matmul.blockK': [...large, ...middle],
  'matmul.sweepRows': large,
  'matmul.taskRows': large,
  'matmul.taskColumns': [...large, ...middle],
  'matmul.enoughTasks': middle,
  'matmul.oneTaskWork': tiny,
  'matmul.packElementsPerChunk': [...large, ...middle],
  'dots.rows': rows([6, 10, 14, 18, 22, 26, 30, 40, 56]),
  'dots.farRows': rows([1, 2, 4, 8]).filter(({ far }) => far),
  'dots.bytesPerChunk': rows([1, 4, 16]),
  'dots.blockBytes': rows([4, 16]),
  'dots.groupRows': rows([1, 4, 16]),
};

/** Numbers in a dtype, made once a shape: in bf16 the upper halves of the same in f32. */
const made = new Map<string, Uint8Array>();
function bytesOf(shape: readonly number[], dtype: 'f32' | 'bf16'): Uint8Array {
  const key = `${shape} ${dtype}`;
  const known = made.get(key);
  if (known) return known;
  const count = shape.reduce((x, y) => x * y, 1);
  const floats = new Float32Array(count);
  for (let i = 0; i < count; i++) floats[i] = ((i * 7919) % 1013) / 500 - 1;
  const words = new Uint32Array(floats.buffer);
  const bytes =
    dtype === 'f32' ? new Uint8Array(floats.buffer) : new Uint8Array(Uint16Array.from(words, (w) => w >>> 16).buffer);
  made.set(key, bytes);
  return bytes;
}

function operandsOf(backend: CpuBackend, { a, b, dtype = 'f32', far }: Work): [Tensor, Tensor] {
  const near = (shape: readonly number[], type: 'f32' | 'bf16'): Tensor => {
    using written = fromBytes(bytesOf(shape, type), { backend, shape, dtype: type });
    return written.mul(1);
  };
  return [near(a, 'f32'), far ? fromBytes(bytesOf(b, dtype), { backend, shape: b, dtype }) : near(b, dtype)];
}

/** Milliseconds of one call, from as many as fill 3 ms. */
function sample(run: () => void): number {
  let calls = 0;
  const start = performance.now();
  do {
    run();
    calls++;
  } while (performance.now() - start < 3);
  return (performance.now() - start) / calls;
}

interface Timing {
  readonly best: number;
  readonly median: number;
}

/** Times of one work under each choice, in turns. */
function race(backends: readonly CpuBackend[], work: Work, rounds: number): Timing[] {
  const { transposeA = false, transposeB = false } = work;
  const operands = backends.map((backend) => operandsOf(backend, work));
  const runs = operands.map(
    ([a, b]) =>
      () =>
        matmul(a, b, { transposeA, transposeB }).dispose(),
  );
  const times = runs.map((): number[] => []);
  for (const run of runs) sample(run);
  for (let round = 0; round < rounds; round++)
    for (const [i, run] of runs.entries()) {
      // The first call of a turn wakes the threads and fills the caches.
      run();
      times[i]!.push(sample(run));
    }
  for (const pair of operands) for (const t of pair) t.dispose();
  return times.map((list) => {
    const sorted = list.sort((x, y) => x - y);
    return { best: sorted[0]!, median: sorted[sorted.length >> 1]! };
  });
}

const geometricMean = (numbers: readonly number[]): number =>
  Math.exp(numbers.reduce((sum, x) => sum + Math.log(x), 0) / numbers.length);

/** The choice for one parameter, the others as found so far. */
async function choose(
  name: ParameterName,
  found: Partial<KernelParameters>,
  hardware: string,
  rounds: number,
): Promise<unknown> {
  const { choices, value } = tunable[name];
  const table = (choice: unknown) =>
    readTuning({ version: tuningVersion, hardware, date: today, parameters: { ...found, [name]: choice } });
  const backends: CpuBackend[] = [];
  for (const choice of choices) backends.push(await cpu({ revectorize: 'auto', tuning: table(choice) }));
  const gains = choices.map((): { best: number[]; median: number[] } => ({ best: [], median: [] }));
  const standing = (choices as readonly unknown[]).indexOf(value);
  for (const work of worksOf[name]) {
    const times = race(backends, work, rounds);
    for (const [i, { best, median }] of times.entries()) {
      gains[i]!.best.push(times[standing]!.best / best);
      gains[i]!.median.push(times[standing]!.median / median);
    }
  }
  for (const backend of backends) await backend.close();
  const scores = gains.map(({ best, median }) => Math.min(geometricMean(best), geometricMean(median)));
  let chosen = standing;
  for (const [i, score] of scores.entries()) if (score > worthwhile && score > scores[chosen]!) chosen = i;
  console.log(
    `${name.padEnd(28)} ${choices.map((choice, i) => `${i === chosen ? '*' : ''}${choice}: ${scores[i]!.toFixed(3)}`).join('  ')}`,
  );
  return choices[chosen];
}

const { values: flags, positionals } = parseArgs({
  args: process.argv.slice(2),
  allowPositionals: true,
  options: {
    tune: { type: 'boolean' },
    only: { type: 'string', default: '' },
    rounds: { type: 'string', default: '8' },
  },
});
const [file] = positionals;
const rounds = Number(flags.rounds);
if (!file)
  throw new RangeError('bench --tune: must have a file to write the table to: got none. Use --tune tuning.json.');
if (!Number.isInteger(rounds) || rounds < 3)
  throw new RangeError(`bench --tune: --rounds must be a whole number of at least 3: got ${flags.rounds}.`);
const names = (Object.keys(tunable) as ParameterName[]).filter((name) => name.includes(flags.only));
if (names.length === 0)
  throw new RangeError(
    `bench --tune: --only must match a parameter: got ${flags.only}. Parameters: ${Object.keys(tunable).join(', ')}.`,
  );

const hardware = `${cpus()[0]?.model ?? 'unknown CPU'}, ${cpus().length} threads, Node ${process.versions.node}`;
const today = new Date().toISOString().slice(0, 10);
const probe = await cpu({ revectorize: 'auto', threads: 1 });
const unused: ParameterName = probe.describe().revectorize ? 'matmul.plainTile' : 'matmul.pairedTile';
await probe.close();
console.log(`${hardware}, ${today}. Speed against the default; * is chosen.`);
let found: Partial<KernelParameters> = {};
for (const name of names) {
  if (name === unused) continue;
  const choice = await choose(name, found, hardware, rounds);
  if (choice !== defaults[name]) found = { ...found, [name]: choice };
}
writeFileSync(
  file,
  `${JSON.stringify({ version: tuningVersion, hardware, date: today, parameters: found }, null, 2)}\n`,
);
console.log(`Written to ${file}. Use it with LORIKEET_TUNING=${file}, or cpu({ tuning }) in a program.`);
