/** What a run will need, known from headers and a dry run: nothing is loaded before it is clear that it fits. */
import { type FileSystem, parentPath } from '@lorikeet/files';
import { completeLoraConfig, type LoraConfig, resolveTargets } from '@lorikeet/lora';
import type { ModuleLike } from '@lorikeet/nn';
import { countSharedTokens, type Phi3Config, phi3Tensors } from '@lorikeet/phi3';
import { openCheckpoint } from '@lorikeet/safetensors';
import type { Backend, DType } from '@lorikeet/tensor';
import {
  type Batch,
  type BatchSource,
  type Example,
  evaluationBatches,
  planSteps,
  type ResolvedOptions,
  type Room,
  type RunFacts,
} from '@lorikeet/trainer';
import type { ResolvedConfig } from '../config/schema.ts';
import { exitCodes, withExitCode } from '../errors.ts';
import { deviceMemory } from '../model/device-memory.ts';
import { baseQuantization } from '../model/quantization.ts';
import { type Checkpointing, type DryRunInput, type DryRunResult, dryRun } from './dry-run.ts';
import { sharingObstacle } from './prefix-sharing.ts';

/** The linears of a Phi-3 by path, as shapes: enough to say which of them a configuration means. */
function linearShapes(config: Phi3Config): ReadonlyMap<string, readonly [outFeatures: number, inFeatures: number]> {
  const linears = [...phi3Tensors(config)].filter(
    ([path, shape]) => shape.length === 2 && !path.includes('embed_tokens'),
  );
  return new Map(linears.map(([path, shape]) => [path.replace(/\.weight$/, ''), [shape[0]!, shape[1]!]]));
}

/** A tree in which the linears have shapes and nothing else; resolveTargets asks for no more. */
function shapesAsModule(shapes: ReturnType<typeof linearShapes>): ModuleLike {
  const unused = (): never => {
    throw new Error('linearShapes: has shapes, no weights');
  };
  const children = [...shapes].map(([path, [outFeatures, inFeatures]]) => {
    const linear = { inFeatures, outFeatures, forward: unused, denseWeight: unused, stateEntries: () => [] };
    return [path, linear] as const;
  });
  return { stateEntries: () => [], childModules: () => children };
}

/** Adapter parameters of a configuration. @throws CliError (exit code 2) when a target matches no linear */
export async function countAdapterParameters(model: Phi3Config, lora: LoraConfig): Promise<number> {
  const shapes = linearShapes(model);
  const { targets } = await withExitCode(exitCodes.user, () =>
    resolveTargets(shapesAsModule(shapes), completeLoraConfig(lora)),
  );
  const adapters = targets.reduce((sum, { path, r }) => sum + r * (shapes.get(path)![0] + shapes.get(path)![1]), 0);
  const saved = (lora.modulesToSave ?? []).flatMap((name) =>
    [...phi3Tensors(model)].filter(([path]) => `.${path}.`.includes(`.${name}.`)),
  );
  return adapters + saved.reduce((sum, [, shape]) => sum + shape.reduce((n, dim) => n * dim, 1), 0);
}

export interface FactsInput {
  readonly files: FileSystem;
  readonly backend: Backend;
  readonly config: ResolvedConfig;
  readonly options: ResolvedOptions;
  readonly modelConfig: Phi3Config;
  readonly lora: LoraConfig;
  readonly batches: BatchSource;
  readonly evalExamples: readonly Example[];
}

/** Micro-batches looked at for the largest one. */
const mostDraws = 20_000;

/** What is computed of a batch. */
type CountTokens = (batch: Batch) => number;

/** The micro-batch of a run of which most is computed; the order of the batches is left as it is. */
function largestBatch(batches: BatchSource, microBatches: number, computed: CountTokens): Batch {
  const state = batches.state();
  let largest = batches.next();
  let most = computed(largest);
  for (let i = 1; i < Math.min(mostDraws, microBatches); i++) {
    const next = batches.next();
    const tokens = computed(next);
    if (tokens > most) [largest, most] = [next, tokens];
  }
  batches.restore(state);
  return largest;
}

