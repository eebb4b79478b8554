/** How far a merged model's logits are from those of base and adapter, on sample prompts. */
import type { Phi3ForCausalLM } from '@lorikeet/phi3';
import { NonFiniteError, noGrad, scope } from '@lorikeet/tensor';
import type { Tokenizer } from '@lorikeet/tokenizer';
import { userError } from '../errors.ts';

/** Short texts of several kinds; what they say does not matter. */
export const samplePrompts: readonly string[] = [
  'The quick brown fox jumps over the lazy dog.',
  'What is 12 times 7? Think step by step.',
  'def fibonacci(n):\n    return n if n < 2 else',
  '안녕하세요. 오늘 날씨가',
];

/** The logits of a model on prompts, kept on the host while another model is loaded. */
export interface SampleLogits {
  readonly prompts: number;
  readonly tokens: number;
  /** [tokens, vocabulary] */
  readonly values: Float32Array;
}

/** @throws NonFiniteError when the model gives NaN or infinity; CliError (exit code 2) for a prompt without tokens */
export async function sampleLogits(
  model: Phi3ForCausalLM,
  tokenizer: Tokenizer,
  prompts: readonly string[],
  whose: string,
): Promise<SampleLogits> {
  const sequences = prompts.map((prompt) => tokenizer.encode(prompt));
  const empty = sequences.findIndex((ids) => ids.length === 0);
  if (empty >= 0) throw userError(`--prompt: must hold a token: ${JSON.stringify(prompts[empty])} holds none.`);
  const lengths = sequences.map((ids) => ids.length);
  using logits = noGrad(() => scope(() => model.logits({ ids: Int32Array.from(sequences.flat()), lengths }).cast('f32').mul(1))); // biome-ignore format: one line
  const values = (await logits.data()) as Float32Array;
  const bad = values.findIndex((value) => !Number.isFinite(value));
  if (bad >= 0)
    throw new NonFiniteError(
      `merge: logits must be finite: ${whose} gives ${values[bad]} for a token of a sample prompt. Nothing was written.`,
    );
  return { prompts: prompts.length, tokens: sequences.flat().length, values };
}

export interface LogitDifference {
  readonly prompts: number;
  readonly tokens: number;
  /** Largest and mean |difference| over all tokens and the whole vocabulary. */
  readonly largest: number;
  readonly mean: number;
  /** Part of the tokens whose likeliest successor is the same. */
  readonly sameTop: number;
}

/** What lies between two models' logits on the same prompts. */
export function logitDifference(before: SampleLogits, after: SampleLogits): LogitDifference {
  const { tokens, values } = before;
  const width = values.length / tokens;
  let [largest, sum, same] = [0, 0, 0];
  for (let token = 0; token < tokens; token++) {
    let [topBefore, topAfter] = [token * width, token * width];
    for (let i = token * width; i < (token + 1) * width; i++) {
      const difference = Math.abs(values[i]! - after.values[i]!);
      largest = Math.max(largest, difference);
      sum += difference;
      if (values[i]! > values[topBefore]!) topBefore = i;
      if (after.values[i]! > after.values[topAfter]!) topAfter = i;
    }
    if (topBefore === topAfter) same++;
  }
  return { prompts: before.prompts, tokens, largest, mean: sum / values.length, sameTop: same / tokens };
}
