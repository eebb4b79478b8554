/** A run, planned: memory by parts, other bases beside it, time from a probe, and what could be changed. */
import { qloraConfig } from '@lorikeet/lora';
import type { Backend } from '@lorikeet/tensor';
import {
  type Batch,
  type BatchSource,
  estimateRun,
  hasRoom,
  type MemoryChange,
  type RunEstimate,
} from '@lorikeet/trainer';
import type { ResolvedConfig } from '../config/schema.ts';
import { baseBytes, type DryRunInput } from './dry-run.ts';
import { memoryChanges } from './memory-changes.ts';
import { type PreparedRun, type PrepareEnvironment, prepareRun } from './prepare-run.ts';
import { type ProbedSpeed, probeSpeed } from './probe-speed.ts';

/** A form of the base and what it would take. */
export interface BaseForm {
  readonly name: string;
  readonly bytes: number;
}

export interface PlannedRun {
  readonly run: PreparedRun;
  readonly estimate: RunEstimate;
  readonly bases: readonly BaseForm[];
  readonly changes: readonly MemoryChange[];
  readonly speed: ProbedSpeed | undefined;
  readonly room: PreparedRun['room'];
  readonly fits: boolean;
}

/** The base in 16 bits, in 4 bits with double quantization and in 8 bits. */
async function baseForms(dry: DryRunInput): Promise<BaseForm[]> {
  const forms = [
    ['in 16 bits', undefined],
    ['in 4 bits (nf4, double quantization)', qloraConfig],
    ['in 8 bits', { loadIn8bit: true }],
  ] as const;
  const made: BaseForm[] = [];
  for (const [name, quantization] of forms) made.push({ name, bytes: await baseBytes({ ...dry, quantization }) });
  return made;
}

/** Micro-batches among which one of average length is looked for. */
const seenBatches = 64;

/** A micro-batch of a step like the average one. */
function averageBatch(batches: BatchSource): Batch {
  const state = batches.state();
  const seen = Array.from({ length: Math.min(seenBatches, batches.batchesPerEpoch) }, () => batches.next());
  batches.restore(state);
  const average = batches.tokensPerEpoch / batches.batchesPerEpoch;
  const distance = ({ ids }: Batch): number => Math.abs(ids.length - average);
  return seen.reduce((best, next) => (distance(next) < distance(best) ? next : best));
}

/** Plans without loading a weight. With `probe`, about ten seconds of the run's own kernels say how fast it will be. */
export async function planRun(
  config: ResolvedConfig,
  { probe, backend, ...environment }: PrepareEnvironment & { readonly backend: Backend; readonly probe: boolean },
): Promise<PlannedRun> {
  const run = await prepareRun(config, { ...environment, backend });
  const { dry, room, facts, checkpointing } = run;
  const bases = await baseForms(dry);
  const changes = await memoryChanges(run);
  const speed = probe ? await probeSpeed(dry, averageBatch(run.batches), checkpointing) : undefined;
  const estimate = speed ? estimateRun(facts, { tokensPerSecond: speed.tokensPerSecond }) : run.estimate;
  return { run, estimate, bases, changes, speed, room, fits: hasRoom(estimate, room) };
}
