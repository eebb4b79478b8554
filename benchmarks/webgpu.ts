/**
 * Times the WebGPU backend on this machine's adapter beside the CPU backend, after checking each result:
 *   node benchmarks/webgpu.ts [--rounds N] [--json FILE]
 * Products of Phi-3-mini's shapes, one LoRA step and cached generation of the bench model. A call ends when the device is done.
 */
import { writeFileSync } from 'node:fs';
import { cpus } from 'node:os';
import { parseArgs } from 'node:util';
import { type CpuBackend, cpu } from '@lorikeet/cpu';
import { nf4 } from '@lorikeet/lora';
import type { LinearFactory } from '@lorikeet/phi3';
import {
  type Backend,
  matmul,
  matmul4bit,
  normal,
  quantize4bit,
  randomKey,
  tensor,
  type Weight4bit,
} from '@lorikeet/tensor';
import { type WebGpuBackend, webgpu } from '@lorikeet/webgpu';
import { buildBenchModel, greedy, trainer } from './cases/phi3.ts';
import { alternate, type Contender, type Rate } from './measure.ts';

const { values } = parseArgs({ options: { rounds: { type: 'string', default: '10' }, json: { type: 'string' } } });
const rounds = Number(values.rounds);
if (!Number.isInteger(rounds) || rounds < 1)
  throw new RangeError(`webgpu bench: --rounds must be a whole number of at least 1: got ${values.rounds}.`);

const [gpu, host] = [await webgpu(), await cpu({ revectorize: 'auto' })];
const backends: readonly (readonly [string, WebGpuBackend | CpuBackend])[] = [
  ['webgpu', gpu],
  [`cpu, ${host.describe().threads} threads`, host],
];

/** Largest difference as a part of the largest value. */
function distance(got: ArrayLike<number>, want: ArrayLike<number>): number {
  let [most, size] = [0, 0];
  for (let i = 0; i < want.length; i++) {
    most = Math.max(most, Math.abs(got[i]! - want[i]!));
    size = Math.max(size, Math.abs(want[i]!));
  }
  return Number.isFinite(most) ? most / size : Number.POSITIVE_INFINITY;
}

async function products(n: number, dtype: 'f32' | 'bf16'): Promise<Contender[]> {
  const [m, k] = [512, 3072];
  const draw = async (rows: number, seed: number): Promise<Float32Array> => {
    using t = normal([rows, k], { backend: host, key: randomKey(seed) });
    return (await t.data()) as Float32Array;
  };
  const [a, w] = [await draw(m, 1), await draw(n, 2)];
  const results: Float32Array[] = [];
  const contenders: Contender[] = [];
  for (const [name, backend] of backends) {
    const [x, wide] = [tensor(a, { backend, shape: [m, k] }), tensor(w, { backend, shape: [n, k] })];
    const weight = dtype === 'f32' ? wide : wide.cast(dtype);
    using y = matmul(x, weight, { transposeB: true });
    results.push((await y.data()) as Float32Array);
    contenders.push({ name, work: (2 * m * k * n) / 1e9, run: () => run(backend, x, weight) });
  }
  const error = distance(results[0]!, results[1]!);
  if (!(error < 1e-5))
    throw new Error(`matmul ${m} x ${k} x ${n}: webgpu and cpu differ by ${error} of the largest value`);
  return contenders;
}

/** The same with the weight in NF4, quantized on each: both must get the same bits. */
async function quantizedProducts(n: number): Promise<Contender[]> {
  const [m, k] = [512, 3072];
  const kind = { quantType: 'nf4', blocksize: 64 } as const;
  const results: Float32Array[] = [];
  const stored: Uint8Array[] = [];
  const contenders: Contender[] = [];
  using drawnX = normal([m, k], { backend: host, key: randomKey(1) });
  using drawnW = normal([n, k], { backend: host, key: randomKey(2), std: 0.02 });
  for (const [name, backend] of backends) {
    const x = tensor(await drawnX.data(), { backend, shape: [m, k] });
    using dense = tensor(await drawnW.data(), { backend, shape: [n, k] });
    const parts = quantize4bit(dense, kind);
    stored.push(await parts.packed.bytes(), await parts.absmax.bytes());
    const weight: Weight4bit = { ...parts, ...kind, shape: [n, k], dtype: 'bf16' };
    using y = matmul4bit(x, weight);
    results.push((await y.data()) as Float32Array);
    const call = async (): Promise<void> => {
      matmul4bit(x, weight).dispose();
      await backend.sync();
    };
    contenders.push({ name, work: (2 * m * k * n) / 1e9, run: call });
  }
  const isEqual = (a: Uint8Array, b: Uint8Array): boolean => a.every((byte, i) => byte === b[i]);
  if (!isEqual(stored[0]!, stored[2]!) || !isEqual(stored[1]!, stored[3]!))
    throw new Error(`quantize4bit ${n} x ${k}: webgpu and cpu give other bits`);
  const error = distance(results[0]!, results[1]!);
  if (!(error < 1e-5)) throw new Error(`matmul4bit: webgpu and cpu differ by ${error} of the largest value`);
  return contenders;
}

