/** A fine-tuning from a configuration to an adapter folder: what `train` and `demo` do. */
import {
  acquireLock,
  discardDirectory,
  type FileSystem,
  joinPath,
  readText,
  writeAtomic,
  writeJson,
} from '@lorikeet/files';
import {
  adapterWeightsName,
  applyLoraAsync,
  checkpointWeights,
  prepareModelForKbitTraining,
  saveAdapter,
  writeAdapterFiles,
} from '@lorikeet/lora';
import { copyInto, trainableParameters } from '@lorikeet/nn';
import type { Phi3ForCausalLM } from '@lorikeet/phi3';
import { openSafetensors } from '@lorikeet/safetensors';
import { type DType, NonFiniteError, randomKey } from '@lorikeet/tensor';
import {
  type Batch,
  type BatchSource,
  checkpointPath,
  describeRun,
  type EndEvent,
  type Evaluation,
  estimateRun,
  hasRoom,
  listCheckpoints,
  type ResolvedOptions,
  type RunFacts,
  requireRoom,
  type StepEvent,
  train,
} from '@lorikeet/trainer';
import { printConfig } from '../config/print-config.ts';
import type { ResolvedConfig } from '../config/schema.ts';
import { exitCodes, userError, withExitCode } from '../errors.ts';
import { choosesTemplate } from '../model/chat-template.ts';
import { evaluatePhi3 } from '../model/measure.ts';
import type { ClosableBackend } from '../model/open-backend.ts';
import { openModel, resolvedConfigName } from '../model/open-model.ts';
import type { Output } from '../output.ts';
import { formatCount } from '../terminal/format.ts';
import { StepsProgress } from '../terminal/progress.ts';
import { memoryChanges } from './memory-changes.ts';
import { describeSharing } from './prefix-sharing.ts';
import { type PreparedData, runPaths } from './prepare-data.ts';
import { prepareRun } from './prepare-run.ts';
import { runIdentity } from './run-identity.ts';

export interface TrainingEnvironment {
  readonly files: FileSystem;
  readonly output: Output;
  readonly backend: ClosableBackend;
  /** Aborting it saves a checkpoint and ends the run. */
  readonly signal: AbortSignal;
  /** 'auto', or a checkpoint folder. */
  readonly resume?: string | undefined;
  /** Everything but the training: what it will cost, and whether it fits. */
  readonly dryRun?: boolean;
}

export interface TrainingOutcome {
  readonly status: 'finished' | 'interrupted' | 'planned';
  readonly outputDir: string;
  /** Present once the run is finished. */
  readonly adapter?: string;
  readonly step: number;
  readonly totalSteps: number;
  readonly trainableParameters: number;
  readonly estimate: ReturnType<typeof estimateRun>;
  readonly end?: EndEvent;
  readonly losses: readonly { readonly step: number; readonly loss: number }[];
  readonly evalLoss?: number;
  readonly perplexity?: number;
  readonly tokenAccuracy?: number;
  readonly format: PreparedData['format'];
  readonly lossOn: string;
  readonly rows: number;
  readonly evalRows: number;
}

/** Trains as the configuration says. @throws errors whose messages name places in the data, never its texts */
export async function runTraining(given: ResolvedConfig, environment: TrainingEnvironment): Promise<TrainingOutcome> {
  const { files, output, backend, dryRun = false } = environment;
  const prepared = await prepareRun(given, environment);
  const { config, options, tokenizer, data, batches, lora, facts, estimate, checkpointing, room } = prepared;
  output.progress(describeRun(estimate));
  const sharing = describeSharing(prepared.sharing);
  if (sharing) output.note(sharing);
  if (!hasRoom(estimate, room)) requireRoom(estimate, room, await memoryChanges(prepared));
  const chatTemplate = choosesTemplate(config.model) ? tokenizer.chatTemplate : undefined;
  const run = new FineTuning({ config, environment, data, facts, estimate, chatTemplate });
  if (dryRun) return run.planned();
  if (environment.resume === undefined) await refuseEarlierRun(files, config);
  const modelDir = config.model.path;
  const paths = { modelDir, adapterDir: undefined, template: config.model, quantization: config.quantization };
  const { model, quantization } = await openModel(files, paths, backend, output);
  refuseNonFinite(model, config);
  // Frozen weights in 16 bits give what they give in 32, as all arithmetic is f32: half the memory for the same result.
  if (quantization.config)
    prepareModelForKbitTraining(model, {
      keepEmbeddings16bit: true,
      useGradientCheckpointing: false,
      print: (line) => output.progress(line),
    });
  model.gradientCheckpointing = checkpointing.gradientCheckpointing;
  model.activationStorage = checkpointing.activationStorage;
  model.sharePrefix = config.training.sharePrefix;
  model.neftuneNoiseAlpha = config.training.neftuneNoiseAlpha ?? null;
  const key = randomKey(config.training.seed, 'lora');
  const { config: quantized, stored } = quantization;
  const originalWeights = quantized && !stored ? await checkpointWeights(files, modelDir, backend) : undefined;
  await withExitCode(exitCodes.user, () =>
    applyLoraAsync(model, lora, { key, originalWeights, onProgress: decomposing(output) }),
  );
  const identity = await runIdentity(files, config, data, tokenizer);
  if (environment.resume === undefined) await discardEarlierRun(files, config.training.outputDir);
  return run.train(model, batches, options, identity);
}

