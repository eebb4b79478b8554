import { type LinearLike, plainWeightOf } from '@lorikeet/nn';
import { checkpoint, crossEntropy, linearCrossEntropy, ShapeError, type Tensor, tensor } from '@lorikeet/tensor';

/** What is to be learned of a padding-free batch of t tokens. */
export interface LossBatch {
  /** [t], beside ids: the token itself where it is trained, -100 where not. */
  readonly labels: Int32Array | readonly number[];
  /** Tokens of each sequence; they sum to t. */
  readonly lengths: readonly number[];
}

/** How losses of tokens become one number. */
export interface LossOptions {
  /** The sum of losses is divided by this; accumulation passes the window's count. Default: the labels that count, at least 1. */
  readonly normalizer?: number;
  /** Weight of the uniform distribution in the target (torch's label_smoothing). Default 0. */
  readonly labelSmoothing?: number;
}

/** The label that is not counted. */
export const ignoreIndex = -100;

/** Labels of the next token: within each sequence one place to the left, the last token predicting nothing. */
export function shiftLabels({ labels, lengths }: LossBatch): Int32Array {
  const shifted = new Int32Array(labels.length).fill(ignoreIndex);
  let start = 0;
  for (const length of lengths) {
    for (let i = start; i < start + length - 1; i++) shifted[i] = labels[i + 1]!;
    start += length;
  }
  return shifted;
}

/** Labels that count in the loss of a batch: what a trainer sums over an accumulation window for `normalizer`. */
export function countTrainedTokens(batch: LossBatch): number {
  let count = 0;
  for (const label of shiftLabels(batch)) if (label !== ignoreIndex) count++;
  return count;
}

/** @throws ShapeError where labels do not stand beside the ids */
export function requireLabels(labels: LossBatch['labels'], ids: number): void {
  if (labels.length !== ids)
    throw new ShapeError(`Phi3.loss: labels must be one an id: got ${labels.length} for ${ids} ids.`);
}

/** Cross-entropy of lm_head(hidden [t, d]) against the shifted labels, in chunks of rows. */
export function causalLoss(hidden: Tensor, lmHead: LinearLike, batch: LossBatch, options: LossOptions): Tensor {
  requireLabels(batch.labels, hidden.shape[0]!);
  return rowsLoss(hidden, lmHead, shiftLabels(batch), options);
}

/** Labels of the next token [t], and the tokens at which they count, in order. */
export function trainedTokens(batch: LossBatch): { tokens: Int32Array; labels: Int32Array } {
  const labels = shiftLabels(batch);
  let count = 0;
  const tokens = new Int32Array(labels.length);
  for (const [i, label] of labels.entries()) if (label !== ignoreIndex) tokens[count++] = i;
  return { tokens: tokens.subarray(0, count), labels };
}

/**
 * The loss where tokens of the batch share rows of hidden [c, d]: token i has row rows[i] and predicts labels[i]. A row that
 * several tokens have and from which they predict the same is computed once, with their number as its weight.
 */
export function sharedCausalLoss(
  hidden: Tensor,
  rows: Int32Array,
  lmHead: LinearLike,
  { labels, options }: { readonly labels: Int32Array; readonly options: LossOptions },
): Tensor {
  const counted = labels.reduce((sum, label) => sum + (label === ignoreIndex ? 0 : 1), 0);
  const normalizer = options.normalizer ?? Math.max(1, counted);
  const none = new Int32Array(hidden.shape[0]!).fill(ignoreIndex);
  if (counted === 0) return rowsLoss(hidden, lmHead, none, { ...options, normalizer });
  const losses = [...predictionsByWeight(rows, labels)].map(([weight, { from, to }]) => {
    const picked = hidden.indexSelect(tensor(from, { backend: hidden.backend, dtype: 'i32' }), 0);
    return rowsLoss(picked, lmHead, to, { ...options, normalizer: normalizer / weight });
  });
  return losses.reduce((sum, loss) => sum.add(loss));
}

/** Rows and the labels to be predicted from them, each pair once, by how often it occurs. */
function predictionsByWeight(rows: Int32Array, labels: Int32Array): Map<number, { from: number[]; to: number[] }> {
  const pairs = new Map<string, { row: number; label: number; count: number }>();
  labels.forEach((label, i) => {
    if (label === ignoreIndex) return;
    const key = `${rows[i]} ${label}`;
    const known = pairs.get(key);
    if (known) known.count++;
    else pairs.set(key, { row: rows[i]!, label, count: 1 });
  });
  const byWeight = new Map<number, { from: number[]; to: number[] }>();
  for (const { row, label, count } of pairs.values()) {
    if (!byWeight.has(count)) byWeight.set(count, { from: [], to: [] });
    const { from, to } = byWeight.get(count)!;
    from.push(row);
    to.push(label);
  }
  return byWeight;
}

/** Cross-entropy of lm_head(hidden) [t, v] against labels [t], in chunks of rows. */
export function rowsLoss(
  hidden: Tensor,
  lmHead: LinearLike,
  labels: Int32Array | readonly number[],
  options: LossOptions,
): Tensor {
  const weight = plainWeightOf(lmHead);
  const given = options.normalizer === undefined ? {} : { normalizer: options.normalizer };
  const { labelSmoothing = 0 } = options;
  if (weight) return linearCrossEntropy(hidden, weight, labels, { ...given, labelSmoothing });
  return chunkedLoss(hidden, lmHead, labels, { ...given, labelSmoothing });
}

/** The same for a head that is more than a matrix (adapted, quantized): each chunk's logits are made again in the backward. */
function chunkedLoss(
  hidden: Tensor,
  lmHead: LinearLike,
  labels: Int32Array | readonly number[],
  options: LossOptions,
): Tensor {
  const chunkRows = 256;
  const { backend } = hidden;
  const rows = [...labels.keys()].filter((i) => labels[i] !== ignoreIndex);
  const sum = (h: Tensor, y: Tensor): Tensor =>
    crossEntropy(lmHead.forward(h), y, { reduction: 'sum', labelSmoothing: options.labelSmoothing ?? 0 });
  let total = hidden.slice(0, 0, 0).sum(); // 0, and still part of the graph when no label counts
  for (let start = 0; start < rows.length; start += chunkRows) {
    const chunk = Int32Array.from(rows.slice(start, start + chunkRows));
    const h = hidden.indexSelect(tensor(chunk, { backend, dtype: 'i32' }), 0);
    const y = tensor(
      chunk.map((i) => labels[i]!),
      { backend, dtype: 'i32' },
    );
    total = total.add(checkpoint(sum, h, y));
  }
  return total.div(options.normalizer ?? Math.max(1, rows.length));
}