async function run(backend: Backend, x: Parameters<typeof matmul>[0], weight: typeof x): Promise<void> {
  matmul(x, weight, { transposeB: true }).dispose();
  await backend.sync();
}

async function steps(linear?: LinearFactory): Promise<Contender[]> {
  const contenders: Contender[] = [];
  const losses: number[] = [];
  for (const [name, backend] of backends) {
    const step = await trainer(backend, 4, 128, linear);
    losses.push(await step());
    contenders.push({ name, work: 4 * 128, run: step });
  }
  if (!(Math.abs(losses[0]! - losses[1]!) < 1e-3)) throw new Error(`first losses: ${losses.join(' and ')} differ`);
  return contenders;
}

async function generation(): Promise<Contender[]> {
  const contenders: Contender[] = [];
  const texts: string[] = [];
  for (const [name, backend] of backends) {
    const model = await buildBenchModel(backend);
    texts.push(`${await greedy(model, 8)}`);
    contenders.push({ name, work: 32, run: () => greedy(model, 32) });
  }
  if (texts[0] !== texts[1]) throw new Error(`greedy tokens differ: ${texts.join(' and ')}`);
  return contenders;
}

const cases: readonly (readonly [name: string, unit: string, make: () => Promise<Contender[]>])[] = [
  ...[3072, 9216, 16384].flatMap((n) =>
    (['f32', 'bf16'] as const).map(
      (dtype) => [`matmul 512 x 3072 x ${n}, ${dtype} weights`, 'GFLOP/s', () => products(n, dtype)] as const,
    ),
  ),
  ...[3072, 9216, 16384].map(
    (n) => [`matmul4bit 512 x 3072 x ${n}, NF4`, 'GFLOP/s', () => quantizedProducts(n)] as const,
  ),
  ['LoRA step, Phi-3 of width 512, 4 layers, bf16, 4 x 128 tokens', 'tokens/s', () => steps()],
  ['QLoRA step, the same model in NF4', 'tokens/s', () => steps(nf4())],
  ['cached greedy generation, the same model', 'tokens/s', generation],
];
const facts = gpu.describe();
const hardware = `${facts.vendor} ${facts.architecture} ${facts.description}; ${cpus()[0]?.model}, ${cpus().length} threads, Node ${process.versions.node}`;
console.log(`${hardware}, ${new Date().toISOString().slice(0, 10)}`);
const fits = (name: string): boolean => {
  const bytes = 3072 * 4 * Number(/x 3072 x (\d+)/.exec(name)?.[1] ?? 0);
  if (bytes <= Number(facts.maxTensorBytes)) return true;
  console.log(`\n${name}: skipped: ${bytes} bytes of f32 weights are more than this adapter's ${facts.maxTensorBytes}`);
  return false;
};
const results: { name: string; unit: string; rates: readonly Rate[] }[] = [];
for (const [name, unit, make] of cases) {
  if (!fits(name)) continue;
  const rates = await alternate(await make(), rounds);
  results.push({ name, unit, rates });
  console.log(`\n${name}  (${unit})`);
  for (const rate of rates)
    console.log(
      `  ${rate.name.padEnd(16)}  best ${rate.best.toFixed(1).padStart(9)}  median ${rate.median.toFixed(1).padStart(9)}`,
    );
}
if (values.json)
  writeFileSync(values.json, `${JSON.stringify({ hardware, date: new Date().toISOString(), results }, null, 2)}\n`);
await gpu.close();
await host.close();
