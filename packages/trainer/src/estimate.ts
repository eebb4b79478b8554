import { FileError } from '@lorikeet/files';
import { OutOfMemoryError } from '@lorikeet/tensor';

/** What a run's memory and time follow from. The caller knows the model; this file knows only the arithmetic. */
export interface RunFacts {
  /** Bytes of all weights as they lie in memory, the adapter's included. */
  readonly weightBytes: number;
  /** What the process holds before anything is loaded: runtime, code, rows. Default 0. */
  readonly processBytes?: number;
  readonly trainableParameters: number;
  readonly layers: number;
  readonly hiddenSize: number;
  /** Width inside the feed-forward part. */
  readonly intermediateSize: number;
  readonly vocabularySize: number;
  /** Width of queries, keys and values together. Default 3 hiddenSize. */
  readonly queryKeyValueSize?: number;
  /** Tokens of the largest micro-batch. */
  readonly tokensPerBatch: number;
  /** Tokens of an optimizer step, on average. */
  readonly tokensPerStep: number;
  readonly totalSteps: number;
  /** Steps done before this session. Default 0. */
  readonly stepsDone?: number;
  /** Layers are recomputed in the backward. Default false. */
  readonly gradientCheckpointing?: boolean;
  /** Whether dropout is above 0: some dropped copies are kept beside the originals. Default false. */
  readonly dropout?: boolean;
  /** Rows of logits that exist at a time. Default 256. */
  readonly chunkRows?: number;
  /** Checkpoints kept; null keeps all. Default 2. */
  readonly saveTotalLimit?: number | null;
  /** Checkpoints the run writes in all. Default 1. */
  readonly checkpoints?: number;
}

/** What three steps showed. */
export interface MeasuredSpeed {
  readonly tokensPerSecond: number;
  /** Most bytes the process took so far: replaces the planned peak where it is higher. */
  readonly peakBytes?: number;
}

