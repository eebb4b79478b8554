import { type FileSystem, joinPath, writeJson } from '@lorikeet/files';
import { namedParameters } from '@lorikeet/nn';
import { buildPhi3, byteSource, initPhi3, type Phi3ForCausalLM, parsePhi3Config, savePhi3 } from '@lorikeet/phi3';
import { type Backend, randomKey } from '@lorikeet/tensor';
import type { Tokenizer } from '@lorikeet/tokenizer';
import { type StepEvent, type TrainBatch, type TrainBatches, train } from '@lorikeet/trainer';
import { type CorpusDocument, corpusDocuments } from './corpus.ts';
import type { TokenizerFiles } from './tokenizer-files.ts';

/** A batch as the trainer and the model take it. */
export interface BaseBatch extends TrainBatch {
  readonly labels: Int32Array;
  readonly lengths: readonly number[];
}

export interface BaseTraining {
  readonly seed: number;
  readonly steps: number;
  /** Documents a step; no document is seen twice. */
  readonly documentsPerStep: number;
  readonly learningRate: number;
  readonly warmupSteps: number;
}

/** Chosen by experiment: 1.2 million parameters learn to find and copy what a request names in five million tokens. */
export const baseTraining: BaseTraining = {
  seed: 1,
  steps: 4800,
  documentsPerStep: 32,
  learningRate: 3e-3,
  warmupSteps: 60,
};

/** The base's `config.json`: Phi-3-mini's keys with small numbers. */
export function baseConfig({ vocabSize, idOf }: TokenizerFiles): Readonly<Record<string, unknown>> {
  return {
    architectures: ['Phi3ForCausalLM'],
    attention_bias: false,
    attention_dropout: 0,
    bos_token_id: idOf('<s>'),
    embd_pdrop: 0,
    eos_token_id: idOf('<|endoftext|>'),
    hidden_act: 'silu',
    hidden_size: 128,
    initializer_range: 0.02,
    intermediate_size: 384,
    max_position_embeddings: 512,
    model_type: 'phi3',
    num_attention_heads: 4,
    num_hidden_layers: 4,
    num_key_value_heads: 4,
    original_max_position_embeddings: 512,
    pad_token_id: idOf('<|endoftext|>'),
    resid_pdrop: 0,
    rms_norm_eps: 1e-5,
    rope_scaling: null,
    rope_theta: 10000,
    sliding_window: 256,
    tie_word_embeddings: false,
    use_cache: true,
    vocab_size: vocabSize,
  };
}

/** Ids of a document and which of them are trained: answers of chats, all of a plain text. */
export function encodeDocument(tokenizer: Tokenizer, document: CorpusDocument): { ids: number[]; labels: number[] } {
  if ('text' in document) {
    const ids = [...tokenizer.encode(document.text), tokenizer.eosTokenId!];
    return { ids, labels: ids };
  }
  const { ids, assistantMask } = tokenizer.encodeChat(document.messages);
  return { ids, labels: ids.map((id, i) => (assistantMask[i] ? id : -100)) };
}

/** One pass over the corpus, made while it is read. */
export function baseBatches(
  tokenizer: Tokenizer,
  { seed, steps, documentsPerStep }: BaseTraining,
): TrainBatches<BaseBatch> {
  const documents = corpusDocuments(seed, steps * documentsPerStep);
  let drawn = 0;
  const next = (): BaseBatch => {
    const rows = Array.from({ length: documentsPerStep }, () => {
      const { value, done } = documents.next();
      if (done)
        throw new Error(`baseBatches: a run must not be longer than its corpus: ${drawn} documents were drawn.`);
      return { ...encodeDocument(tokenizer, value), line: ++drawn };
    });
    return {
      ids: Int32Array.from(rows.flatMap(({ ids }) => ids)),
      labels: Int32Array.from(rows.flatMap(({ labels }) => labels)),
      lengths: rows.map(({ ids }) => ids.length),
      lines: rows.map(({ line }) => line),
      trainedTokens: rows.reduce((n, { labels }) => n + labels.slice(1).filter((label) => label !== -100).length, 0),
    };
  };
  const restore = (): never => {
    throw new Error('baseBatches: the base is trained in one go and cannot be resumed. Start again.');
  };
  return { batchesPerEpoch: steps, next, state: () => drawn, restore };
}

export interface TrainBaseOptions extends BaseTraining {
  readonly backend: Backend;
  readonly files: FileSystem;
  /** Where the trainer writes its log; not the model. */
  readonly runDir: string;
  readonly onStep?: (event: StepEvent) => void;
}

/** Trains the base from random weights and returns it in f32. */
export async function trainBase(
  tokenizer: Tokenizer,
  config: Readonly<Record<string, unknown>>,
  options: TrainBaseOptions,
): Promise<Phi3ForCausalLM> {
  const { backend, files, runDir, seed, steps, learningRate, warmupSteps, onStep } = options;
  const model = await initPhi3(parsePhi3Config(config), { backend, key: randomKey(seed, 'base') });
  const loss = (batch: BaseBatch, { normalizer }: { readonly normalizer: number }) => model.loss(batch, { normalizer });
  const run = train(model, loss, baseBatches(tokenizer, options), {
    files,
    outputDir: runDir,
    learningRate,
    warmupSteps,
    lrSchedulerType: 'cosine',
    maxSteps: steps,
    weightDecay: 0.01,
    adamBeta2: 0.98,
    saveStrategy: 'no',
    seed,
  });
  for await (const event of run) if (event.type === 'step') onStep?.(event);
  return model;
}

/** Writes the model folder, weights rounded to bf16, with its tokenizer. */
export async function writeBase(
  files: FileSystem,
  dir: string,
  model: Phi3ForCausalLM,
  { tokenizer, tokenizerConfig, idOf }: TokenizerFiles,
): Promise<void> {
  const { backend, config } = model;
  const weights = new Map(namedParameters(model).map(({ path, tensor }) => [path, tensor]));
  const rounded = await buildPhi3(
    config,
    (path, shape) => byteSource({ path, shape, dtype: 'f32' }, () => weights.get(path)!.bytes()),
    { backend, dtype: 'bf16' },
  );
  rounded.stopTokenIds = [idOf('<|endoftext|>'), idOf('<|end|>')];
  await savePhi3(files, dir, rounded);
  rounded.dispose();
  await writeJson(files, joinPath(dir, 'tokenizer.json'), tokenizer);
  await writeJson(files, joinPath(dir, 'tokenizer_config.json'), tokenizerConfig);
}
