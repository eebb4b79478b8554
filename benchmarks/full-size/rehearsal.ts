/** The steps of the rehearsal: what each runs and what it has to say. */
import { createHash } from 'node:crypto';
import { cpSync, existsSync, mkdirSync, readdirSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { basename, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { lastObject, type Measured, measure } from './measured-process.ts';

export interface Rehearsal {
  /** The 16-bit model. */
  readonly dir: string;
  /** Everything that is made. */
  readonly work: string;
  readonly steps: number;
  readonly tokens: number;
  readonly threads: number;
  /** A Python with transformers, peft and bitsandbytes. */
  readonly python: string | undefined;
  readonly pythonSteps: number;
  readonly wideSteps: number;
}

export type PhaseResult = Omit<Measured, 'stdout'> & Readonly<Record<string, unknown>>;
type Phase = (rehearsal: Rehearsal) => Promise<PhaseResult>;

const here = (path: string): string => fileURLToPath(new URL(path, import.meta.url));
const cli = here('../../packages/cli/src/main.ts');
const inProcess = here('./in-process.ts');
const python = here('../full-size.py');
const rank = 16;

const threadsOf = ({ threads }: Rehearsal): string[] => ['--threads', String(threads)];
const lorikeet = (r: Rehearsal, args: readonly string[]): Promise<Measured> =>
  measure([process.execPath, cli, ...args, ...threadsOf(r), '--json']);

async function task(r: Rehearsal, args: readonly string[]): Promise<PhaseResult> {
  const { stdout, ...taken } = await measure([process.execPath, inProcess, ...args, ...threadsOf(r)]);
  const told = lastObject<PhaseResult>(stdout);
  return { ...taken, ...told, processSeconds: taken.seconds, peakBytes: Math.max(taken.peakBytes, told.peakBytes) };
}

/** Words without meaning, the same on every run; wrapped packing cuts them into rows of exactly the asked length. */
function writeRows(path: string, rows: number, words: number, seed: number): void {
  let state = seed;
  const next = (): number => (state = (state * 48271) % 2147483647);
  const syllables = ['ka', 'lo', 'ri', 'ta', 'me', 'nu', 'so', 'vi', 'da', 'pe'];
  const word = (): string => Array.from({ length: 2 + (next() % 3) }, () => syllables[next() % 10]).join('');
  const row = (): string => JSON.stringify({ text: Array.from({ length: words }, word).join(' ') });
  writeFileSync(path, `${Array.from({ length: rows }, row).join('\n')}\n`);
}

/** A configuration for the command line; YAML takes JSON. Held-out rows are measured on the 4-bit base alone. */
function writeConfig(r: Rehearsal, name: string, { quantized, steps }: { quantized: boolean; steps: number }): string {
  mkdirSync(r.work, { recursive: true });
  const [train, heldOut] = [join(r.work, 'train.jsonl'), join(r.work, 'heldout.jsonl')];
  writeRows(train, r.steps + 2, r.tokens, 1);
  writeRows(heldOut, 1, r.tokens, 2);
  const path = join(r.work, `${name}.yaml`);
  const config = {
    model: { path: r.dir },
    quantization: { loadIn4bit: quantized },
    data: { train, ...(quantized ? { eval: heldOut } : { testSize: 0 }), maxLength: r.tokens, packing: true, packingStrategy: 'wrapped', order: 'sequential' },
    peft: { r: rank, loraAlpha: 2 * rank, loraDropout: 0, targetModules: 'all-linear' },
    training: {
      outputDir: join(r.work, name), overwriteOutputDir: true, maxSteps: steps, perDeviceTrainBatchSize: 1, learningRate: 2e-4,
      lrSchedulerType: 'constant', gradientCheckpointing: true, optim: 'adamw_torch', loggingSteps: 1, reportTo: [],
      evalStrategy: quantized ? 'steps' : 'no', evalSteps: steps, saveSteps: Math.max(1, steps - 1), saveTotalLimit: null,
    },
  }; // biome-ignore format: a configuration
  writeFileSync(path, JSON.stringify(config, null, 2));
  return path;
}

interface LogLine {
  readonly step: number;
  readonly loss?: number;
  readonly evalLoss?: number;
  readonly elapsedMs?: number;
  readonly tokens?: number;
}

const logOf = (outputDir: string): LogLine[] =>
  readFileSync(join(outputDir, 'log.jsonl'), 'utf8')
    .trimEnd()
    .split('\n')
    .map((line) => JSON.parse(line) as LogLine);

const median = (values: readonly number[]): number => values.toSorted((a, b) => a - b)[values.length >> 1]!;

/** Tokens a second of each step: from the second on, the first compiles. */
function speeds(log: readonly LogLine[]): { tokensPerSecond: number; bestTokensPerSecond: number } {
  const steps = log.filter(({ loss }) => loss !== undefined);
  const rates = steps.map(
    ({ tokens, elapsedMs }, i) => (tokens! * 1000) / (elapsedMs! - (steps[i - 1]?.elapsedMs ?? 0)),
  );
  const counted = rates.length > 1 ? rates.slice(1) : rates;
  return { tokensPerSecond: median(counted), bestTokensPerSecond: Math.max(...counted) };
}

const sha256 = (path: string): string => createHash('sha256').update(readFileSync(path)).digest('hex');
const adapterFile = 'adapter/adapter_model.safetensors';

async function trainWith(r: Rehearsal, name: string, quantized: boolean, steps: number): Promise<PhaseResult> {
  const config = writeConfig(r, name, { quantized, steps });
  const { stdout, ...taken } = await lorikeet(r, ['train', '-c', config]);
  const told = lastObject<Record<string, unknown>>(stdout);
  const log = logOf(join(r.work, name));
  return {
    ...taken,
    ...speeds(log),
    losses: log.flatMap(({ loss }) => loss ?? []),
    evalLoss: log.findLast(({ evalLoss }) => evalLoss !== undefined)?.evalLoss,
    trainableParameters: told.trainableParameters,
  };
}

async function plan(r: Rehearsal): Promise<PhaseResult> {
  const config = writeConfig(r, 'train', { quantized: true, steps: r.steps });
  const { stdout, ...taken } = await lorikeet(r, ['plan', '-c', config]);
  const told = lastObject<Record<string, unknown>>(stdout);
  return { ...told, ...taken, plannedPeakBytes: told.peakBytes, plannedTokensPerSecond: told.tokensPerSecond };
}

/** The last step again, from the checkpoint before it, in a folder of its own: the same bits must come out. */
async function resume(r: Rehearsal): Promise<PhaseResult> {
  const [from, to] = [join(r.work, 'train'), join(r.work, 'resumed')];
  rmSync(to, { recursive: true, force: true });
  const last = `checkpoint-${r.steps}`;
  cpSync(from, to, { recursive: true, filter: (path) => ![last, 'adapter'].includes(basename(path)) || path === from });
  const config = join(r.work, 'train.yaml');
  const { stdout: _, ...taken } = await lorikeet(r, ['train', '-c', config, '--output-dir', to, '--resume', 'auto']);
  const [before, after] = [logOf(from), logOf(to)].map((log) => log.findLast(({ loss }) => loss !== undefined)!);
  return {
    ...taken,
    lastStep: after!.step,
    sameLoss: before!.loss === after!.loss,
    sameAdapter: sha256(join(from, adapterFile)) === sha256(join(to, adapterFile)),
  };
}

async function quantize(r: Rehearsal): Promise<PhaseResult> {
  const { stdout, ...taken } = await lorikeet(r, ['quantize', '-m', r.dir, '-o', join(r.work, 'nf4'), '--force']);
  const { bytesBefore, bytesAfter } = lastObject<Record<string, number>>(stdout);
  return { ...taken, bytesBefore, bytesAfter };
}

async function merge(r: Rehearsal): Promise<PhaseResult> {
  const out = join(r.work, 'merged');
  rmSync(out, { recursive: true, force: true });
  const paths = ['-m', r.dir, '-a', join(r.work, 'train', 'adapter'), '-o', out];
  const { stdout: _, ...taken } = await lorikeet(r, ['merge', ...paths, '--into', 'original', '--no-compare']);
  const bytes = readdirSync(out).reduce((sum, name) => sum + statSync(join(out, name)).size, 0);
  // 7.6 GB that nobody reads again.
  rmSync(out, { recursive: true, force: true });
  return { ...taken, bytes };
}

const generateWith =
  (model: (r: Rehearsal) => string, more: readonly string[] = []): Phase =>
  (r) => {
    const adapter = ['--adapter', join(r.work, 'train', 'adapter')];
    return task(r, ['write', '--model', model(r), ...adapter, ...more]);
  };
const packed = (r: Rehearsal): string => join(r.work, 'nf4');

async function inPython(r: Rehearsal): Promise<PhaseResult> {
  if (r.python === undefined || !existsSync(r.python))
    throw new Error('full-size: --python must name a Python with transformers, peft and bitsandbytes: none is there.');
  const args = [
    '--dir',
    r.dir,
    '--steps',
    String(r.pythonSteps),
    '--tokens',
    String(r.tokens),
    '--threads',
    String(r.threads),
  ];
  const env = { OMP_NUM_THREADS: String(r.threads), HF_HUB_OFFLINE: '1' };
  const { stdout, ...taken } = await measure([r.python, python, ...args], { env });
  return { ...lastObject<PhaseResult>(stdout), ...taken };
}

/** In the order in which they build on each other. */
export const phases = {
  read: (r) => task(r, ['read', '--model', r.dir]),
  'quantize-load': (r) => task(r, ['load', '--model', r.dir, '--quantize']),
  quantize,
  plan,
  train: (r) => trainWith(r, 'train', true, r.steps),
  resume,
  generate: generateWith(packed),
  'generate-int8': generateWith(packed, ['--compute-dtype', 'int8']),
  merge,
  'generate-16-bit': generateWith((r) => r.dir),
  'train-16-bit': (r) => trainWith(r, 'train-16-bit', false, r.wideSteps),
  python: inPython,
} as const satisfies Record<string, Phase>;

export type PhaseName = keyof typeof phases;
