/** Whether a model gives exactly the answers of a data set. */
import { generateBatch, type Phi3ForCausalLM } from '@lorikeet/phi3';
import type { Tokenizer } from '@lorikeet/tokenizer';
import { type ChatTurn, type ExactMatch, exactMatch, type Row } from '@lorikeet/trainer';
import { stopTokens } from './generate-text.ts';

/** A request of a data set with the answer that is right. */
export interface Question {
  readonly line: number;
  readonly promptIds: readonly number[];
  /** The turns before the answer; one user turn of the prompt where the row is plain text. */
  readonly prompt: readonly ChatTurn[];
  readonly reference: string;
}

/** What a row asks and what its last answer is; undefined for plain text, which asks nothing. */
export function questionOf(row: Row, tokenizer: Tokenizer): Question | undefined {
  if (row.kind === 'text') return undefined;
  const { line } = row;
  if (row.kind === 'prompt-completion' && typeof row.prompt === 'string' && typeof row.completion === 'string') {
    const prompt = [{ role: 'user', content: row.prompt }];
    return { line, prompt, promptIds: tokenizer.encode(row.prompt), reference: row.completion };
  }
  const turns = row.kind === 'chat' ? row.messages : ([...row.prompt, ...row.completion] as ChatTurn[]);
  const at = turns.findLastIndex(({ role }) => role === 'assistant');
  if (at < 1) return undefined;
  const prompt = turns.slice(0, at);
  return {
    line,
    prompt,
    promptIds: tokenizer.chatIds(prompt, { addGenerationPrompt: true }),
    reference: turns[at]!.content,
  };
}

export interface Answered extends ExactMatch {
  readonly answers: readonly string[];
}

/** Greedy answers to all questions, compared with the right ones. */
export async function answerQuestions(
  model: Phi3ForCausalLM,
  tokenizer: Tokenizer,
  questions: readonly Question[],
  options: { readonly onProgress?: (done: number) => void; readonly signal?: AbortSignal } = {},
): Promise<Answered> {
  // An answer that runs on past the longest right one is wrong already: a few tokens more are enough to see it.
  const longest = Math.max(...questions.map(({ reference }) => tokenizer.encode(reference).length));
  let done = 0;
  const generated = await generateBatch(
    model,
    questions.map(({ promptIds }) => promptIds),
    {
      maxNewTokens: Math.ceil(longest * 1.25) + 4,
      stopTokenIds: stopTokens(model, tokenizer),
      onDone: () => options.onProgress?.(++done),
      ...(options.signal ? { signal: options.signal } : {}),
    },
  );
  const answers = generated.map((tokens) =>
    tokenizer.decode(tokens.filter(({ isStop }) => !isStop).map(({ id }) => id)),
  );
  return {
    answers,
    ...exactMatch(
      answers,
      questions.map(({ reference }) => reference),
    ),
  };
}
