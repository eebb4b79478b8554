import {
  cleanStale,
  discardDirectory,
  type FileSystem,
  joinPath,
  readJson,
  verifyManifest,
  writeDirectoryAtomic,
  writeJson,
} from '@lorikeet/files';
import type { Optimizer } from '@lorikeet/nn';
import { openSafetensors, writeSafetensors } from '@lorikeet/safetensors';
import type { DType } from '@lorikeet/tensor';

/** What a run must remember beside model and optimizer to go on with the same bits. */
export interface TrainerState {
  /** Of this layout; a higher one was written by a newer version. */
  readonly version: number;
  /** Optimizer steps done. */
  readonly step: number;
  readonly totalSteps: number;
  /** Tokens gone through, and those of them that were trained. */
  readonly totalTokens: number;
  readonly trainedTokens: number;
  /** Sum and count of the window losses so far, for train_loss. */
  readonly lossSum: number;
  readonly lossCount: number;
  /** Wall time of the run, earlier sessions included. */
  readonly elapsedMs: number;
  readonly best: { readonly evalLoss: number; readonly step: number } | null;
  /** Bytes of log.jsonl that belong to the steps up to this one. */
  readonly logBytes: number;
  /** Where the data order stands. */
  readonly sampler: unknown;
  /** Steps each parameter has seen. */
  readonly optimizerSteps: Readonly<Record<string, number>>;
  /** Settings and hashes that a resumed run must share. */
  readonly identity: Readonly<Record<string, unknown>>;
  /** Where the bits hold: another backend may continue, but not bit for bit. */
  readonly backend: Readonly<Record<string, unknown>>;
}

export const stateVersion = 1;
const stateName = 'state.json';
const optimizerName = 'optimizer.safetensors';
const pattern = /^checkpoint-(\d+)$/;

/** checkpoint-N: the folder's name as transformers spells it. */
export const checkpointPath = (outputDir: string, step: number): string => joinPath(outputDir, `checkpoint-${step}`);

/** Writes checkpoint-N so that it is complete or invisible. Returns its path. */
export async function saveCheckpoint(
  files: FileSystem,
  outputDir: string,
  state: TrainerState,
  optimizer: Optimizer,
  saveModel: (files: FileSystem, dir: string) => Promise<void>,
): Promise<string> {
  const path = checkpointPath(outputDir, state.step);
  await writeDirectoryAtomic(files, path, async (dir) => {
    await saveModel(files, dir);
    const entries = [...optimizer.stateDict().tensors].map(([name, t]) => ({
      name,
      dtype: t.dtype,
      shape: t.shape,
      bytes: () => t.bytes(),
    }));
    await writeSafetensors(files, joinPath(dir, optimizerName), entries, { format: 'pt' });
    await writeJson(files, joinPath(dir, stateName), state);
  });
  return path;
}

/** A checkpoint folder that was verified, and its state. */
export interface FoundCheckpoint {
  readonly path: string;
  readonly state: TrainerState;
}

/** Verifies one checkpoint: manifest, sizes, hashes, version. Throws what is wrong. */
export async function openCheckpointState(files: FileSystem, path: string): Promise<FoundCheckpoint> {
  await verifyManifest(files, path);
  const state = (await readJson(files, joinPath(path, stateName))) as TrainerState;
  if (state.version > stateVersion)
    throw new Error(
      `${path}: was written by a newer version (layout ${state.version}, this one reads ${stateVersion}). Update lorikeet to resume it.`,
    );
  if (!Number.isSafeInteger(state.step) || typeof state.identity !== 'object')
    throw new Error(`${path}: ${stateName} must hold a step and an identity. Choose another checkpoint.`);
  return { path, state };
}

/** Steps of the checkpoint folders in a directory, newest first. */
export async function listCheckpoints(files: FileSystem, outputDir: string): Promise<number[]> {
  if ((await files.kind(outputDir)) !== 'directory') return [];
  const steps = (await files.list(outputDir)).flatMap((name) => {
    const match = pattern.exec(name);
    return match ? [Number(match[1])] : [];
  });
  return steps.sort((a, b) => b - a);
}

/** The newest checkpoint that verifies; each bad one is passed over with one note. Clears leftovers of dead processes first. */
export async function findCheckpoint(
  files: FileSystem,
  outputDir: string,
  note: (message: string) => void,
): Promise<FoundCheckpoint | null> {
  const { recovered } = await cleanStale(files, outputDir);
  for (const path of recovered) note(`put back ${path}, whose writing had been cut short after it was complete`);
  for (const step of await listCheckpoints(files, outputDir)) {
    const path = checkpointPath(outputDir, step);
    try {
      return await openCheckpointState(files, path);
    } catch (error) {
      if (error instanceof Error && /newer version/.test(error.message)) throw error;
      note(`passed over ${path}: ${error instanceof Error ? error.message : String(error)}`);
    }
  }
  return null;
}

/** Optimizer moments back into the optimizer. */
export async function loadOptimizer(
  files: FileSystem,
  { path, state }: FoundCheckpoint,
  optimizer: Optimizer,
): Promise<void> {
  const reader = await openSafetensors(files, joinPath(path, optimizerName));
  const tensors = new Map<string, { dtype: DType; shape: readonly number[]; bytes: Uint8Array }>();
  for (const [name] of reader.entries) {
    const { dtype, shape } = reader.entry(name);
    tensors.set(name, { dtype: dtype as DType, shape, bytes: await reader.read(name) });
  }
  optimizer.loadStateDict({ steps: state.optimizerSteps, tensors });
}

/**
 * Removes the oldest checkpoints beyond `keep`, never the best one. Those after `newestStep` are left alone: they are broken ones that
 * resuming passed over, or belong to a run that was taken up again from an older one, and must not push out a good one.
 */
export async function rotateCheckpoints(
  files: FileSystem,
  outputDir: string,
  {
    newestStep,
    keep,
    bestStep,
  }: { readonly newestStep: number; readonly keep: number | null; readonly bestStep: number | null },
): Promise<void> {
  if (keep === null) return;
  const steps = (await listCheckpoints(files, outputDir)).filter((s) => s <= newestStep && s !== bestStep);
  // The best one is kept besides, unless it is the newest and so one of the `keep`.
  const others = bestStep === newestStep ? keep - 1 : keep;
  for (const step of steps.slice(others)) await discardDirectory(files, checkpointPath(outputDir, step));
}

/** Refuses a resumption under other settings, with every difference. */
export function compareIdentity(
  path: string,
  saved: Readonly<Record<string, unknown>>,
  now: Readonly<Record<string, unknown>>,
): void {
  const show = (v: unknown): string => (v === undefined ? 'absent' : JSON.stringify(v));
  const differences = [...new Set([...Object.keys(saved), ...Object.keys(now)])]
    .filter((key) => show(saved[key]) !== show(now[key]))
    .map((key) => `  ${key}: was ${show(saved[key])}, is ${show(now[key])}`);
  if (differences.length)
    throw new Error(
      `resume ${path}: settings and data must be those of the run that wrote it:\n${differences.join('\n')}\nUse the old ones, or start anew in another outputDir.`,
    );
}
