/** What `train` yields, in order: start, (note | step | evaluate | checkpoint)*, end. */
export type TrainEvent = StartEvent | StepEvent | EvaluateEvent | CheckpointEvent | NoteEvent | EndEvent;

/** The first event, before anything is computed. */
export interface StartEvent {
  readonly type: 'start';
  readonly totalSteps: number;
  readonly stepsPerEpoch: number;
  /** The first step to run: 1, or the one after the checkpoint that is resumed. */
  readonly firstStep: number;
  readonly trainableParameters: number;
  readonly totalParameters: number;
  /** Folder of the checkpoint, or null for a fresh start. */
  readonly resumedFrom: string | null;
}

/** One optimizer step. Yielded for every step, so that a progress bar can move; `logged` ones are in log.jsonl. */
export interface StepEvent {
  readonly type: 'step';
  readonly step: number;
  readonly totalSteps: number;
  /** Epochs done, with fraction. */
  readonly epoch: number;
  /** Mean negative log-likelihood of the window's trained tokens, in nats. */
  readonly loss: number;
  /** Global L2 norm before clipping. */
  readonly gradNorm: number;
  /** Of this step: peak rate times the schedule's factor. */
  readonly learningRate: number;
  /** Tokens of this step, and those of them that were trained. */
  readonly tokens: number;
  readonly trainedTokens: number;
  /** Tokens since the start of the run, earlier sessions included. */
  readonly totalTokens: number;
  /** Of this session; elapsedMs is the run's wall time, earlier sessions included. */
  readonly tokensPerSecond: number;
  readonly elapsedMs: number;
  /** Most bytes that tensors took at once so far. */
  readonly peakBytes: number;
  readonly logged: boolean;
}

/** Held-out rows were measured after this step. */
export interface EvaluateEvent {
  readonly type: 'evaluate';
  readonly step: number;
  readonly epoch: number;
  /** What RunOptions.evaluate returned; evalLoss in nats. */
  readonly metrics: Readonly<{ evalLoss: number } & Record<string, number>>;
  /** Lowest evaluation loss so far. */
  readonly best: boolean;
}

/** A checkpoint is complete on the disk. */
export interface CheckpointEvent {
  readonly type: 'checkpoint';
  readonly step: number;
  readonly path: string;
  /** Time the writing took. */
  readonly elapsedMs: number;
}

/** Something the user should read. */
export interface NoteEvent {
  readonly type: 'note';
  readonly message: string;
}

/** The last event. Not yielded when the run throws. */
export interface EndEvent {
  readonly type: 'end';
  readonly reason: 'finished' | 'interrupted';
  readonly step: number;
  readonly totalSteps: number;
  readonly elapsedMs: number;
  readonly totalTokens: number;
  readonly tokensPerSecond: number;
  readonly peakBytes: number;
  /** Mean of the logged window losses, as transformers' train_loss. */
  readonly trainLoss: number;
  readonly bestCheckpoint: string | null;
  /** The newest checkpoint: where to resume after an interruption. */
  readonly lastCheckpoint: string | null;
}
