/** What a run will need, known from headers alone: nothing is loaded before it is clear that it fits. */
import { type FileSystem, parentPath } from '@lorikeet/files';
import { completeLoraConfig, type LoraConfig, resolveTargets } from '@lorikeet/lora';
import type { ModuleLike } from '@lorikeet/nn';
import { type Phi3Config, phi3Tensors } from '@lorikeet/phi3';
import { openCheckpoint } from '@lorikeet/safetensors';
import type { Backend } from '@lorikeet/tensor';
import {
  type BatchSource,
  type Example,
  planSteps,
  type ResolvedOptions,
  type Room,
  type RunFacts,
} from '@lorikeet/trainer';
import type { ResolvedConfig } from '../config/schema.ts';
import { exitCodes, withExitCode } from '../errors.ts';
import { deviceMemory } from '../model/device-memory.ts';

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
  readonly config: ResolvedConfig;
  readonly options: ResolvedOptions;
  readonly modelConfig: Phi3Config;
  readonly lora: LoraConfig;
  readonly batches: BatchSource;
  readonly examples: readonly Example[];
}

export async function runFacts({
  files,
  config,
  options,
  modelConfig: m,
  lora,
  batches,
  examples,
}: FactsInput): Promise<RunFacts> {
  const { training, data, peft } = config;
  const trainableParameters = await countAdapterParameters(m, lora);
  const reader = await openCheckpoint(files, config.model.path);
  const storedBytes = [...reader.entries.values()].reduce((sum, { byteLength }) => sum + byteLength, 0);
  const { totalSteps, stepsPerEpoch } = planSteps(batches.batchesPerEpoch, options);
  const longest = examples.reduce((most, { ids }) => Math.max(most, ids.length), 0);
  const tokensPerItem = data.packing ? Math.min(data.maxLength, batches.tokensPerEpoch) : longest;
  const saves =
    options.saveStrategy === 'no'
      ? 0
      : Math.max(1, Math.ceil(totalSteps / (options.saveStrategy === 'epoch' ? stepsPerEpoch : options.saveSteps)));
  return {
    weightBytes: storedBytes + trainableParameters * 4,
    processBytes: process.memoryUsage.rss(),
    trainableParameters,
    layers: m.numHiddenLayers,
    hiddenSize: m.hiddenSize,
    intermediateSize: m.intermediateSize,
    vocabularySize: m.vocabSize,
    queryKeyValueSize: (m.numAttentionHeads + 2 * m.numKeyValueHeads) * m.headDim,
    tokensPerBatch: Math.min(training.perDeviceTrainBatchSize, batches.itemCount) * tokensPerItem,
    tokensPerStep: batches.tokensPerEpoch / stepsPerEpoch,
    totalSteps,
    gradientCheckpointing: training.gradientCheckpointing,
    dropout: peft.loraDropout > 0,
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