/** A line every few seconds, for models whose weights take longer to decompose. */
function decomposing(output: Output): (progress: { readonly done: number; readonly total: number }) => void {
  let saidMs = performance.now();
  return ({ done, total }) => {
    if (performance.now() - saidMs < 3000) return;
    saidMs = performance.now();
    output.progress(`first values of the adapter: ${done} of ${total} layers`);
  };
}

function refuseNonFinite(model: Phi3ForCausalLM, config: ResolvedConfig): void {
  const [first] = model.nonFiniteWeights;
  if (first && !config.model.allowNonfinite)
    throw new NonFiniteError(
      `train: base weights must be finite: ${first.path} holds ${first.count} values that are not. Download the weights again, or set model.allowNonfinite.`,
    );
}

/** An output folder belongs to one run: an earlier one is only replaced when that was asked for. */
async function refuseEarlierRun(
  files: FileSystem,
  { training: { outputDir, overwriteOutputDir } }: ResolvedConfig,
): Promise<void> {
  const steps = await listCheckpoints(files, outputDir);
  const { adapter } = runPaths(outputDir);
  const hasAdapter = (await files.kind(adapter)) === 'directory';
  if (steps.length === 0 && !hasAdapter) return;
  if (!overwriteOutputDir)
    throw userError('train: the output folder must not hold an earlier run: it does.', {
      where: `${outputDir} (training.outputDir)`,
      found: steps.length > 0 ? `checkpoint-${steps[0]}` : 'adapter',
      fix: 'Continue it with --resume auto, choose another --output-dir, or set training.overwriteOutputDir: true.',
    });
}

/** Late, so that nothing is lost to a run that cannot begin; under the folder's lock, so that nothing is taken from one that is under way. */
async function discardEarlierRun(files: FileSystem, outputDir: string): Promise<void> {
  const steps = await listCheckpoints(files, outputDir);
  if (steps.length === 0) return;
  await using _ = await acquireLock(files, outputDir);
  for (const step of steps) await discardDirectory(files, checkpointPath(outputDir, step));
}

interface RunParts {
  readonly config: ResolvedConfig;
  readonly environment: TrainingEnvironment;
  readonly data: PreparedData;
  readonly facts: RunFacts;
  readonly estimate: ReturnType<typeof estimateRun>;
  /** Saved beside the adapter: chosen, so not the base's own. */
  readonly chatTemplate: string | undefined;
}

/** One run: turns the loop's events into progress, log and results. */
class FineTuning {
  readonly #parts: RunParts;
  readonly #progress: StepsProgress;
  readonly #losses: { step: number; loss: number }[] = [];
  #estimate: ReturnType<typeof estimateRun>;
  #latest: Evaluation | undefined;
  #measuredSteps = 0;

  constructor(parts: RunParts) {
    this.#parts = parts;
    this.#estimate = parts.estimate;
    this.#progress = new StepsProgress({ stream: parts.environment.output.progressStream });
  }

  planned(): TrainingOutcome {
    return this.#outcome('planned', 0);
  }

