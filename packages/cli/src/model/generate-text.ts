/** From tokens to text as it is generated. */
import { type GeneratedToken, type GenerateOptions, generate, type Phi3ForCausalLM, streamText } from '@lorikeet/phi3';
import type { Tokenizer } from '@lorikeet/tokenizer';

export interface TextOptions extends Omit<GenerateOptions, 'stopTokenIds'> {
  /** Generation ends before the first of these; the text itself is left out. */
  readonly stopStrings?: readonly string[];
}

export interface GeneratedText {
  readonly text: string;
  /** With the stop token, where there is one. */
  readonly ids: readonly number[];
  /** 'stop': the model or a stop string ended it; 'length': maxNewTokens or the model's context did. */
  readonly finishReason: 'stop' | 'length';
}

/** Tokens after which this model has said all: those of its configuration, the tokenizer's end of text and Phi-3's end of turn. */
export function stopTokens(model: Phi3ForCausalLM, tokenizer: Tokenizer): number[] {
  const named = ['<|end|>', '<|endoftext|>'].map((token) => tokenizer.tokenToId(token));
  const ids = [...model.stopTokenIds, tokenizer.eosTokenId, ...named].filter((id) => id !== undefined);
  return [...new Set(ids)].filter((id) => id < model.config.vocabSize);
}

/**
 * Generates a text. `onText` gets it piece by piece, whole characters only.
 * Aborting the signal ends the generation with its reason.
 */
export async function generateText(
  model: Phi3ForCausalLM,
  tokenizer: Tokenizer,
  promptIds: readonly number[],
  { stopStrings = [], ...options }: TextOptions,
  onText: (piece: string) => void = () => undefined,
): Promise<GeneratedText> {
  const made: GeneratedToken[] = [];
  const { maxPositionEmbeddings } = model.config;
  async function* recorded(): AsyncGenerator<GeneratedToken, void, void> {
    for await (const token of generate(model, promptIds, { ...options, stopTokenIds: stopTokens(model, tokenizer) })) {
      made.push(token);
      yield token;
    }
  }
  let text = '';
  for await (const piece of streamText(recorded(), tokenizer.streamDecoder(), { stopStrings })) {
    text += piece;
    onText(piece);
  }
  const full = made.length >= options.maxNewTokens || promptIds.length + made.length > maxPositionEmbeddings;
  const finishReason = full && !made.at(-1)?.isStop ? 'length' : 'stop';
  return { text, ids: made.map(({ id }) => id), finishReason };
}