/** The dtype of a weight in memory; codes of a quantized one stand for values of 16 bits. */
const keptDType = (stored: string | undefined): DType =>
  stored === 'f16' ? 'f16' : stored === 'bf16' || stored === 'u8' || stored === 'i8' ? 'bf16' : 'f32';

/** Everything a dry run of a configuration needs. */
export async function dryRunInput(input: FactsInput): Promise<DryRunInput> {
  const { files, backend, config, options, modelConfig, lora, batches, evalExamples } = input;
  const reader = await openCheckpoint(files, config.model.path);
  const { totalSteps } = planSteps(batches.batchesPerEpoch, options);
  const { config: quantization, linear } = await baseQuantization(files, config.model.path, config.quantization);
  const evalBatches = [...evaluationBatches(evalExamples, config.training.perDeviceEvalBatchSize)];
  const { sharePrefix } = config.training;
  const all: CountTokens = ({ ids }) => ids.length;
  const others: CountTokens = (b) => b.ids.length - countSharedTokens(modelConfig, b);
  const trained = sharePrefix !== false && sharingObstacle(config, modelConfig) === null ? others : all;
  const evaluated = sharePrefix === false ? all : others;
  return {
    backend,
    modelConfig,
    lora,
    options,
    quantization,
    linear,
    dtypeOf: (path) => keptDType(reader.entries.get(path)?.dtype),
    sharePrefix,
    batch: largestBatch(batches, totalSteps * options.gradientAccumulationSteps, trained),
    evalBatch: evalBatches.sort((a, b) => evaluated(b) - evaluated(a))[0],
  };
}

/** What garbage, and V8 while it compiles the kernels of the first step, add to the process that planned. */
const compilingBytes = 16 << 20;
/** The kernels that decode weights inside a product are the largest. */
const compilingQuantizedBytes = 48 << 20;

/**
 * What the process holds beside tensors at its peak. In training that is one matrix that a product has packed and one hole
 * between tensors, each about the size of the largest; in loading it is the weight that passes through.
 */
function processBytes(
  { weights, peakBytes, largestWeight, largestTensor }: DryRunResult,
  isQuantized: boolean,
): number {
  const own = process.memoryUsage.rss() + (isQuantized ? compilingQuantizedBytes : compilingBytes);
  return own + Math.max(2 * largestTensor, weights + largestWeight - peakBytes);
}

export async function runFacts(input: FactsInput, dry: DryRunInput, checkpointing: Checkpointing): Promise<RunFacts> {
  const { options, modelConfig, lora, batches } = input;
  const { totalSteps, stepsPerEpoch } = planSteps(batches.batchesPerEpoch, options);
  const saves =
    options.saveStrategy === 'no'
      ? 0
      : Math.max(1, Math.ceil(totalSteps / (options.saveStrategy === 'epoch' ? stepsPerEpoch : options.saveSteps)));
  // First, because it says which targets match no linear.
  const trainableParameters = await countAdapterParameters(modelConfig, lora);
  const step = await dryRun(dry, checkpointing);
  return {
    memory: { ...step, process: processBytes(step, dry.quantization !== undefined) },
    trainableParameters,
    tokensPerStep: batches.tokensPerEpoch / stepsPerEpoch,
    totalSteps,
    saveTotalLimit: options.saveTotalLimit,
    checkpoints: saves,
  };
}

/** What this machine and device have to give. */
export async function roomFor(files: FileSystem, outputDir: string, backend: Backend): Promise<Room> {
  const { limitBytes, workBytes } = deviceMemory(backend);
  // What is free and what the device allows come on top of what the process holds.
  const memoryBytes = Math.min(limitBytes, process.availableMemory()) + process.memoryUsage.rss();
  let existing = outputDir;
  while (!(await files.exists(existing)) && parentPath(existing) !== existing) existing = parentPath(existing);
  return { memoryBytes, workBytes, diskBytes: await files.freeBytes(existing), outputDir };
}