  async train(
    model: Phi3ForCausalLM,
    batches: BatchSource,
    options: ResolvedOptions,
    identity: Readonly<Record<string, unknown>>,
  ): Promise<TrainingOutcome> {
    const { config, environment, data, chatTemplate } = this.#parts;
    const { files, signal } = environment;
    const { outputDir, perDeviceEvalBatchSize, labelSmoothingFactor: labelSmoothing } = config.training;
    const evaluates = data.evalExamples.length > 0;
    const parameters = trainableParameters(model);
    const events = train(model, (batch: Batch, o) => model.loss(batch, { ...o, labelSmoothing }), batches, {
      ...options,
      ...(evaluates ? {} : { evalStrategy: 'no' as const, loadBestModelAtEnd: false }),
      files,
      outputDir,
      signal,
      identity,
      saveModel: (fs, dir) =>
        writeAdapterFiles(fs, dir, model, {
          allowZero: true,
          // As it is trained, so that a resumed run puts it back.
          convertToLora: false,
          baseModelNameOrPath: baseName(model, config),
          chatTemplate,
        }),
      loadModel: (fs, dir) => restoreAdapter(fs, dir, parameters),
      ...(evaluates ? { evaluate: () => this.#measure(model, perDeviceEvalBatchSize) } : {}),
    });
    const end = await withExitCode(exitCodes.user, () => this.#follow(events));
    if (end.reason === 'interrupted') return this.#outcome('interrupted', end.step, end);
    return this.#finish(model, end);
  }

  async #finish(model: Phi3ForCausalLM, end: EndEvent): Promise<TrainingOutcome> {
    const { config, environment, data } = this.#parts;
    const { files } = environment;
    const { outputDir, learningRate, perDeviceEvalBatchSize, loadBestModelAtEnd } = config.training;
    // The last step was measured, unless evalStrategy is no, the run was finished before, or another step's weights are back.
    if (data.evalExamples.length > 0 && (!this.#latest || loadBestModelAtEnd))
      await this.#measure(model, perDeviceEvalBatchSize);
    const { adapter, summary } = runPaths(outputDir);
    await this.#save(model, adapter, learningRate === 0);
    const outcome = { ...this.#outcome('finished', end.step, end), adapter };
    await writeJson(files, summary, summaryOf(outcome));
    return outcome;
  }

  /** An adapter that changes nothing (one step, at the start of a warm-up) is saved with a note: it is what was asked for. */
  async #save(model: Phi3ForCausalLM, dir: string, allowZero: boolean): Promise<void> {
    const { config, environment, chatTemplate } = this.#parts;
    const options = { overwrite: true, baseModelNameOrPath: baseName(model, config), chatTemplate };
    try {
      await saveAdapter(environment.files, dir, model, { ...options, allowZero });
    } catch (error) {
      if (allowZero || !(error instanceof Error) || !/must change something/.test(error.message)) throw error;
      environment.output.note(
        'the adapter changes nothing yet: every step had a learning rate of 0. Train more steps, or lower training.warmupSteps',
      );
      await this.#save(model, dir, true);
    }
  }

  async #measure(
    model: Phi3ForCausalLM,
    batchSize: number,
  ): Promise<Pick<Evaluation, 'evalLoss' | 'perplexity' | 'tokenAccuracy'>> {
    this.#latest = await evaluatePhi3(model, this.#parts.data.evalExamples, batchSize);
    const { evalLoss, perplexity, tokenAccuracy } = this.#latest;
    return { evalLoss, perplexity, tokenAccuracy };
  }

  async #follow(events: ReturnType<typeof train>): Promise<EndEvent> {
    const { config, environment } = this.#parts;
    const { files, output } = environment;
    for await (const event of events) {
      if (event.type === 'start') {
        // Not before: a run that is refused the folder or its checkpoint must leave the other's configuration there.
        await writeAtomic(files, joinPath(config.training.outputDir, resolvedConfigName), printConfig(config));
        if (event.firstStep > 1) this.#losses.push(...(await loggedLosses(files, config.training.outputDir)));
        this.#progress.start(event.firstStep);
        const from = event.resumedFrom === null ? '' : `, resumed from ${event.resumedFrom}`;
        this.#progress.line(
          `training ${formatCount(event.trainableParameters)} of ${formatCount(event.totalParameters)} parameters, ${event.totalSteps} steps${from}`,
        );
      } else if (event.type === 'step') this.#step(event);
      else if (event.type === 'evaluate')
        this.#progress.line(
          `step ${event.step}  held-out loss ${event.metrics.evalLoss.toFixed(4)}${event.best ? '  (best so far)' : ''}`,
        );
      else if (event.type === 'checkpoint') this.#progress.line(`step ${event.step}  saved ${event.path}`);
      else if (event.type === 'note') {
        this.#progress.clear();
        output.note(event.message);
      } else {
        this.#progress.clear();
        return event;
      }
    }
    throw new Error('train: the loop must end with an end event: it did not.');
  }

