import { acquireLock, cleanStale, discardDirectory, type FileSystem } from '@lorikeet/files';
import {
  clipGradNorm,
  decayGroups,
  Embedding,
  type ModuleLike,
  type NamedParameter,
  namedModules,
  namedParameters,
  type Optimizer,
  optimizerByName,
  parametersIn,
  scheduleByName,
  setTraining,
  trainableParameters,
} from '@lorikeet/nn';
import { type Gradients, memory, NonFiniteError, randomKey, scope, type Tensor } from '@lorikeet/tensor';
import { accumulateWindow, type LossFunction, type TrainBatch } from './accumulate-window.ts';
import {
  checkpointPath,
  compareIdentity,
  type FoundCheckpoint,
  findCheckpoint,
  listCheckpoints,
  loadOptimizer,
  openCheckpointState,
  rotateCheckpoints,
  saveCheckpoint,
  stateVersion,
  type TrainerState,
} from './checkpoints.ts';
import type { EndEvent, EvaluateEvent, StepEvent, TrainEvent } from './events.ts';
import { fixedOptions, planSteps, type ResolvedOptions, type RunOptions, resolveOptions } from './options.ts';
import { loadParameters, saveParameters } from './parameters.ts';
import { RunLog } from './run-log.ts';
import { EventFile } from './tensorboard.ts';

/** Batches without end, epoch after epoch; createBatches makes one. */
export interface TrainBatches<B extends TrainBatch> {
  /** Micro-batches of one epoch. */
  readonly batchesPerEpoch: number;
  /** The next micro-batch, without end. */
  next(): B;
  /** Where the order stands, as JSON for a checkpoint; `restore` goes on from there. */
  state(): unknown;
  restore(state: never): void;
}

/**
 * Trains a module's trainable parameters: the loop of transformers' Trainer, as an async iterable of events.
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
  using run = new Run(model, loss, batches, options); // refuses bad options before anything is written
  await options.files.makeDirectory(options.outputDir);
  const lock = await acquireLock(options.files, options.outputDir);
  try {
    if (lock.notice) yield { type: 'note', message: lock.notice };
    yield* run.events();
  } finally {
    setTraining(model, false);
    // A disk that fails here too must not hide the first error; a lock left behind is taken over at the next start.
    await lock.release().catch(() => undefined);
  }
}

/** A loss above this with no gradient at all is a broken model, not a learned one (a learned one has loss 0 to f32). */
const vanishedLoss = 1e-3;

/** transformers keeps the state of embeddings in 32 bits: their rows get few and large gradients. */
const embeddingWeights = (model: ModuleLike): Set<string> =>
  new Set([...namedModules(model)].flatMap(([path, m]) => (m instanceof Embedding ? [`${path}.weight`] : [])));

