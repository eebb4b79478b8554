/** A tiny language model, data of unequal rows, and a run over them: what the tests of the loop share. */
import { type FileSystem, memoryFiles } from '@lorikeet/files';
import { Dropout, Embedding, Linear, Module, RMSNorm } from '@lorikeet/nn';
import {
  type Backend,
  type DType,
  linearCrossEntropy,
  ones,
  randomKey,
  referenceBackend,
  scope,
  type Tensor,
} from '@lorikeet/tensor';
import type { LossFunction } from '../accumulate-window.ts';
import { type Batch, createBatches, type Example, ignoredLabel } from '../data/index.ts';
import type { StepEvent, TrainEvent } from '../events.ts';
import type { RunOptions } from '../options.ts';
import { train } from '../train.ts';

export const vocabularySize = 13;

/** Predicts the next token from the token before it: embedding, a projection with dropout, a norm, a head. */
export class TinyModel extends Module {
  embed_tokens: Embedding;
  proj: Linear;
  dropout: Dropout;
  norm: RMSNorm;
  lm_head: Linear;

  constructor(backend: Backend, { dropout = 0, dtype = 'f32' as DType, seed = 5, width = 6 } = {}) {
    super();
    const make = (name: string) => ({ backend, dtype, key: randomKey(seed, name), requiresGrad: true });
    this.embed_tokens = Embedding.init(vocabularySize, width, make('embed'));
    this.proj = Linear.init(width, width, make('proj'));
    this.dropout = new Dropout(dropout);
    this.norm = new RMSNorm(ones([width], { backend, dtype, requiresGrad: true }));
    this.lm_head = Linear.init(width, vocabularySize, { ...make('head'), bias: false });
    this.assignPaths();
  }

  /** [t, d] */
  hidden({ ids }: Pick<Batch, 'ids'>): Tensor {
    return scope(() => {
      const x = this.embed_tokens.forward(ids);
      return this.norm.forward(x.add(this.dropout.forward(this.proj.forward(x).silu())));
    });
  }
}

export const tinyLoss =
  (model: TinyModel): LossFunction<Batch> =>
  (batch, { normalizer }) =>
    linearCrossEntropy(model.hidden(batch), model.lm_head.weight, batch.targets, { normalizer });

/** Rows that count up from some token, of 4 to 9 tokens, with as many untrained ones in front as the row's number says. */
export const tinyExamples = (count: number): Example[] =>
  Array.from({ length: count }, (_, row) => {
    const ids = Int32Array.from({ length: 4 + ((row * 5) % 6) }, (__, i) => (row * 3 + i) % vocabularySize);
    return { ids, labels: ids.map((id, i) => (i <= row % 3 ? ignoredLabel : id)), line: row + 1 };
  });

export interface TinyRun extends Partial<RunOptions> {
  readonly model?: TinyModel;
  readonly dropout?: number;
  readonly rows?: number;
  readonly examples?: readonly Example[];
  readonly batchSize?: number;
  readonly order?: 'random' | 'sequential';
  readonly loss?: LossFunction<Batch>;
  /** Called with each event before the loop goes on. */
  readonly onEvent?: (event: TrainEvent) => void;
}

export interface TinyResult {
  readonly model: TinyModel;
  readonly files: FileSystem;
  readonly events: readonly TrainEvent[];
  readonly steps: readonly StepEvent[];
  readonly notes: readonly string[];
}

/** Runs train on the reference backend, in memory unless `files` says otherwise. */
export async function tinyRun(options: TinyRun = {}): Promise<TinyResult> {
  const {
    model: given,
    dropout = 0,
    rows = 10,
    examples,
    batchSize = 2,
    order = 'random',
    loss,
    onEvent,
    ...rest
  } = options;
  const model = given ?? new TinyModel(referenceBackend(), { dropout });
  const batches = createBatches(examples ?? tinyExamples(rows), { batchSize, order, seed: 3 });
  const files = rest.files ?? memoryFiles();
  const run: RunOptions = { outputDir: 'run', learningRate: 0.05, maxSteps: 12, ...rest, files };
  const events: TrainEvent[] = [];
  for await (const event of train(model, loss ?? tinyLoss(model), batches, run)) {
    events.push(event);
    onEvent?.(event);
  }
  return {
    model,
    files,
    events,
    steps: events.filter((e) => e.type === 'step'),
    notes: events.flatMap((e) => (e.type === 'note' ? [e.message] : [])),
  };
}

/** Every parameter as hexadecimal bytes, by path. */
export async function parameterBytes(model: Module): Promise<Record<string, string>> {
  const found: Record<string, string> = {};
  for (const { path, tensor } of model.namedParameters())
    found[path] = Buffer.from(await tensor.bytes()).toString('hex');
  return found;
}

/** log.jsonl without what depends on the clock and on the process. */
export async function logWithoutTimes(files: FileSystem, outputDir = 'run'): Promise<string> {
  const text = new TextDecoder().decode(await files.read(`${outputDir}/log.jsonl`));
  return text.replaceAll(/"(tokensPerSecond|elapsedMs|peakBytes)":[-+.\de]+/g, '"$1":0');
}

/** What must be equal bit for bit between a run and its resumption. */
export const numbersOf = (steps: readonly StepEvent[]) =>
  steps.map(({ step, epoch, loss, gradNorm, learningRate, tokens, trainedTokens, totalTokens }) => ({
    step, epoch, loss, gradNorm, learningRate, tokens, trainedTokens, totalTokens,
  })); // biome-ignore format: one row
