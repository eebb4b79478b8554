import { namedModules } from '@lorikeet/nn';
import { NonFiniteError, noGrad, type RandomKey, randomKey, scope } from '@lorikeet/tensor';
import { KeyValueCache } from './key-value-cache.ts';
import type { Phi3ForCausalLM } from './model.ts';
import { argmaxOf, checkSampling, drawFrom, logProbability, type ProcessorOptions, processLogits } from './sampling.ts';

/** How a text is continued; names and meanings of transformers' GenerationConfig. Greedy unless doSample is set. */
export interface GenerateOptions extends ProcessorOptions {
  /** At most this many tokens, a stop token included. */
  readonly maxNewTokens: number;
  /** Seed of the draws. Default 0: the same text every time. */
  readonly seed?: number;
  /** Generation ends after one of these. Default: the model's stopTokenIds. */
  readonly stopTokenIds?: readonly number[];
  /** Aborting rejects the next step with the signal's reason. */
  readonly signal?: AbortSignal;
}

/** One token of a continuation. */
export interface GeneratedToken {
  readonly id: number;
  /** Log-probability of the token under the model itself, before penalty, temperature and filters. */
  readonly logprob: number;
  /** Whether it is a stop token, and so the last. */
  readonly isStop: boolean;
}

/** Runs a synchronous function with dropout off in the whole model, and puts every module's flag back. */
export function inEvalMode<T>(model: Phi3ForCausalLM, fn: () => T): T {
  const training = [...namedModules(model)].map(([, module]) => module).filter((module) => module.training === true);
  for (const module of training) module.training = false;
  try {
    return fn();
  } finally {
    for (const module of training) module.training = true;
  }
}

export function checkPrompt(model: Phi3ForCausalLM, promptIds: ArrayLike<number>, maxNewTokens: number): void {
  const { maxPositionEmbeddings } = model.config;
  if (!Number.isInteger(maxNewTokens) || maxNewTokens < 0)
    throw new RangeError(`generate: maxNewTokens must be an integer of at least 0: got ${maxNewTokens}.`);
  if (promptIds.length === 0)
    throw new RangeError('generate: the prompt must have at least one token: got none. Begin with the bos token.');
  if (promptIds.length > maxPositionEmbeddings)
    throw new RangeError(
      `generate: the prompt must have at most ${maxPositionEmbeddings} tokens (max_position_embeddings): got ${promptIds.length}. Shorten it.`,
    );
}

/** Logits of the token after `ids`, feeding only what the cache does not hold. */
function nextLogits(model: Phi3ForCausalLM, ids: readonly number[], cache: KeyValueCache) {
  // Keys in the cache were rotated with the short factors; past the border every token takes the long ones.
  if (model.usesLongFactors(ids.length) && !model.usesLongFactors(cache.length)) cache.clear();
  const fresh = ids.slice(cache.length);
  return inEvalMode(model, () =>
    noGrad(() => scope(() => model.logits({ ids: fresh, lengths: [fresh.length] }, { last: true, cache }))),
  );
}

/** The next token of one sequence from its row of logits. */
export function chooseToken(
  row: Float32Array,
  ids: readonly number[],
  step: number,
  key: RandomKey,
  options: GenerateOptions,
): { id: number; logprob: number } {
  const logits = new Float64Array(row); // not .from, which takes a call an element
  processLogits(logits, ids, options);
  const id = options.doSample ? drawFrom(logits, key, step) : argmaxOf(logits);
  const logprob = logProbability(row, id);
  if (!Number.isFinite(logprob))
    throw new NonFiniteError(
      `generate: logits must be finite: they are not after ${ids.length} tokens. Check the weights with inspect.`,
    );
  return { id, logprob };
}

/**
 * Continues a prompt token by token with a key-value cache. The model may be in training mode: dropout is off for the
 * forward alone, so a model can be tried while it is trained. Ends after a stop token, maxNewTokens, or at
 * max_position_embeddings. Leaving the loop frees the cache.
 *
 * @throws RangeError for an empty or too long prompt or an option out of range; NonFiniteError when logits are not finite; the
 * signal's reason
 */
export async function* generate(
  model: Phi3ForCausalLM,
  promptIds: ArrayLike<number>,
  options: GenerateOptions,
): AsyncGenerator<GeneratedToken, void, void> {
  const { maxNewTokens, signal, seed = 0, stopTokenIds = model.stopTokenIds } = options;
  checkPrompt(model, promptIds, maxNewTokens);
  checkSampling(options);
  const key = randomKey(seed, 'generate');
  const ids = Array.from(promptIds);
  using cache = new KeyValueCache(model.config, model.backend);
  for (let step = 0; step < maxNewTokens && ids.length <= model.config.maxPositionEmbeddings; step++) {
    signal?.throwIfAborted();
    using logits = nextLogits(model, ids, cache);
    const row = (await logits.data()) as Float32Array;
    const { id, logprob } = chooseToken(row, ids, step, key, options);
    ids.push(id);
    const isStop = stopTokenIds.includes(id);
    yield { id, logprob, isStop };
    if (isStop) return;
  }
}
