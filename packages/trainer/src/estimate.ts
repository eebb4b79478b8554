import { FileError } from '@lorikeet/files';
import { OutOfMemoryError } from '@lorikeet/tensor';
import type { StepMemory } from './plan-memory.ts';

/** Bytes of each part of the peak, and of what is a part of those. */
export interface MemoryPlan extends StepMemory {
  /** At most at once in the head and the loss, part of `activations`: a chunk of logits, its softmax and its gradient. */
  readonly logits: number;
  /** What the process holds beside tensors: runtime, code, rows, borrowed memory of kernels. */
  readonly process: number;
  /** Of the weights, what lies where everything else is computed (the cpu backend's work memory). Default 0. */
  readonly weightsInWork?: number;
}

/** What a run's cost follows from. */
export interface RunFacts {
  readonly memory: MemoryPlan;
  readonly trainableParameters: number;
  /** Tokens of an optimizer step, on average. */
  readonly tokensPerStep: number;
  readonly totalSteps: number;
  /** Steps done before this session. Default 0. */
  readonly stepsDone?: number;
  /** Checkpoints kept; null keeps all. Default 2. */
  readonly saveTotalLimit?: number | null;
  /** Checkpoints the run writes in all. Default 1. */
  readonly checkpoints?: number;
}

/** What a probe or the first three steps showed. */
export interface MeasuredSpeed {
  readonly tokensPerSecond: number;
  /** Most bytes the process took so far: replaces the planned peak where it is higher. */
  readonly peakBytes?: number;
}

export interface RunEstimate {
  readonly memory: MemoryPlan;
  readonly peakBytes: number;
  /** One checkpoint. */
  readonly checkpointBytes: number;
  /** All that stands on the disk at once: the kept ones, the best one, and the one being written. */
  readonly diskBytes: number;
  /** Tokens still to go through. */
  readonly tokens: number;
  /** Hours still to go; null before anything was measured. */
  readonly hours: number | null;
}

/** State, manifest and configuration of a checkpoint, and what each trained tensor adds: its name in three headers. */
const checkpointBase = 6500;
const checkpointBytesPerTensor = 430;

/** What a run will cost: before step one from facts alone, with its speed once that was probed or three steps were done. */
export function estimateRun(facts: RunFacts, measured?: MeasuredSpeed): RunEstimate {
  const { memory } = facts;
  const names = checkpointBase + checkpointBytesPerTensor * memory.trainedTensors;
  const checkpointBytes = memory.adapter + memory.optimizer + names;
  const { saveTotalLimit = 2, checkpoints = 1, stepsDone = 0 } = facts;
  const standing = saveTotalLimit === null ? checkpoints : Math.min(checkpoints, saveTotalLimit + 1);
  const tokens = Math.max(0, facts.totalSteps - stepsDone) * facts.tokensPerStep;
  const speed = measured && measured.tokensPerSecond > 0 ? measured.tokensPerSecond : null;
  return {
    memory,
    peakBytes: Math.max(memory.peakBytes + memory.process, measured?.peakBytes ?? 0),
    checkpointBytes,
    diskBytes: checkpoints === 0 ? 0 : (standing + 1) * checkpointBytes,
    tokens,
    hours: speed === null ? null : tokens / speed / 3600,
  };
}

const units = ['B', 'KiB', 'MiB', 'GiB', 'TiB'];

/** Bytes for people: 1.5 GiB. */
export function showBytes(bytes: number): string {
  const power = Math.min(units.length - 1, Math.max(0, Math.floor(Math.log2(Math.max(1, bytes)) / 10)));
  const value = bytes / 1024 ** power;
  return `${power === 0 || value >= 100 ? Math.round(value) : value.toPrecision(2)} ${units[power]}`;
}

function showHours(hours: number): string {
  const seconds = hours * 3600;
  if (seconds < 1.5) return '1 second';
  if (seconds < 90) return `${Math.round(seconds)} seconds`;
  return hours < 1.5 ? `${Math.round(hours * 60)} minutes` : `${hours.toFixed(1)} hours`;
}

