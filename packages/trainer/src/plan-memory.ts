/** What a training step holds in memory, learned from running that very step on a backend that only counts. */
import { memoryFiles } from '@lorikeet/files';
import { type ModuleLike, trainableParameters } from '@lorikeet/nn';
import { bytesPerElement, memory, type Tensor } from '@lorikeet/tensor';
import type { LossFunction, TrainBatch } from './accumulate-window.ts';
import type { TrainingOptions } from './options.ts';
import { train } from './train.ts';

/** Bytes of the tensors of a training step: weights, adapter, gradients, optimizer and activations add up to `peakBytes`. */
export interface StepMemory {
  /** Frozen weights as they lie in memory. */
  readonly weights: number;
  /** What is trained. */
  readonly adapter: number;
  readonly gradients: number;
  /** State of the optimizer. */
  readonly optimizer: number;
  /** What the backward needs of the forward, and what is held beside it at the peak: one layer's inside, or logits. */
  readonly activations: number;
  /** Most bytes of tensors at one time. */
  readonly peakBytes: number;
  /** How many tensors are trained. */
  readonly trainedTensors: number;
}

const bytesOf = (tensors: readonly Tensor[], width?: number): number =>
  tensors.reduce((sum, { size, dtype }) => sum + size * (width ?? bytesPerElement[dtype]), 0);

/**
 * Two steps of `train` on the largest micro-batch, for a model on a `dryRunBackend`: nothing is computed and nothing is
 * written. With gradient accumulation the gradients of the micro-batch before stand beside those of the present one, as
 * they do in the run.
 */
export async function planMemory<B extends TrainBatch>(
  model: ModuleLike,
  loss: LossFunction<B>,
  batch: B,
  options: TrainingOptions = {},
): Promise<StepMemory> {
  const trained = trainableParameters(model).map(({ tensor }) => tensor);
  if (trained.length === 0)
    throw new RangeError(
      'planMemory: the model must have trainable parameters: all are frozen. Apply an adapter, or set requiresGrad.',
    );
  const { backend } = trained[0]!;
  const use = memory(backend);
  const adapter = bytesOf(trained);
  const weights = use.liveBytes - adapter;
  const microBatches = Math.min(2, options.gradientAccumulationSteps ?? 1);
  let optimizer = 0;
  use.peakBytes = use.liveBytes;
  const batches = { batchesPerEpoch: microBatches, next: () => batch, state: () => 0, restore: () => undefined };
  const events = train(model, loss, batches, {
    ...options,
    gradientAccumulationSteps: microBatches,
    maxSteps: 2,
    files: memoryFiles(),
    outputDir: 'dry-run',
    saveStrategy: 'no',
    evalStrategy: 'no',
    loadBestModelAtEnd: false,
    resumeFromCheckpoint: null,
    reportTo: [],
  });
  for await (const event of events) if (event.type === 'step') optimizer = use.liveBytes - weights - adapter;
  const gradients = bytesOf(trained, 4);
  const activations = Math.max(0, use.peakBytes - weights - adapter - gradients - optimizer);
  return {
    weights,
    adapter,
    gradients,
    optimizer,
    activations,
    peakBytes: use.peakBytes,
    trainedTensors: trained.length,
  };
}