class Run<B extends TrainBatch> {
  readonly #model: ModuleLike;
  readonly #loss: LossFunction<B>;
  readonly #batches: TrainBatches<B>;
  readonly #given: RunOptions;
  readonly #options: ResolvedOptions;
  readonly #files: FileSystem;
  readonly #parameters: ReturnType<typeof trainableParameters>;
  readonly #optimizer: Optimizer;
  readonly #plan: ReturnType<typeof planSteps>;
  readonly #identity: Readonly<Record<string, unknown>>;
  readonly #notes: string[] = [];
  #log!: RunLog;
  #step = 0;
  #totals = { totalTokens: 0, trainedTokens: 0, lossSum: 0, lossCount: 0 };
  #best: TrainerState['best'] = null;
  /** Path of the newest good checkpoint. */
  #lastSaved: string | null = null;
  #board: EventFile | null = null;
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
    this.#optimizer = optimizerByName(o.optim)(decayGroups(this.#parameters, o.weightDecay), {
      lr: o.learningRate,
      betas: [o.adamBeta1, o.adamBeta2],
      eps: o.adamEpsilon,
      weightDecay: o.weightDecay,
      keep32bit: embeddingWeights(model),
    });
    this.#plan = planSteps(batches.batchesPerEpoch, o);
    this.#identity = { ...fixedOptions(o), ...options.identity, totalSteps: this.#plan.totalSteps };
  }

  [Symbol.dispose](): void {
    this.#optimizer.dispose();
  }

  async *events(): AsyncGenerator<TrainEvent, void, void> {
    const resumed = await this.#resume();
    yield* this.#takeNotes();
    const { totalSteps, stepsPerEpoch } = this.#plan;
    const all = namedParameters(this.#model);
    const count = (list: readonly NamedParameter[]): number =>
      list.reduce((n, { path, tensor }) => n + parametersIn(path, tensor), 0);
    if (this.#options.reportTo.includes('tensorboard'))
      this.#board = await EventFile.open(this.#files, this.#given.outputDir, this.#step + 1);
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
      const event = await this.#runStep();
      if (!event) break;
      yield event;
      yield* this.#takeNotes();
      this.#requireTrainedTokens();
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
    if (from === null) await this.#clearOutput();
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

  /** A fresh start among another run's checkpoints would one day resume from the wrong one. */
  async #clearOutput(): Promise<void> {
    const { outputDir } = this.#given;
    await cleanStale(this.#files, outputDir);
    const old = await listCheckpoints(this.#files, outputDir);
    if (old.length && !this.#options.overwriteOutputDir)
      throw new Error(
        `train: a fresh start needs an outputDir without checkpoints: ${outputDir} holds checkpoint-${old[0]}. Resume it (resumeFromCheckpoint: 'auto'), choose another outputDir, or set overwriteOutputDir to remove what is there.`,
      );
    for (const step of old) await discardDirectory(this.#files, checkpointPath(outputDir, step));
  }

  async #restore(found: FoundCheckpoint): Promise<void> {
    const { state, path } = found;
    compareIdentity(path, state.identity, JSON.parse(JSON.stringify(this.#identity)));
    await this.#loadModel(path);
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
      path,
    ];
  }

  #loadModel(dir: string): Promise<void> {
    const load =
      this.#given.loadModel ?? ((files: FileSystem, from: string) => loadParameters(files, from, this.#parameters));
    return load(this.#files, dir);
  }

  /** Of what a backend says of itself, the facts that bits depend on; thread counts are none. */
  #backendRecord(): Readonly<Record<string, unknown>> {
    const told = this.#parameters[0]!.tensor.backend.describe();
    const decisive = ['name', 'determinism', 'relaxedSimd', 'switchedOff', 'vendor', 'architecture', 'description'];
    return JSON.parse(JSON.stringify(Object.fromEntries(decisive.map((key) => [key, told[key]])))) as Record<
      string,
      unknown
    >;
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

  /** One optimizer step; null when the run was interrupted inside it, which then never happened. */
  async #runStep(): Promise<StepEvent | null> {
    const drawnBefore = this.#batches.state();
    const window = this.#nextWindow();
    const normalizer = window.reduce((sum, b) => sum + b.trainedTokens, 0);
    const step = this.#step + 1;
    const { totalSteps, warmupSteps } = this.#plan;
    const { lrSchedulerType, lrSchedulerOptions } = this.#options;
    const lrFactor = scheduleByName(lrSchedulerType)(this.#step, totalSteps, warmupSteps, lrSchedulerOptions);
    const update = await this.#update(window, { step, normalizer, lrFactor });
    if (!update) {
      this.#batches.restore(drawnBefore as never);
      return null;
    }
    if (normalizer === 0)
      this.#notes.push(`step ${step}: no token of its rows is trained; its gradients are 0, as in transformers`);
    else {
      this.#totals.lossSum += update.loss;
      this.#totals.lossCount++;
    }
    const tokens = window.reduce((sum, b) => sum + b.ids.length, 0);
    this.#totals.totalTokens += tokens;
    this.#totals.trainedTokens += normalizer;
    this.#step = step;
    const event: StepEvent = {
      type: 'step', step, totalSteps, epoch: this.#epoch, ...update, learningRate: this.#options.learningRate * lrFactor,
      tokens, trainedTokens: normalizer, totalTokens: this.#totals.totalTokens, tokensPerSecond: this.#tokensPerSecond,
      elapsedMs: this.#elapsedMs, peakBytes: this.#peakBytes,
      logged: step === 1 || step === totalSteps || step % this.#options.loggingSteps === 0,
    }; // biome-ignore format: one event
    if (event.logged) await this.#logStep(event);
    return event;
  }

  async #logStep({ type: _, logged: __, totalSteps: ___, ...line }: StepEvent): Promise<void> {
    await this.#log.write(line);
    const { step, epoch, loss, gradNorm, learningRate, tokensPerSecond } = line;
    await this.#board?.scalars(step, {
      'train/loss': loss,
      'train/grad_norm': gradNorm,
      'train/learning_rate': learningRate,
      'train/epoch': epoch,
      'train/tokens_per_second': tokensPerSecond,
    });
  }

  /** Gradients of the window, checked and clipped, into the parameters. Null if interrupted before. */
  async #update(
    window: readonly B[],
    { step, normalizer, lrFactor }: { readonly step: number; readonly normalizer: number; readonly lrFactor: number },
  ): Promise<{ loss: number; gradNorm: number } | null> {
    const key = randomKey(this.#options.seed, 'dropout', step);
    const { signal } = this.#given;
    const made = await accumulateWindow(this.#loss, window, { normalizer, key, signal });
    if (!made) return null;
    const rows = window.flatMap((b) => b.lines);
    try {
      const loss = await this.#readLoss(made.losses, step, rows);
      const { norm, scale } = await this.#clip(made.gradients, step, rows);
      // Overflow can hide: an infinite sum of squares under rsqrt makes every activation 0, and the loss stays finite.
      if (norm === 0 && loss > vanishedLoss)
        throw new NonFiniteError(
          this.#nonFinite(step, rows, `every gradient is exactly 0 while the loss is ${loss}: an overflow`),
        );
      scope(() => this.#optimizer.step(made.gradients, { gradScale: scale, lrFactor }));
      return { loss, gradNorm: norm };
    } finally {
      made.dispose();
    }
  }

  /** After the first epoch, or the whole of a shorter run. */
  #requireTrainedTokens(): void {
    const { stepsPerEpoch, totalSteps } = this.#plan;
    if (this.#step !== Math.min(stepsPerEpoch, totalSteps) || this.#totals.trainedTokens > 0) return;
    throw new Error(
      `train: some token of the data must be trained: none of the ${this.#totals.totalTokens} tokens of the first ${this.#step} steps is. Check the roles of the rows, what the loss is on, and maxLength.`,
    );
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
      this.#lastSaved === null ? 'No checkpoint was written yet.' : `The last good checkpoint is ${this.#lastSaved}.`;
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
    const best = Number.isFinite(metrics.evalLoss) && !(this.#best && this.#best.evalLoss <= metrics.evalLoss);
    if (best) this.#best = { evalLoss: metrics.evalLoss, step: this.#step };
    const event: EvaluateEvent = { type: 'evaluate', step: this.#step, epoch: this.#epoch, metrics, best };
    await this.#log.write({ step: this.#step, epoch: this.#epoch, ...metrics });
    const scalars = Object.entries(metrics).map(([name, value]) => [boardName(name), value] as const);
    await this.#board?.scalars(this.#step, Object.fromEntries(scalars));
    return event;
  }

  async *#save(): AsyncGenerator<TrainEvent, void, void> {
    const { outputDir } = this.#given;
    if (this.#lastSaved === checkpointPath(outputDir, this.#step)) return;
    const start = performance.now();
    await this.#log.sync();
    const state: TrainerState = {
      version: stateVersion, step: this.#step, totalSteps: this.#plan.totalSteps, ...this.#totals, elapsedMs: this.#elapsedMs, best: this.#best,
      logBytes: this.#log.bytes, sampler: this.#batches.state(), optimizerSteps: this.#optimizer.stateDict().steps,
      identity: this.#identity, backend: this.#backendRecord(),
    }; // biome-ignore format: one record
    const saveModel =
      this.#given.saveModel ?? ((files: FileSystem, dir: string) => saveParameters(files, dir, this.#parameters));
    const path = await saveCheckpoint(this.#files, outputDir, state, this.#optimizer, saveModel);
    this.#lastSaved = path;
    await rotateCheckpoints(this.#files, outputDir, {
      newestStep: this.#step,
      keep: this.#options.saveTotalLimit,
      bestStep: this.#best?.step ?? null,
    });
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
      await this.#loadModel(bestCheckpoint);
      yield {
        type: 'note',
        message: `loaded the best checkpoint, ${bestCheckpoint} (evaluation loss ${this.#best!.evalLoss.toFixed(4)})`,
      };
    }
    const end: EndEvent = {
      type: 'end', reason: interrupted ? 'interrupted' : 'finished', step: this.#step, totalSteps: this.#plan.totalSteps,
      elapsedMs: this.#elapsedMs, totalTokens: this.#totals.totalTokens, tokensPerSecond: this.#tokensPerSecond, peakBytes: this.#peakBytes,
      trainLoss: this.#totals.lossSum / Math.max(1, this.#totals.lossCount), bestCheckpoint,
      lastCheckpoint: this.#lastSaved,
    }; // biome-ignore format: one event
    yield end;
  }
}

/** TensorBoard's name of a metric as transformers writes it: evalLoss is eval/loss, tokenAccuracy eval/token_accuracy. */
const boardName = (metric: string): string =>
  `eval/${metric.replace(/^eval(?=[A-Z])/, '').replace(/[A-Z]/g, (c, at: number) => `${at ? '_' : ''}${c.toLowerCase()}`)}`;
