/** The bytes of a run, from running its own step without arithmetic: what `plan` shows and what `train` checks first. */
import {
  applyLora,
  type BitsAndBytesConfig,
  completeBitsAndBytesConfig,
  Int8Linear,
  isQuantizedPath,
  type LoraConfig,
  QuantizedLinear,
} from '@lorikeet/lora';
import { denseLinear, type LinearFactory } from '@lorikeet/nn';
import { buildPhi3, causalLoss, type Phi3Config, type Phi3ForCausalLM, type PrefixSharing } from '@lorikeet/phi3';
import {
  type Backend,
  bytesPerElement,
  type DType,
  dryRunBackend,
  memory,
  scope,
  type Tensor,
  zeros,
} from '@lorikeet/tensor';
import { type Batch, planMemory, type ResolvedOptions, type StepMemory } from '@lorikeet/trainer';
import { evaluateBatches } from '../model/measure.ts';

/** How layers wait for the backward. */
export interface Checkpointing {
  readonly gradientCheckpointing: boolean;
  readonly activationStorage: 'f32' | 'bf16';
}

export interface DryRunInput {
  /** Where the run will compute: says which ops have kernels there. Nothing is computed or held on it. */
  readonly backend: Backend;
  readonly modelConfig: Phi3Config;
  /** The dtype in which a tensor of the checkpoint is kept. */
  readonly dtypeOf: (path: string) => DType;
  /** How linears are quantized. Default: not. */
  readonly quantization?: BitsAndBytesConfig | undefined;
  /** Makes the linears of the run itself; a dry run makes its own. */
  readonly linear?: LinearFactory | undefined;
  readonly lora: LoraConfig;
  readonly options: ResolvedOptions;
  readonly sharePrefix: PrefixSharing;
  /** The largest micro-batch of the run. */
  readonly batch: Batch;
  /** The largest batch of its evaluations. */
  readonly evalBatch?: Batch | undefined;
}

/** One buffer of zeros for all weights: never written, so it takes no memory. */
let zeroBytes = new Uint8Array(0);
function zerosOf(byteLength: number): Uint8Array {
  if (zeroBytes.length < byteLength) zeroBytes = new Uint8Array(byteLength);
  return zeroBytes.subarray(0, byteLength);
}

/** Scales that share a scale of their own. */
const nestedBlocksize = 256;

/** Quantized linears of the right sizes, made without weights to quantize. */
function dryQuantized(config: BitsAndBytesConfig): LinearFactory {
  const complete = completeBitsAndBytesConfig(config);
  const { bnb4bitQuantType: quantType, bnb4bitUseDoubleQuant, blocksize, llmInt8Threshold: threshold } = complete;
  const dense = denseLinear();
  return (request) => {
    const { path, inFeatures, outFeatures, backend } = request;
    if (!isQuantizedPath(path, config)) return dense(request);
    const of = (shape: readonly number[], dtype: DType): Tensor => zeros(shape, { backend, dtype });
    const shape = [outFeatures, inFeatures] as const;
    if (complete.loadIn8bit)
      return new Int8Linear(
        { quantized: of(shape, 'i8'), absmax: of([outFeatures], 'f32'), dtype: 'bf16' },
        { threshold },
      );
    const count = outFeatures * inFeatures;
    const blocks = Math.ceil(count / blocksize);
    const nested = {
      absmax: of([Math.ceil(blocks / nestedBlocksize)], 'f32'),
      code: of([256], 'f32'),
      offset: 0,
      blocksize: nestedBlocksize,
    };
    return new QuantizedLinear({
      packed: of([(count + 1) >> 1, 1], 'u8'),
      absmax: of([blocks], bnb4bitUseDoubleQuant ? 'u8' : 'f32'),
      nested: bnb4bitUseDoubleQuant ? nested : undefined,
      ...{ quantType, blocksize, shape, dtype: 'bf16' as const },
    });
  };
}

/** A model of these shapes on a backend that only counts. */
async function dryModel(input: DryRunInput, onAllocate?: (byteLength: number) => void): Promise<Phi3ForCausalLM> {
  const { modelConfig, dtypeOf, quantization } = input;
  const bytesOf = (shape: readonly number[], dtype: DType): number =>
    bytesPerElement[dtype] * shape.reduce((product, n) => product * n, 1);
  return buildPhi3(
    modelConfig,
    (path, shape) => {
      const dtype = dtypeOf(path);
      return {
        path,
        shape,
        dtype,
        read: async () => zerosOf(bytesOf(shape, dtype)),
        readRows: async (start, end) => zerosOf(bytesOf([end - start, ...shape.slice(1)], dtype)),
      };
    },
    { backend: dryRunBackend(input.backend, onAllocate), ...(quantization && { linear: dryQuantized(quantization) }) },
  );
}

/** Bytes of the base alone. */
export async function baseBytes(
  input: Omit<DryRunInput, 'lora' | 'options' | 'sharePrefix' | 'batch'>,
): Promise<number> {
  using model = await dryModel(input as DryRunInput);
  return memory(model.backend).liveBytes;
}

export interface DryRunResult extends StepMemory {
  /** At most at once in the head and the loss; a part of `activations`. */
  readonly logits: number;
  /** The largest weight, which passes through the process while it is loaded. */
  readonly largestWeight: number;
  /** The largest tensor of a step. */
  readonly largestTensor: number;
}

/** What a step holds. */
export async function dryRun(
  input: DryRunInput,
  { gradientCheckpointing, activationStorage }: Checkpointing,
): Promise<DryRunResult> {
  const { lora, options, sharePrefix, batch, evalBatch } = input;
  let largest = 0;
  using model = await dryModel(input, (bytes) => {
    largest = Math.max(largest, bytes);
  });
  const largestWeight = largest;
  largest = 0;
  // First values have no part in what a step holds, and some are worked out from weights that are not there.
  applyLora(model, lora, { initialize: false });
  model.gradientCheckpointing = gradientCheckpointing;
  model.activationStorage = activationStorage;
  model.sharePrefix = sharePrefix;
  const logits = headBytes(model, batch);
  const step = await planMemory(model, (b: Batch, o) => model.loss(b, o), batch, options);
  const missing = evalBatch ? await beyondStep(model, evalBatch, step) : 0;
  return {
    ...step,
    activations: step.activations + missing,
    peakBytes: step.peakBytes + missing,
    logits,
    largestWeight,
    largestTensor: largest,
  };
}

/** Bytes that measuring held-out rows takes beyond a step. Gradients are not there then; the optimizer's state is. */
async function beyondStep(model: Phi3ForCausalLM, batch: Batch, step: StepMemory): Promise<number> {
  const use = memory(model.backend);
  use.peakBytes = use.liveBytes;
  await evaluateBatches(model, [batch]);
  return Math.max(0, use.peakBytes + step.optimizer - step.peakBytes);
}

function headBytes(model: Phi3ForCausalLM, batch: Batch): number {
  const { backend, config } = model;
  const use = memory(backend);
  return scope(() => {
    const hidden = zeros([batch.ids.length, config.hiddenSize], { backend, requiresGrad: true });
    const before = (use.peakBytes = use.liveBytes);
    causalLoss(hidden, model.lm_head, batch, {});
    return use.peakBytes - before;
  });
}
