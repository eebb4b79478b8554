import { type PackOptions, packRows } from './pack-examples.ts';
import { Sampler, type SamplerOptions, type SamplerState } from './sampler.ts';
import { countTrained, type Example, ignoredLabel } from './tokenize-rows.ts';

/** Sequences one after another without padding. t is the number of tokens of all of them. */
export interface Batch {
  /** Token ids, [t]. */
  readonly ids: Int32Array;
  /** As in Transformers, [t]: the id itself where it is trained, else -100; always -100 on the first token of a sequence. */
  readonly labels: Int32Array;
  /** What the logits of each position are to predict, [t]: `labels` one to the left, -100 on the last token of a sequence. For `crossEntropy`. */
  readonly targets: Int32Array;
  /** Position within the sequence, [t]; from 0 at each start. */
  readonly positions: Int32Array;
  /** Tokens of each sequence. */
  readonly lengths: readonly number[];
  /**
   * Tokens of the row in which TRL lays the batch out: the longest sequence where rows are padded to each other, all tokens where
   * packs lie end to end. NEFTune's noise shrinks with its root.
   */
  readonly rowTokens: number;
  /** Targets that count: the weight of this batch in its accumulation window. */
  readonly trainedTokens: number;
  /** Line of each sequence's row, for messages. */
  readonly lines: readonly number[];
}

/** Puts examples one after another. @throws {RangeError} if there are none */
export function collate(examples: readonly Example[]): Batch {
  if (examples.length === 0) throw new RangeError('collate: a batch must hold at least one example: got none.');
  const size = examples.reduce((sum, { ids }) => sum + ids.length, 0);
  const [ids, labels, positions] = [new Int32Array(size), new Int32Array(size), new Int32Array(size)];
  const targets = new Int32Array(size).fill(ignoredLabel);
  let start = 0;
  for (const example of examples) {
    ids.set(example.ids, start);
    labels.set(example.labels, start);
    labels[start] = ignoredLabel;
    targets.set(example.labels.subarray(1), start);
    for (let i = 0; i < example.ids.length; i++) positions[start + i] = i;
    start += example.ids.length;
  }
  return {
    ids,
    labels,
    targets,
    positions,
    lengths: examples.map((example) => example.ids.length),
    rowTokens: examples.reduce((most, { ids: row }) => Math.max(most, row.length), 0),
    trainedTokens: examples.reduce((sum, example) => sum + countTrained(example.labels), 0),
    lines: examples.map(({ line }) => line),
  };
}

/** Size, order and seed of batches, and whether short rows share an item. */
export interface BatchOptions extends Omit<SamplerOptions, 'itemCount'>, Partial<PackOptions> {
  /**
   * Fills each item of a batch with several short rows, up to `maxLength` tokens, so that steps are of like size. A batch then has
   * `batchSize` packs, and `maxLength` is needed. @defaultValue false
   */
  readonly packing?: boolean;
}

/** Training batches without end. */
export interface BatchSource {
  /** Micro-batches of one epoch; the last may be smaller. */
  readonly batchesPerEpoch: number;
  /** Examples or packs of one epoch. */
  readonly itemCount: number;
  /** Tokens of one epoch. */
  readonly tokensPerEpoch: number;
  /** Epochs given out, with fraction. */
  readonly epochs: number;
  /** The next micro-batch; after the last of an epoch the first of the next. */
  next(): Batch;
  /** Where the order stands, as JSON; `restore` goes on from there. @throws RangeError for other data or another seed */
  state(): SamplerState;
  restore(state: SamplerState): void;
}

/** Plans batches over examples. @throws {RangeError} on bad sizes */
export function createBatches(examples: readonly Example[], options: BatchOptions): BatchSource {
  const { packing = false, maxLength, packingStrategy = 'bfd', packingRows, ...sampling } = options;
  if (packing && maxLength === undefined)
    throw new RangeError('createBatches: packing needs maxLength, the tokens of a pack: got none.');
  const items = packing
    ? packRows(examples, { maxLength: maxLength!, packingStrategy, ...(packingRows ? { packingRows } : {}) })
    : examples.map((example) => [example]);
  // Packs of whole rows lie end to end in one row of TRL's batch; 'wrapped' ones are padded to each other as rows are.
  const endToEnd = packing && packingStrategy !== 'wrapped';
  const sampler = new Sampler({ ...sampling, itemCount: items.length });
  return {
    batchesPerEpoch: sampler.batchesPerEpoch,
    itemCount: items.length,
    tokensPerEpoch: examples.reduce((sum, { ids }) => sum + ids.length, 0),
    get epochs() {
      return sampler.epochs;
    },
    next: () => {
      const batch = collate(sampler.next().indices.flatMap((index) => items[index]!));
      return endToEnd ? { ...batch, rowTokens: batch.ids.length } : batch;
    },
    state: () => sampler.state(),
    restore: (state) => sampler.restore(state),
  };
}

/** All examples once, in order: the batches of an evaluation. */
export function* evaluationBatches(examples: readonly Example[], batchSize: number): Generator<Batch> {
  if (!Number.isInteger(batchSize) || batchSize < 1)
    throw new RangeError(`evaluationBatches: batchSize must be an integer of at least 1: got ${batchSize}.`);
  for (let start = 0; start < examples.length; start += batchSize)
    yield collate(examples.slice(start, start + batchSize));
}
