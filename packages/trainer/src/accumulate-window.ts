import { type Gradients, type RandomKey, scope, type Tensor, withRandom } from '@lorikeet/tensor';
import { breathe } from './breathe.ts';

/** What the loop needs of a batch; the rest is between the data and the loss. */
export interface TrainBatch {
  /** Token ids of all sequences, [t]. */
  readonly ids: Int32Array;
  /** Targets that count: the batch's weight in its accumulation window. */
  readonly trainedTokens: number;
  /** Lines of the rows in their file, for messages. */
  readonly lines: readonly number[];
}

/** The scalar loss of one batch: the sum over its trained tokens divided by `normalizer`. Synchronous. */
export type LossFunction<B> = (batch: B, options: { readonly normalizer: number }) => Tensor;

/** Gradients and losses of a window, owned by the caller. */
export interface WindowGradients {
  readonly gradients: Gradients;
  /** One a micro-batch that trains something. */
  readonly losses: readonly Tensor[];
  dispose(): void;
}

/**
 * Forward and backward of every micro-batch of a window that trains something, gradients summed; with a normalizer of 0, of the first
 * one, whose gradients are 0. Dropout of micro-batch i is keyed by `key` folded with i. Null when the signal is aborted before the last of them: nothing is left of the window then.
 */
export async function accumulateWindow<B extends TrainBatch>(
  loss: LossFunction<B>,
  window: readonly B[],
  options: { readonly normalizer: number; readonly key: RandomKey; readonly signal: AbortSignal | undefined },
): Promise<WindowGradients | null> {
  const { key, signal } = options;
  // Nothing trained in all of it: one micro-batch gives the gradients of 0 with which PyTorch's optimizer steps then.
  const nothing = options.normalizer === 0;
  const normalizer = nothing ? 1 : options.normalizer;
  const losses: Tensor[] = [];
  let gradients: Gradients | null = null;
  const dispose = (): void => {
    gradients?.dispose();
    for (const t of losses) t.dispose();
  };
  try {
    for (const [i, batch] of window.entries()) {
      await breathe();
      if (signal?.aborted) {
        dispose();
        return null;
      }
      if (batch.trainedTokens === 0 && !(nothing && i === 0)) continue;
      const made = withRandom(key.fold(i), () =>
        scope(() => {
          const value = loss(batch, { normalizer });
          return { gradients: value.backward(), loss: value.detach() };
        }),
      );
      losses.push(made.loss);
      gradients = gradients ? gradients.accumulate(made.gradients) : made.gradients;
    }
  } catch (error) {
    dispose();
    throw error;
  }
  if (!gradients) throw new Error('accumulateWindow: a batch must have trained tokens: none has.');
  return { gradients, losses, dispose };
}