  #step(event: StepEvent): void {
    this.#losses.push({ step: event.step, loss: event.loss });
    this.#progress.step(event);
    // What the first steps showed replaces what was planned.
    if (++this.#measuredSteps === 3 && event.step < event.totalSteps) {
      const { tokensPerSecond, step } = event;
      const measured = { tokensPerSecond, peakBytes: peakProcessBytes() };
      this.#estimate = estimateRun({ ...this.#parts.facts, stepsDone: step }, measured);
      this.#progress.line(`measured: ${describeRun(this.#estimate)}`);
    }
  }

  #outcome(status: TrainingOutcome['status'], step: number, end?: EndEvent): TrainingOutcome {
    const { config, data, facts } = this.#parts;
    return {
      status,
      outputDir: config.training.outputDir,
      step,
      totalSteps: facts.totalSteps,
      trainableParameters: facts.trainableParameters,
      estimate: this.#estimate,
      losses: this.#losses,
      format: data.format,
      lossOn: data.lossOn,
      rows: data.examples.length,
      evalRows: data.evalExamples.length,
      ...(end ? { end } : {}),
      ...(this.#latest
        ? {
            evalLoss: this.#latest.evalLoss,
            perplexity: this.#latest.perplexity,
            tokenAccuracy: this.#latest.tokenAccuracy,
          }
        : {}),
    };
  }
}

/** Losses of the steps before a resumption: those that were logged. */
async function loggedLosses(files: FileSystem, outputDir: string): Promise<{ step: number; loss: number }[]> {
  const lines = (await readText(files, runPaths(outputDir).log)).trimEnd().split('\n');
  return lines.flatMap((line) => {
    const { step, loss } = JSON.parse(line) as { step: number; loss?: number };
    return loss === undefined ? [] : [{ step, loss }];
  });
}

/** The name Python knows the base by, else its folder's name: never a path of this machine. */
function baseName(model: Phi3ForCausalLM, config: ResolvedConfig): string {
  const named = model.config.source._name_or_path;
  return typeof named === 'string' && named !== '' && !named.startsWith('/')
    ? named
    : config.model.path.split(/[\\/]/).at(-1)!;
}

/** Most memory that this process took so far (VmHWM). */
const peakProcessBytes = (): number => process.resourceUsage().maxRSS * 1024;

/** What summary.json and `--json` say of a run. Numbers and places only. */
export function summaryOf({ end, losses, estimate, ...outcome }: TrainingOutcome) {
  return {
    ...outcome,
    ...(end
      ? {
          trainLoss: end.trainLoss,
          totalTokens: end.totalTokens,
          tokensPerSecond: end.tokensPerSecond,
          seconds: end.elapsedMs / 1000,
          peakBytes: Math.max(end.peakBytes, peakProcessBytes()),
          bestCheckpoint: end.bestCheckpoint,
          lastCheckpoint: end.lastCheckpoint,
        }
      : {}),
    ...(losses.length > 0 ? { firstLoss: losses[0]!.loss, lastLoss: losses.at(-1)!.loss } : {}),
    estimate: {
      peakBytes: estimate.peakBytes,
      diskBytes: estimate.diskBytes,
      tokens: estimate.tokens,
      hours: estimate.hours,
    },
  };
}

/** Puts a checkpoint's adapter into the tensors that are being trained: the optimizer holds on to these very tensors. */
async function restoreAdapter(
  files: FileSystem,
  dir: string,
  parameters: ReturnType<typeof trainableParameters>,
): Promise<void> {
  const reader = await openSafetensors(files, joinPath(dir, adapterWeightsName));
  for (const { path, tensor } of parameters) {
    const plain = `base_model.model.${path}`;
    const key = reader.entries.has(plain) ? plain : plain.replace(/\.bias$/, '.base_layer.bias');
    const { dtype, shape } = reader.entry(key);
    if (`${shape}` !== `${tensor.shape}`)
      throw userError(`resume: ${path} must be [${tensor.shape}]: the checkpoint has [${shape}].`, {
        where: dir,
        fix: 'Use the configuration that wrote it.',
      });
    copyInto(tensor, { dtype: dtype as DType, shape, bytes: await reader.read(key) });
  }
}
