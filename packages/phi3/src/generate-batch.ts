import { noGrad, randomKey, scope } from '@lorikeet/tensor';
import { checkPrompt, chooseToken, type GeneratedToken, type GenerateOptions, inEvalMode } from './generate.ts';
import type { Phi3ForCausalLM } from './model.ts';
import { PackedCache } from './packed-cache.ts';
import { checkSampling } from './sampling.ts';

/** Options of generate, the same for every prompt, and how many run together. */
export interface GenerateBatchOptions extends GenerateOptions {
  /** Prompts that run together. Default 16. */
  readonly batchSize?: number;
  /** Called when a prompt has its last token. */
  readonly onDone?: (index: number) => void;
}

/** A prompt on its way. */
interface Running {
  readonly index: number;
  readonly ids: number[];
  readonly tokens: GeneratedToken[];
}

/** Logits of the next token of every running sequence, [sequences, v], feeding only what the cache does not hold. */
function nextLogits(model: Phi3ForCausalLM, running: readonly Running[], cache: PackedCache) {
  const held = cache.heldLengths;
  const crosses = ({ ids }: Running, i: number): boolean =>
    model.usesLongFactors(ids.length) && !model.usesLongFactors(held[i] ?? ids.length);
  if (running.some(crosses)) cache.clear(); // keys rotated with the short factors are made again with the long ones
  const fresh = running.map(({ ids }, i) => ids.slice(cache.heldLengths[i] ?? 0));
  const batch = { ids: fresh.flat(), lengths: fresh.map((ids) => ids.length) };
  return inEvalMode(model, () => noGrad(() => scope(() => model.logits(batch, { last: true, cache }))));
}

async function generateTogether(
  model: Phi3ForCausalLM,
  group: readonly Running[],
  options: GenerateBatchOptions,
): Promise<void> {
  const { maxNewTokens, signal, seed = 0, stopTokenIds = model.stopTokenIds, onDone } = options;
  const key = randomKey(seed, 'generate');
  using cache = new PackedCache();
  let running = maxNewTokens > 0 ? group : [];
  for (let step = 0; running.length > 0; step++) {
    signal?.throwIfAborted();
    using logits = nextLogits(model, running, cache);
    const rows = (await logits.data()) as Float32Array;
    const going: number[] = [];
    for (const [i, { index, ids, tokens }] of running.entries()) {
      const { vocabSize, maxPositionEmbeddings } = model.config;
      const row = rows.subarray(i * vocabSize, (i + 1) * vocabSize);
      const { id, logprob } = chooseToken(row, ids, step, key, options);
      const isStop = stopTokenIds.includes(id);
      ids.push(id);
      tokens.push({ id, logprob, isStop });
      if (isStop || tokens.length === maxNewTokens || ids.length > maxPositionEmbeddings) onDone?.(index);
      else going.push(i);
    }
    cache.select(going);
    running = going.map((i) => running[i]!);
  }
}

/**
 * Continues many prompts, several at a time in one padding-free batch; each gets the tokens that `generate` gives it alone,
 * up to rounding. For measuring answers, where nobody watches the text grow.
 *
 * @returns the tokens of each prompt, in the order of the prompts
 * @throws as generate
 */
export async function generateBatch(
  model: Phi3ForCausalLM,
  prompts: readonly ArrayLike<number>[],
  options: GenerateBatchOptions,
): Promise<GeneratedToken[][]> {
  const { batchSize = 16, maxNewTokens } = options;
  if (!(Number.isInteger(batchSize) && batchSize >= 1))
    throw new RangeError(`generateBatch: batchSize must be an integer of at least 1: got ${batchSize}.`);
  for (const prompt of prompts) checkPrompt(model, prompt, maxNewTokens);
  checkSampling(options);
  const all = prompts.map((prompt, index): Running => ({ index, ids: Array.from(prompt), tokens: [] }));
  for (let start = 0; start < all.length; start += batchSize)
    await generateTogether(model, all.slice(start, start + batchSize), options);
  return all.map(({ tokens }) => tokens);
}
