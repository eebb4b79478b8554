/** The rehearsal as a table: what each phase took, and each figure beside what it should be. */
import type { PhaseResult, Rehearsal } from './rehearsal.ts';

export interface Machine {
  readonly processor: string;
  readonly cores: number;
  readonly threads: number;
  readonly memoryBytes: number;
  readonly node: string;
}

type Results = Readonly<Partial<Record<string, PhaseResult>>>;

const gb = (bytes: number): string => `${(bytes / 1e9).toFixed(2)} GB`;
const seconds = (value: number): string => `${value.toFixed(value < 10 ? 1 : 0)} s`;
const table = (titles: readonly string[], rows: readonly (readonly string[])[]): string =>
  [titles, titles.map(() => '---'), ...rows].map((row) => `| ${row.join(' | ')} |`).join('\n');

const descriptions: Readonly<Record<string, string>> = {
  read: 'read the shards twice',
  'quantize-load': 'bf16 shards to NF4 with double quantization in memory',
  quantize: '`lorikeet quantize`: a 4-bit folder',
  plan: '`lorikeet plan`',
  train: '`lorikeet train`: quantize-load, train, evaluate, save',
  resume: '`lorikeet train --resume auto`: the last step again',
  generate: '32 tokens, NF4 with adapter, exact f32',
  'generate-int8': "32 tokens, NF4 with adapter, computeDtype: 'int8'",
  merge: '`lorikeet merge --into original --no-compare`: a 16-bit folder, streamed',
  'generate-16-bit': '32 tokens, bf16 with adapter',
  'train-16-bit': '`lorikeet train` on the bf16 base',
  python: 'transformers + PEFT + bitsandbytes, the same job',
};

function phaseRow(name: string, result: PhaseResult): string[] {
  const { tokensPerSecond: rate } = result;
  const wall = typeof result.processSeconds === 'number' ? result.processSeconds : result.seconds;
  return [
    descriptions[name] ?? name,
    seconds(wall),
    seconds(result.cpuSeconds),
    gb(result.peakBytes),
    typeof rate === 'number' && name !== 'plan' ? rate.toFixed(2) : '',
  ];
}

/** A figure that was promised: what was measured, the bound, whether it holds. */
interface Figure {
  readonly what: string;
  readonly measured: string;
  readonly bound: string;
  readonly holds: boolean;
}

const numberOf = (result: PhaseResult | undefined, key: string): number | undefined =>
  typeof result?.[key] === 'number' ? result[key] : undefined;

function most(what: string, value: number | undefined, bound: number, show: (v: number) => string): Figure[] {
  return value === undefined
    ? []
    : [{ what, measured: show(value), bound: `at most ${show(bound)}`, holds: value <= bound }];
}

function ratio(what: string, ours: number | undefined, theirs: number | undefined, least: number): Figure[] {
  if (ours === undefined || theirs === undefined) return [];
  const value = ours / theirs;
  return [{ what, measured: `${value.toFixed(2)} x`, bound: `at least ${least} x`, holds: value >= least }];
}

function within(what: string, planned: number | undefined, real: number | undefined, part: number): Figure[] {
  if (planned === undefined || real === undefined) return [];
  const off = planned / real - 1;
  const bound = `within ${Math.round(part * 100)} %`;
  return [{ what, measured: `${off < 0 ? '' : '+'}${(off * 100).toFixed(1)} %`, bound, holds: Math.abs(off) <= part }];
}

function equal(what: string, holds: unknown): Figure[] {
  return holds === undefined
    ? []
    : [{ what, measured: holds ? 'equal' : 'different', bound: 'equal', holds: holds === true }];
}

function figures(r: Results): Figure[] {
  const { train, plan, python, read, resume, generate } = r;
  const [load, wide] = [r['quantize-load'], r['train-16-bit']];
  const beyondDisk = load && read ? load.seconds - (numberOf(read, 'againSeconds') ?? 0) : undefined;
  const [rate, best] = ['tokensPerSecond', 'bestTokensPerSecond'];
  const weights = [generate, r['generate-16-bit']].map((result) => numberOf(result, 'weightBytes'));
  return [
    ...most('peak memory of quantize-load', load?.peakBytes, 3.5e9, gb),
    ...most('quantize-load beyond disk time', beyondDisk, 30, seconds),
    ...most('peak memory of training', train?.peakBytes, 5e9, gb),
    ...most("peak memory of training, of Python's", train && python && train.peakBytes / python.peakBytes, 0.5, (v) => `${v.toFixed(2)} x`),
    ...most('peak memory of the streaming merge', r.merge?.peakBytes, 3e9, gb),
    ...equal('the resumed step: loss', resume?.sameLoss),
    ...equal('the resumed step: adapter, byte for byte', resume?.sameAdapter),
    ...within('planned peak memory', numberOf(plan, 'plannedPeakBytes'), train?.peakBytes, 0.1),
    ...within('planned tokens a second', numberOf(plan, 'plannedTokensPerSecond'), numberOf(train, rate!), 0.25),
    ...ratio('training tokens/s over our bf16 LoRA', numberOf(train, best!), numberOf(wide, best!), 0.85),
    ...ratio('training tokens/s over Python QLoRA', numberOf(train, rate!), numberOf(python, rate!), 1.5),
    ...ratio('generation tokens/s over our bf16', numberOf(generate, best!), numberOf(r['generate-16-bit'], best!), 1),
    ...most('weights in memory, of bf16', weights[0] && weights[1] && weights[0] / weights[1], 0.3, (v) => `${v.toFixed(2)} x`),
    ...ratio('generation tokens/s over Python', numberOf(generate, rate!), numberOf(python, 'generateTokensPerSecond'), 2),
  ]; // biome-ignore format: a table
}

export function reportOf(results: Results, machine: Machine, { steps, tokens }: Rehearsal): string {
  const done = Object.entries(results).flatMap(([name, result]) => (result ? [[name, result] as const] : []));
  const told = figures(results);
  return `# Phi-3-mini at full size

${machine.processor}, ${machine.threads} of ${machine.cores} threads, ${gb(machine.memoryBytes)}, Node ${machine.node}.
Random bf16 weights of the true shapes (\`tools/full-size\`); LoRA of rank 16 on all linears, AdamW, gradient checkpointing,
${steps} steps of ${tokens} tokens. Peak memory is the process's VmHWM.

${table(
  ['phase', 'wall', 'CPU', 'peak memory', 'tokens/s'],
  done.map(([name, result]) => phaseRow(name, result)),
)}

${table(
  ['figure', 'measured', 'bound', 'holds'],
  told.map(({ what, measured, bound, holds }) => [what, measured, bound, holds ? 'yes' : 'no']),
)}
`;
}