/** Bytes of each part of the peak. */
export interface MemoryPlan {
  readonly weights: number;
  readonly gradients: number;
  readonly optimizer: number;
  /** What the backward needs of the forward, for one micro-batch. */
  readonly activations: number;
  /** Logits of one chunk, their softmax and their gradient. */
  readonly logits: number;
  /** What the process held before. */
  readonly process: number;
  readonly peakBytes: number;
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

const f32Bytes = 4;

/** Floats that one token leaves in one layer for the backward: inputs of norms and products, q k v before and after rotation, gate, up and their product. */
function floatsPerTokenAndLayer(facts: RunFacts): number {
  const { hiddenSize: d, intermediateSize: f, queryKeyValueSize: qkv = 3 * d } = facts;
  return (facts.dropout ? 7 : 5) * d + 2 * qkv + 3 * f;
}

/** Peak memory of training, by parts. */
export function planMemory(facts: RunFacts): MemoryPlan {
  const { tokensPerBatch: t, layers, hiddenSize: d, vocabularySize: v, chunkRows = 256, processBytes = 0 } = facts;
  for (const name of ['weightBytes', 'trainableParameters', 'layers', 'hiddenSize', 'tokensPerBatch'] as const)
    if (!(facts[name] >= 0 && Number.isFinite(facts[name])))
      throw new RangeError(`planMemory: ${name} must be a number of at least 0: got ${facts[name]}.`);
  const layer = t * floatsPerTokenAndLayer(facts) * f32Bytes;
  // Recomputing keeps each layer's input and one layer's inside; beside it stand the gradients that flow through that layer.
  const kept = facts.gradientCheckpointing ? layers * t * d * f32Bytes + layer : layers * layer;
  const activations = kept + layer / 2;
  const gradients = facts.trainableParameters * f32Bytes;
  const optimizer = facts.trainableParameters * 2 * f32Bytes;
  const logits = 3 * Math.min(chunkRows, t) * v * f32Bytes;
  const weights = facts.weightBytes;
  return {
    weights,
    gradients,
    optimizer,
    activations,
    logits,
    process: processBytes,
    peakBytes: Math.ceil(weights + gradients + optimizer + activations + logits + processBytes),
  };
}

/** What a run will cost: before step one from facts alone, after three steps with their speed. */
export function estimateRun(facts: RunFacts, measured?: MeasuredSpeed): RunEstimate {
  const memory = planMemory(facts);
  // Parameters and two moments in f32; names, state and manifest take some KiB.
  const checkpointBytes = facts.trainableParameters * 3 * f32Bytes + 65_536;
  const { saveTotalLimit = 2, checkpoints = 1, stepsDone = 0 } = facts;
  const standing = saveTotalLimit === null ? checkpoints : Math.min(checkpoints, saveTotalLimit + 1);
  const tokens = Math.max(0, facts.totalSteps - stepsDone) * facts.tokensPerStep;
  const speed = measured && measured.tokensPerSecond > 0 ? measured.tokensPerSecond : null;
  return {
    memory,
    peakBytes: Math.max(memory.peakBytes, measured?.peakBytes ?? 0),
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

/** What would help most, the largest part first. */
function advice(facts: RunFacts, { activations, weights, gradients, optimizer }: MemoryPlan): string {
  const perToken = activations / Math.max(1, facts.tokensPerBatch);
  const steps: readonly (readonly [bytes: number, text: string])[] = [
    [
      activations,
      facts.gradientCheckpointing
        ? `lower the batch size or maxLength (each token of a batch takes ${showBytes(perToken)})`
        : 'set gradientCheckpointing, or lower the batch size or maxLength',
    ],
    [weights, 'use a smaller base model'],
    [gradients + optimizer, 'lower the rank r, or adapt fewer modules'],
  ];
  const largest = Math.max(...steps.map(([bytes]) => bytes));
  // What is less than a tenth of the largest part changes nothing.
  return [...steps]
    .sort((a, b) => b[0] - a[0])
    .filter(([bytes]) => bytes >= largest / 10)
    .slice(0, 2)
    .map(([, text]) => text)
    .join('; or ');
}

/**
 * Stops a run that cannot fit, before anything is loaded.
 *
 * @throws OutOfMemoryError or FileError (ENOSPC), with what is needed, what there is and what to change
 */
export function requireRoom(facts: RunFacts, estimate: RunEstimate, room: Room): void {
  const { memoryBytes, workBytes, diskBytes, outputDir = 'outputDir' } = room;
  const { memory: m } = estimate;
  const parts = `weights ${showBytes(m.weights)}, gradients ${showBytes(m.gradients)}, optimizer ${showBytes(m.optimizer)}, activations ${showBytes(m.activations)}, logits ${showBytes(m.logits)}`;
  if (memoryBytes !== undefined && estimate.peakBytes > memoryBytes)
    throw new OutOfMemoryError(
      `estimate: the run must fit into ${showBytes(memoryBytes)} of memory: it needs about ${showBytes(estimate.peakBytes)} (${parts}). To change: ${advice(facts, m)}.`,
    );
  const adapter = facts.trainableParameters * f32Bytes;
  const work = adapter + m.gradients + m.optimizer + m.activations + m.logits;
  if (workBytes !== undefined && work > workBytes)
    throw new OutOfMemoryError(
      `estimate: all but the base weights must fit into ${showBytes(workBytes)} of memory, as much as this device computes in: it needs about ${showBytes(work)} (adapter ${showBytes(adapter)}, ${parts.replace(/^weights [^,]*, /, '')}). To change: ${advice(facts, { ...m, weights: 0 })}.`,
    );
  if (diskBytes !== undefined && estimate.diskBytes > diskBytes)
    throw new FileError(
      'ENOSPC',
      outputDir,
      `estimate: checkpoints must fit on the disk: ${outputDir} has ${showBytes(diskBytes)} free and the run needs about ${showBytes(estimate.diskBytes)} (${showBytes(estimate.checkpointBytes)} each). Lower saveTotalLimit, free some space, or choose another outputDir.`,
    );
}
