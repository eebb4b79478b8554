/**
 * `pnpm bench`: our kernels and programs beside gpu.js and plain JavaScript, checked for right results, then timed in turns.
 *   --filter TEXT   cases whose name holds TEXT
 *   --rounds N      turns of each contender (default 10)
 *   --no-peers      ours and plain JavaScript alone
 *   --json FILE     the results as JSON
 */
import { writeFileSync } from 'node:fs';
import { cpus } from 'node:os';
import { parseArgs } from 'node:util';
import { cpu } from '@lorikeet/cpu';
import type { BenchCase } from './case.ts';
import { eightBitCases } from './cases/eight-bits.ts';
import { matmulCases } from './cases/matmul.ts';
import { phi3Cases } from './cases/phi3.ts';
import { quantizeCases } from './cases/quantize.ts';
import { alternate, type Rate } from './measure.ts';
import { loadGpuJs } from './peers.ts';

const { values } = parseArgs({
  options: {
    filter: { type: 'string' },
    rounds: { type: 'string', default: '10' },
    peers: { type: 'boolean', default: true },
    json: { type: 'string' },
  },
  allowNegative: true,
});
const rounds = Number(values.rounds);
if (!Number.isInteger(rounds) || rounds < 1)
  throw new RangeError(`bench: --rounds must be a whole number of at least 1: got ${values.rounds}.`);

interface Result {
  readonly name: string;
  readonly shape: string;
  readonly unit: string;
  readonly rates: readonly (Rate & { readonly ratio: number })[];
}

function show({ name, shape, unit, rates }: Result): void {
  console.log(`\n${name}  ${shape}  (${unit}; ratio: ours / theirs, best against best)`);
  const width = Math.max(...rates.map((r) => r.name.length));
  for (const r of rates)
    console.log(
      `  ${r.name.padEnd(width)}  best ${r.best.toFixed(2).padStart(9)}  median ${r.median.toFixed(2).padStart(9)}  ratio ${r.ratio.toFixed(2).padStart(8)}  rounds ${r.rounds}`,
    );
}

const all: readonly BenchCase[] = [...matmulCases, ...quantizeCases, ...eightBitCases, ...phi3Cases];
const chosen = all.filter(({ name }) => name.includes(values.filter ?? ''));
if (chosen.length === 0)
  throw new RangeError(
    `bench: --filter must match a case: got ${values.filter}. Cases: ${all.map((c) => c.name).join(', ')}.`,
  );
const hardware = `${cpus()[0]?.model ?? 'unknown CPU'}, ${cpus().length} threads, Node ${process.versions.node}`;
console.log(`${hardware}, ${new Date().toISOString().slice(0, 10)}`);
const one = await cpu({ threads: 1, revectorize: 'auto' });
const many = await cpu({ revectorize: 'auto' });
const gpuJs = values.peers ? loadGpuJs() : null;
const results: Result[] = [];
for (const { name, shape, unit, perUnit, contenders } of chosen) {
  const rates = (await alternate(await contenders({ one, many, gpuJs }), rounds)).map((r) => ({
    ...r,
    best: r.best / perUnit,
    median: r.median / perUnit,
  }));
  const result = { name, shape, unit, rates: rates.map((r) => ({ ...r, ratio: rates[0]!.best / r.best })) };
  results.push(result);
  show(result);
}
if (values.json)
  writeFileSync(values.json, `${JSON.stringify({ hardware, date: new Date().toISOString(), results }, null, 2)}\n`);
await one.close();
await many.close();
