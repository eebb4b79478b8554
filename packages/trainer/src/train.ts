import { acquireLock, type FileSystem, joinPath } from '@lorikeet/files';
import {
  AdamW,
  clipGradNorm,
  decayGroups,
  type ModuleLike,
  namedParameters,
  scheduleByName,
  setTraining,
  trainableParameters,
} from '@lorikeet/nn';
import { type Gradients, memory, NonFiniteError, randomKey, scope, type Tensor, withRandom } from '@lorikeet/tensor';
import {
  checkpointPath,
  compareIdentity,
  type FoundCheckpoint,
  findCheckpoint,
  loadOptimizer,
  openCheckpointState,
  rotateCheckpoints,
  saveCheckpoint,
  stateVersion,
  type TrainerState,
} from './checkpoints.ts';
import type { EndEvent, EvaluateEvent, StepEvent, TrainEvent } from './events.ts';
import { planSteps, type ResolvedOptions, type RunOptions, resolveOptions } from './options.ts';
import { loadParameters, saveParameters } from './parameters.ts';
import { RunLog } from './run-log.ts';

/** What the loop needs of a batch; the rest is between the data and the loss. */
export interface TrainBatch {
  /** Token ids of all sequences, [t]. */
  readonly ids: Int32Array;
  /** Targets that count: the batch's weight in its accumulation window. */
  readonly trainedTokens: number;
  /** Lines of the rows in their file, for messages. */
  readonly lines: readonly number[];
}

/** Batches without end, epoch after epoch; createBatches makes one. */
export interface TrainBatches<B extends TrainBatch> {
  readonly batchesPerEpoch: number;
  next(): B;
  state(): unknown;
  restore(state: never): void;
}

/** The scalar loss of one batch: the sum over its trained tokens divided by `normalizer`. Synchronous. */
export type LossFunction<B> = (batch: B, options: { readonly normalizer: number }) => Tensor;

/** Lets timers, signals and messages in between two steps of a busy CPU. */
const breathe = (): Promise<void> => new Promise((resolve) => setTimeout(resolve, 0));

/**
 * Trains a module's trainable parameters with AdamW: the loop of transformers' Trainer, as an async iterable of events.
 * Checkpoints are complete or invisible, and a resumed run continues the same bits. The loop knows no model and no adapter.
 *
 * @throws NonFiniteError naming step and rows when the loss or a gradient is not finite; the last checkpoint stands
 */
export async function* train<B extends TrainBatch>(
  model: ModuleLike,
  loss: LossFunction<B>,
  batches: TrainBatches<B>,
  options: RunOptions,
): AsyncGenerator<TrainEvent, void, void> {
  await options.files.makeDirectory(options.outputDir);
  await using lock = await acquireLock(options.files, options.outputDir);
  if (lock.notice) yield { type: 'note', message: lock.notice };
  const run = new Run(model, loss, batches, options);
  try {
    yield* run.events();
  } finally {
    run.dispose();
  }
}

class Run<B extends TrainBatch> {
  readonly #model: ModuleLike;
  readonly #loss: LossFunction<B>;
  readonly #batches: TrainBatches<B>;
  readonly #given: RunOptions;
  readonly #options: ResolvedOptions;
  readonly #files: FileSystem;
  readonly #parameters: ReturnType<typeof trainableParameters>;
  readonly #optimizer: AdamW;
  readonly #plan: ReturnType<typeof planSteps>;
  readonly #identity: Readonly<Record<string, unknown>>;
  readonly #notes: string[] = [];
  #log!: RunLog;
  #step = 0;
  #totals = { totalTokens: 0, trainedTokens: 0, lossSum: 0, lossCount: 0 };
  #best: TrainerState['best'] = null;
  #lastSaved: number | null = null;
  #earlierMs = 0;
  #startedAt = performance.now();
  #startTokens = 0;

