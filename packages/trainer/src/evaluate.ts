import { type ModuleLike, namedModules, setTraining } from '@lorikeet/nn';
import { concat, noGrad, scope, type Tensor, tensor } from '@lorikeet/tensor';
import { breathe } from './breathe.ts';

/** What an evaluation needs of a batch; `Batch` of this package is one. */
export interface EvaluationBatch {
  /** What each position is to predict, [t]; -100 where nothing counts. */
  readonly targets: Int32Array;
  /** Tokens of each sequence; they sum to t. */
  readonly lengths: readonly number[];
  /** Line of each sequence's row. */
  readonly lines: readonly number[];
}

/** The model as two functions, and how much is measured at a time. */
export interface EvaluateOptions<B extends EvaluationBatch> {
  /** Hidden states [t, d] of a batch, below the language-model head. Synchronous. */
  readonly hidden: (batch: B) => Tensor;
  /** Logits [n, v] of some of these rows [n, d]. Synchronous. */
  readonly head: (rows: Tensor) => Tensor;
  /** Rows of logits that exist at a time. Default 256. */
  readonly chunkRows?: number;
  /** Called after each batch with the tokens measured so far. */
  readonly onProgress?: (tokens: number) => void;
  /** Stops between two batches with the signal's reason. */
  readonly signal?: AbortSignal;
}

/** One row's part of an evaluation; as a `Measurement` its mean is the row's loss. */
export interface RowScore {
  readonly line: number;
  /** Negative log-likelihood of the row's targets, in nats. */
  readonly sum: number;
  /** Targets of the row. */
  readonly weight: number;
  /** Targets that were the most likely token. */
  readonly correct: number;
}

/** What was measured, over all targets of all batches. */
export interface Evaluation {
  /** Mean negative log-likelihood over all targets of all batches, in nats. */
  readonly evalLoss: number;
  /** e^evalLoss. */
  readonly perplexity: number;
  /** Part of the targets that were the most likely token. */
  readonly tokenAccuracy: number;
  /** Targets measured. */
  readonly tokens: number;
  /** In the order of the batches: what `bootstrapDifference` compares. */
  readonly rows: readonly RowScore[];
}

interface Measured {
  readonly losses: ArrayLike<number>;
  readonly hits: ArrayLike<number>;
}

/** Loss and hit of each position in `places`: logits exist for `chunkRows` of them at a time, and results are read once. */
async function measure<B extends EvaluationBatch>(
  batch: B,
  places: readonly number[],
  { hidden, head, chunkRows = 256 }: EvaluateOptions<B>,
): Promise<Measured> {
  const made = noGrad(() =>
    scope(() => {
      const states = hidden(batch);
      const { backend } = states;
      const parts: { loss: Tensor; hit: Tensor }[] = [];
      for (let start = 0; start < places.length; start += chunkRows) {
        const chunk = Int32Array.from(places.slice(start, start + chunkRows));
        const part = scope(() => {
          const logits = head(states.indexSelect(tensor(chunk, { backend, dtype: 'i32' }), 0));
          const labels = tensor(
            chunk.map((i) => batch.targets[i]!),
            { backend, dtype: 'i32' },
          );
          return {
            loss: logits.crossEntropy(labels, { reduction: 'none' }),
            hit: logits.argmax(-1).cast('i32').eq(labels),
          };
        });
        parts.push(part);
      }
      const join = (list: Tensor[]): Tensor => (list.length === 1 ? list[0]! : concat(list, 0));
      return { loss: join(parts.map((p) => p.loss)), hit: join(parts.map((p) => p.hit)) };
    }),
  );
  try {
    return { losses: await made.loss.data(), hits: await made.hit.data() };
  } finally {
    made.loss.dispose();
    made.hit.dispose();
  }
}

/** Splits what was measured among the batch's rows. */
function rowScores(batch: EvaluationBatch, places: readonly number[], { losses, hits }: Measured): RowScore[] {
  let [start, at] = [0, 0];
  return batch.lengths.map((length, row) => {
    const end = start + length;
    let [sum, weight, correct] = [0, 0, 0];
    for (; at < places.length && places[at]! < end; at++) {
      sum += losses[at]!;
      correct += hits[at]!;
      weight++;
    }
    start = end;
    return { line: batch.lines[row]!, sum, weight, correct };
  });
}

/**
 * Loss, perplexity and token accuracy over all targets of all batches, each weighing the same whatever its batch. The model is in eval
 * mode for the time, nothing is recorded for gradients, and the full logits never exist.
 *
 * @throws RangeError if no batch holds a target
 */
export async function evaluate<B extends EvaluationBatch>(
  model: ModuleLike,
  batches: Iterable<B>,
  options: EvaluateOptions<B>,
): Promise<Evaluation> {
  const rows: RowScore[] = [];
  let tokens = 0;
  const modes = [...namedModules(model)].map(([, module]) => [module, module.training] as const);
  setTraining(model, false);
  try {
    for (const batch of batches) {
      options.signal?.throwIfAborted();
      await breathe();
      const places = [...batch.targets.keys()].filter((i) => batch.targets[i] !== -100);
      const measured = places.length ? await measure(batch, places, options) : { losses: [], hits: [] };
      rows.push(...rowScores(batch, places, measured));
      tokens += places.length;
      options.onProgress?.(tokens);
    }
  } finally {
    for (const [module, training] of modes) if (training !== undefined) module.training = training;
  }
  if (tokens === 0)
    throw new RangeError(
      `evaluate: batches must hold at least one trained token: got ${rows.length} rows with none. Check the roles and the maximal length of the evaluation data.`,
    );
  const total = (pick: (row: RowScore) => number): number => rows.reduce((sum, row) => sum + pick(row), 0);
  const evalLoss = total((row) => row.sum) / tokens;
  return {
    evalLoss,
    perplexity: Math.exp(evalLoss),
    tokenAccuracy: total((row) => row.correct) / tokens,
    tokens,
    rows,
  };
}
