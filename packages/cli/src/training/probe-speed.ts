/** How fast a run will go here: its own kernels at its true shapes, on one layer and the head, for about ten seconds. */
import { applyLora, markOnlyLoraAsTrainable } from '@lorikeet/lora';
import { Embedding } from '@lorikeet/nn';
import { buildPhi3, causalLoss, type Phi3ForCausalLM } from '@lorikeet/phi3';
import {
  type Backend,
  bytesPerElement,
  type DType,
  encode,
  normal,
  normalsOf,
  ones,
  randomKey,
  scope,
  type Tensor,
  withRandom,
} from '@lorikeet/tensor';
import type { Batch } from '@lorikeet/trainer';
import type { Checkpointing, DryRunInput } from './dry-run.ts';

/** Hands out rows of one tensor whatever it is asked for: a layer's input through which a gradient flows, as in every layer but the first. */
class FixedEmbedding extends Embedding {
  readonly #rows: Tensor;
  constructor(rows: Tensor, weight: Tensor) {
    super(weight);
    this.#rows = rows;
  }
  override forward(ids: Parameters<Embedding['forward']>[0]): Tensor {
    return this.#rows.slice(0, 0, 'storage' in ids ? ids.size : ids.length);
  }
}

/** Elements that are drawn; longer weights repeat them. */
const drawnElements = 1 << 20;

/** Bytes of a weight as a trained one has them: small and normal; norms 1. */
function weightBytes(shape: readonly number[], dtype: DType, drawn: Uint8Array): Uint8Array {
  const count = shape.reduce((product, n) => product * n, 1);
  if (shape.length === 1) return encode(new Float32Array(count).fill(1), dtype);
  const bytes = new Uint8Array(count * bytesPerElement[dtype]);
  for (let at = 0; at < bytes.length; at += drawn.length)
    bytes.set(drawn.subarray(0, Math.min(drawn.length, bytes.length - at)), at);
  return bytes;
}

/** One layer and the head at true shapes, with the adapter. */
async function probeModel(input: DryRunInput, batch: Batch): Promise<{ model: Phi3ForCausalLM; rows: Tensor }> {
  const { modelConfig, dtypeOf, linear, lora, backend } = input;
  const values = normalsOf(drawnElements, randomKey(1, 'probe')).map((z) => z * modelConfig.initializerRange);
  const drawn = new Map<DType, Uint8Array>();
  const drawnIn = (dtype: DType): Uint8Array => {
    if (!drawn.has(dtype)) drawn.set(dtype, encode(values, dtype));
    return drawn.get(dtype)!;
  };
  const source = (path: string, shape: readonly number[]) => {
    const dtype = dtypeOf(path);
    // The table of embeddings has no part in the time; one row of it holds its place.
    const shown = path.endsWith('embed_tokens.weight') && !modelConfig.tieWordEmbeddings ? [1, shape[1]!] : shape;
    const read = async (): Promise<Uint8Array> => weightBytes(shown, dtype, drawnIn(dtype));
    return {
      path,
      dtype,
      shape: shown,
      read,
      readRows: async (start: number, end: number) =>
        weightBytes([end - start, ...shown.slice(1)], dtype, drawnIn(dtype)),
    };
  };
  const config = { ...modelConfig, numHiddenLayers: 1, padTokenId: null };
  const model = await buildPhi3(config, source, { backend, linear });
  const { weight } = model.model.embed_tokens;
  const rows = normal([batch.ids.length, config.hiddenSize], { backend, key: randomKey(2), requiresGrad: true });
  model.model.embed_tokens = new FixedEmbedding(rows, weight);
  const { modulesToSave: _, layersToTransform: __, layersPattern: ___, ...everyLayer } = lora;
  applyLora(model, { ...everyLayer, initLoraWeights: true });
  markOnlyLoraAsTrainable(model);
  model.assignPaths();
  return { model, rows };
}

export interface ProbedSpeed {
  readonly tokensPerSecond: number;
  /** Milliseconds of one layer and of the head, forward and backward, of the batch that was probed. */
  readonly layerMs: number;
  readonly headMs: number;
  /** Tokens of that batch. */
  readonly tokens: number;
  readonly rounds: number;
}

const median = (values: readonly number[]): number => {
  const sorted = values.toSorted((a, b) => a - b);
  return (sorted[(sorted.length - 1) >> 1]! + sorted[sorted.length >> 1]!) / 2;
};

async function elapsed(backend: Backend, run: () => void): Promise<number> {
  const start = performance.now();
  run();
  await backend.sync();
  return performance.now() - start;
}

/** Rounds go on until this much time is spent. */
const budgetMs = 8000;
const mostRounds = 25;

/**
 * Times forward and backward of one layer and of the head on a micro-batch of the run, in turns, after a round that compiles;
 * a step is every layer and the head, once for each micro-batch.
 */
export async function probeSpeed(
  input: DryRunInput,
  batch: Batch,
  { gradientCheckpointing, activationStorage }: Checkpointing,
): Promise<ProbedSpeed> {
  const { backend, modelConfig } = input;
  const made = await probeModel(input, batch);
  using _ = made.rows;
  using model = made.model;
  model.train();
  model.gradientCheckpointing = gradientCheckpointing;
  model.activationStorage = activationStorage;
  model.sharePrefix = input.sharePrefix;
  using hidden = normal([batch.ids.length, modelConfig.hiddenSize], { backend, key: randomKey(3), requiresGrad: true });
  using seed = ones([batch.ids.length, modelConfig.hiddenSize], { backend });
  const layer = (): void => withRandom(randomKey(4), () => scope(() => model.forward(batch).backward(seed)).dispose());
  const head = (): void => scope(() => causalLoss(hidden, model.lm_head, batch, {}).backward()).dispose();
  const [layers, heads]: [number[], number[]] = [[], []];
  const start = performance.now();
  for (let round = -1; round < mostRounds; round++) {
    const times = [await elapsed(backend, layer), await elapsed(backend, head)] as const;
    // The first round compiles kernels.
    if (round >= 0 || performance.now() - start > budgetMs) {
      layers.push(times[0]);
      heads.push(times[1]);
    }
    const soFar = performance.now() - start;
    if (layers.length > 0 && soFar + times[0] + times[1] > budgetMs) break;
  }
  const [layerMs, headMs] = [median(layers), median(heads)];
  const batchMs = modelConfig.numHiddenLayers * layerMs + headMs;
  const tokens = batch.ids.length;
  return { tokensPerSecond: (tokens * 1000) / batchMs, layerMs, headMs, tokens, rounds: layers.length };
}