  constructor(model: ModuleLike, loss: LossFunction<B>, batches: TrainBatches<B>, options: RunOptions) {
    [this.#model, this.#loss, this.#batches, this.#given, this.#files] = [model, loss, batches, options, options.files];
    const o = resolveOptions(options);
    this.#options = o;
    this.#parameters = trainableParameters(model);
    if (this.#parameters.length === 0)
      throw new Error(
        'train: the model must have trainable parameters: all are frozen. Apply an adapter, or set requiresGrad.',
      );
    if ((o.evalStrategy !== 'no' || o.loadBestModelAtEnd) && !options.evaluate)
      throw new Error(
        `train: evalStrategy ${o.evalStrategy} needs an evaluation set: none was given. Give one, or set evalStrategy to no.`,
      );
    this.#optimizer = new AdamW(decayGroups(this.#parameters, o.weightDecay), {
      lr: o.learningRate,
      betas: [o.adamBeta1, o.adamBeta2],
      eps: o.adamEpsilon,
    });
    this.#plan = planSteps(batches.batchesPerEpoch, o);
    const { resumeFromCheckpoint: _, loggingSteps: __, saveTotalLimit: ___, ...fixed } = o;
    this.#identity = { ...fixed, ...options.identity, totalSteps: this.#plan.totalSteps };
  }

  dispose(): void {
    this.#optimizer.dispose();
  }