/** The one line a user reads: peak memory, disk, tokens, time. */
export function describeRun({ peakBytes, diskBytes, tokens, hours }: RunEstimate): string {
  const time = hours === null ? 'time known after 3 steps' : `about ${showHours(hours)} at this machine's speed`;
  return `this run needs about ${showBytes(peakBytes)} of memory and ${showBytes(diskBytes)} of disk, for ${Math.round(tokens)} tokens: ${time}`;
}

/** What a machine has; absent values are not checked. */
export interface Room {
  readonly memoryBytes?: number | undefined;
  /** Of it, what everything but frozen weights must share (the cpu backend's work memory). */
  readonly workBytes?: number | undefined;
  readonly diskBytes?: number | undefined;
  /** Where checkpoints go, for the message. */
  readonly outputDir?: string;
}

/** A change to the options and the bytes it gives back. */
export interface MemoryChange {
  /** As an instruction: "set training.gradientCheckpointing: true". */
  readonly change: string;
  readonly savesBytes: number;
}

/** Whether a run fits; what is unknown fits. */
export function hasRoom(estimate: RunEstimate, { memoryBytes, workBytes, diskBytes }: Room): boolean {
  const within = (need: number, most: number | undefined): boolean => most === undefined || need <= most;
  return (
    within(estimate.peakBytes, memoryBytes) &&
    within(workOf(estimate.memory), workBytes) &&
    within(estimate.diskBytes, diskBytes)
  );
}

/** Bytes that must stand in work memory at once. */
const workOf = ({ peakBytes, weights, weightsInWork = 0 }: MemoryPlan): number => peakBytes - weights + weightsInWork;

/** The changes that help, the best first; without any, what is left to a person. */
function advice(changes: readonly MemoryChange[]): string {
  const helpful = changes.filter(({ savesBytes }) => savesBytes > 0).sort((a, b) => b.savesBytes - a.savesBytes);
  if (helpful.length === 0) return 'lower the batch size, data.maxLength or the rank r, or use a smaller base model';
  return helpful.map(({ change, savesBytes }) => `${change} (saves ${showBytes(savesBytes)})`).join('; or ');
}

/**
 * Stops a run that cannot fit, before anything is loaded.
 *
 * @param changes what could be changed and what it would save
 * @throws OutOfMemoryError or FileError (ENOSPC), with what is needed, what there is and what to change
 */
export function requireRoom(estimate: RunEstimate, room: Room, changes: readonly MemoryChange[] = []): void {
  const { memoryBytes, workBytes, diskBytes, outputDir = 'outputDir' } = room;
  const { memory: m } = estimate;
  const parts = `weights ${showBytes(m.weights)}, adapter ${showBytes(m.adapter)}, gradients ${showBytes(m.gradients)}, optimizer ${showBytes(m.optimizer)}, activations ${showBytes(m.activations)}`;
  if (memoryBytes !== undefined && estimate.peakBytes > memoryBytes)
    throw new OutOfMemoryError(
      `estimate: the run must fit into ${showBytes(memoryBytes)} of memory: it needs about ${showBytes(estimate.peakBytes)} (${parts}). To change: ${advice(changes)}.`,
    );
  const work = workOf(m);
  if (workBytes !== undefined && work > workBytes)
    throw new OutOfMemoryError(
      `estimate: all but the base weights must fit into ${showBytes(workBytes)} of memory, as much as this device computes in: it needs about ${showBytes(work)} (${parts}). To change: ${advice(changes)}.`,
    );
  if (diskBytes !== undefined && estimate.diskBytes > diskBytes)
    throw new FileError(
      'ENOSPC',
      outputDir,
      `estimate: checkpoints must fit on the disk: ${outputDir} has ${showBytes(diskBytes)} free and the run needs about ${showBytes(estimate.diskBytes)} (${showBytes(estimate.checkpointBytes)} each). Lower saveTotalLimit, free some space, or choose another outputDir.`,
    );
}