  async *events(): AsyncGenerator<TrainEvent, void, void> {
    const resumed = await this.#resume();
    yield* this.#takeNotes();
    const { totalSteps, stepsPerEpoch } = this.#plan;
    const all = namedParameters(this.#model);
    const count = (list: readonly { readonly tensor: Tensor }[]): number =>
      list.reduce((n, { tensor }) => n + tensor.size, 0);
    yield {
      type: 'start',
      totalSteps,
      stepsPerEpoch,
      firstStep: this.#step + 1,
      trainableParameters: count(this.#parameters),
      totalParameters: count(all),
      resumedFrom: resumed?.path ?? null,
    };
    setTraining(this.#model, true);
    while (this.#step < totalSteps && !this.#given.signal?.aborted) {
      yield await this.#runStep();
      yield* this.#takeNotes();
      yield* this.#afterStep();
    }
    yield* this.#finish();
  }

  *#takeNotes(): Generator<TrainEvent, void, void> {
    for (const message of this.#notes.splice(0)) yield { type: 'note', message };
  }

  async #resume(): Promise<FoundCheckpoint | null> {
    const { outputDir } = this.#given;
    const from = this.#options.resumeFromCheckpoint;
    const found =
      from === null
        ? null
        : from === 'auto'
          ? await findCheckpoint(this.#files, outputDir, (m) => this.#notes.push(m))
          : await openCheckpointState(this.#files, from);
    if (from === 'auto' && !found) this.#notes.push(`no checkpoint in ${outputDir} to resume: starting at step 1`);
    if (found) await this.#restore(found);
    this.#log = await RunLog.open(this.#files, outputDir, found?.state.logBytes ?? 0);
    return found;
  }

  async #restore(found: FoundCheckpoint): Promise<void> {
    const { state, path } = found;
    compareIdentity(path, state.identity, JSON.parse(JSON.stringify(this.#identity)));
    await (this.#given.loadModel ?? ((files, dir) => loadParameters(files, dir, this.#parameters)))(this.#files, path);
    await loadOptimizer(this.#files, found, this.#optimizer);
    this.#batches.restore(state.sampler as never);
    const now = this.#backendRecord();
    if (JSON.stringify(now) !== JSON.stringify(state.backend))
      this.#notes.push(
        `resume is not bit-exact: the backend was ${JSON.stringify(state.backend)} and is ${JSON.stringify(now)}`,
      );
    const { totalTokens, trainedTokens, lossSum, lossCount } = state;
    this.#totals = { totalTokens, trainedTokens, lossSum, lossCount };
    [this.#step, this.#best, this.#earlierMs, this.#startTokens, this.#lastSaved] = [
      state.step,
      state.best,
      state.elapsedMs,
      totalTokens,
      state.step,
    ];
  }

  #backendRecord(): Readonly<Record<string, unknown>> {
    const { determinism, name } = this.#parameters[0]!.tensor.backend.describe() as {
      determinism?: unknown;
      name?: unknown;
    };
    return JSON.parse(JSON.stringify({ name, determinism })) as Record<string, unknown>;
  }

  get #epoch(): number {
    return this.#step / this.#plan.stepsPerEpoch;
  }
  get #elapsedMs(): number {
    return this.#earlierMs + performance.now() - this.#startedAt;
  }
  get #tokensPerSecond(): number {
    return ((this.#totals.totalTokens - this.#startTokens) * 1000) / Math.max(1, performance.now() - this.#startedAt);
  }
  get #peakBytes(): number {
    return memory(this.#parameters[0]!.tensor.backend).peakBytes;
  }

  /** The micro-batches of the next window; the last one of an epoch may be short. */
  #nextWindow(): B[] {
    const { gradientAccumulationSteps: n } = this.#options;
    const used = (this.#step % this.#plan.stepsPerEpoch) * n;
    return Array.from({ length: Math.min(n, this.#batches.batchesPerEpoch - used) }, () => this.#batches.next());
  }

  async #runStep(): Promise<StepEvent> {
    const window = this.#nextWindow();
    const normalizer = window.reduce((sum, b) => sum + b.trainedTokens, 0);
    const rows = window.flatMap((b) => b.lines);
    const step = this.#step + 1;
    const learningRateFactor = scheduleByName(this.#options.lrSchedulerType)(
      this.#step,
      this.#plan.totalSteps,
      this.#plan.warmupSteps,
      this.#options.lrSchedulerOptions,
    );
    let [value, norm] = [0, 0];
    if (normalizer === 0) this.#notes.push(`step ${step}: no token of its rows is trained; nothing was updated`);
    else {
      const { gradients, losses } = await this.#windowGradients(window, normalizer, step);
      try {
        value = await this.#readLoss(losses, step, rows);
        const clipped = await this.#clip(gradients, step, rows);
        norm = clipped.norm;
        scope(() => this.#optimizer.step(gradients, { gradScale: clipped.scale, lrFactor: learningRateFactor }));
      } finally {
        gradients.dispose();
        for (const t of losses) t.dispose();
      }
    }
    const tokens = window.reduce((sum, b) => sum + b.ids.length, 0);
    this.#totals.totalTokens += tokens;
    this.#totals.trainedTokens += normalizer;
    this.#totals.lossSum += value;
    this.#totals.lossCount++;
    this.#step = step;
    const logged = step === 1 || step === this.#plan.totalSteps || step % this.#options.loggingSteps === 0;
    const event: StepEvent = {
      type: 'step', step, totalSteps: this.#plan.totalSteps, epoch: this.#epoch, loss: value, gradNorm: norm,
      learningRate: this.#options.learningRate * learningRateFactor, tokens, trainedTokens: normalizer, totalTokens: this.#totals.totalTokens,
      tokensPerSecond: this.#tokensPerSecond, elapsedMs: this.#elapsedMs, peakBytes: this.#peakBytes, logged,
    }; // biome-ignore format: one event
    if (logged) {
      const { type: _, logged: __, totalSteps: ___, ...line } = event;
      await this.#log.write(line);
    }
    return event;
  }

  /** Forward and backward of every micro-batch; gradients summed, losses one a micro-batch. */
  async #windowGradients(
    window: readonly B[],
    normalizer: number,
    step: number,
  ): Promise<{ gradients: Gradients; losses: Tensor[] }> {
    let gradients: Gradients | null = null;
    const losses: Tensor[] = [];
    const key = randomKey(this.#options.seed, 'dropout', step);
    for (const [i, batch] of window.entries()) {
      await breathe();
      if (batch.trainedTokens === 0) continue;
      const made = withRandom(key.fold(i), () =>
        scope(() => {
          const l = this.#loss(batch, { normalizer });
          return { gradients: l.backward(), loss: l.detach() };
        }),
      );
      gradients = gradients ? gradients.accumulate(made.gradients) : made.gradients;
      losses.push(made.loss);
    }
    return { gradients: gradients!, losses };
  }

  async #readLoss(losses: readonly Tensor[], step: number, rows: readonly number[]): Promise<number> {
    let value = 0;
    for (const t of losses) value += await t.item();
    if (!Number.isFinite(value)) throw new NonFiniteError(this.#nonFinite(step, rows, `the loss is ${value}`));
    return value;
  }

  async #clip(gradients: Gradients, step: number, rows: readonly number[]): Promise<{ norm: number; scale: number }> {
    try {
      return await clipGradNorm(gradients, this.#parameters, this.#options.maxGradNorm || null);
    } catch (error) {
      if (error instanceof NonFiniteError)
        throw new NonFiniteError(this.#nonFinite(step, rows, error.message), { cause: error });
      throw error;
    }
  }

  #nonFinite(step: number, rows: readonly number[], what: string): string {
    const kept =
      this.#lastSaved === null
        ? 'No checkpoint was written yet.'
        : `The last good checkpoint is ${checkpointPath(this.#given.outputDir, this.#lastSaved)}.`;
    return `train: numbers must stay finite: at step ${step} (rows ${rows.slice(0, 8).join(', ')}${rows.length > 8 ? ', ...' : ''}) ${what}. Lower learningRate or maxGradNorm, or look at these rows. ${kept}`;
  }

  #due(strategy: ResolvedOptions['saveStrategy'], every: number): boolean {
    if (strategy === 'steps') return this.#step % every === 0;
    return strategy === 'epoch' && this.#step % this.#plan.stepsPerEpoch === 0;
  }

  async *#afterStep(): AsyncGenerator<TrainEvent, void, void> {
    const o = this.#options;
    if (this.#due(o.evalStrategy, o.evalSteps) || (o.evalStrategy !== 'no' && this.#step === this.#plan.totalSteps))
      yield await this.#evaluate();
    if (this.#due(o.saveStrategy, o.saveSteps)) yield* this.#save();
  }

  async #evaluate(): Promise<EvaluateEvent> {
    setTraining(this.#model, false);
    const metrics = await this.#given.evaluate!();
    setTraining(this.#model, true);
    const best = !this.#best || metrics.evalLoss < this.#best.evalLoss;
    if (best) this.#best = { evalLoss: metrics.evalLoss, step: this.#step };
    const event: EvaluateEvent = { type: 'evaluate', step: this.#step, epoch: this.#epoch, metrics, best };
    await this.#log.write({ step: this.#step, epoch: this.#epoch, ...metrics });
    return event;
  }

  async *#save(): AsyncGenerator<TrainEvent, void, void> {
    if (this.#lastSaved === this.#step) return;
    const start = performance.now();
    await this.#log.sync();
    const state: TrainerState = {
      version: stateVersion, step: this.#step, totalSteps: this.#plan.totalSteps, ...this.#totals, elapsedMs: this.#elapsedMs, best: this.#best,
      logBytes: this.#log.bytes, sampler: this.#batches.state(), optimizerSteps: this.#optimizer.stateDict().steps,
      identity: this.#identity, backend: this.#backendRecord(),
    }; // biome-ignore format: one record
    const saveModel =
      this.#given.saveModel ?? ((files: FileSystem, dir: string) => saveParameters(files, dir, this.#parameters));
    const path = await saveCheckpoint(this.#files, this.#given.outputDir, state, this.#optimizer, saveModel);
    this.#lastSaved = this.#step;
    await rotateCheckpoints(this.#files, this.#given.outputDir, this.#options.saveTotalLimit, this.#best?.step ?? null);
    yield { type: 'checkpoint', step: this.#step, path, elapsedMs: performance.now() - start };
  }

  async *#finish(): AsyncGenerator<TrainEvent, void, void> {
    const interrupted = this.#step < this.#plan.totalSteps;
    if (this.#step > 0 && (interrupted || this.#options.saveStrategy !== 'no')) yield* this.#save();
    const { outputDir } = this.#given;
    const bestCheckpoint =
      this.#best && (await this.#files.exists(checkpointPath(outputDir, this.#best.step)))
        ? checkpointPath(outputDir, this.#best.step)
        : null;
    if (!interrupted && this.#options.loadBestModelAtEnd && bestCheckpoint && this.#best!.step !== this.#step) {
      await (this.#given.loadModel ?? ((files, dir) => loadParameters(files, dir, this.#parameters)))(
        this.#files,
        bestCheckpoint,
      );
      yield {
        type: 'note',
        message: `loaded the best checkpoint, ${bestCheckpoint} (evaluation loss ${this.#best!.evalLoss.toFixed(4)})`,
      };
    }
    setTraining(this.#model, false);
    const end: EndEvent = {
      type: 'end', reason: interrupted ? 'interrupted' : 'finished', step: this.#step, totalSteps: this.#plan.totalSteps,
      elapsedMs: this.#elapsedMs, totalTokens: this.#totals.totalTokens, tokensPerSecond: this.#tokensPerSecond, peakBytes: this.#peakBytes,
      trainLoss: this.#totals.lossSum / Math.max(1, this.#totals.lossCount), bestCheckpoint,
      lastCheckpoint: this.#lastSaved === null ? null : checkpointPath(outputDir, this.#lastSaved),
    }; // biome-ignore format: one event
    yield end;
  }
}

/** The path of a run's summary. */
export const summaryPath = (outputDir: string): string => joinPath(outputDir, 'summary.json');
