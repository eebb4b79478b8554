/** How good a model is on held-out rows: loss, token accuracy and, where asked, exactly right answers. */
import { setAdapterEnabled } from '@lorikeet/lora';
import type { Phi3ForCausalLM } from '@lorikeet/phi3';
import {
  type Batch,
  type Evaluation,
  type Example,
  evaluate,
  evaluationBatches,
  type LossOn,
  type Row,
  tokenizeRows,
} from '@lorikeet/trainer';
import { CliError, exitCodes, userError, withExitCode } from '../errors.ts';
import { type AnswerRouge, answerRouge } from './answer-rouge.ts';
import { needsTemplate, requireTemplate } from './chat-template.ts';
import { type Answered, answerQuestions, type Question, questionOf } from './exact-answers.ts';
import type { OpenedModel } from './open-model.ts';

/** Loss, perplexity and token accuracy of a model on examples. */
export function evaluatePhi3(
  model: Phi3ForCausalLM,
  examples: readonly Example[],
  batchSize: number,
): Promise<Evaluation> {
  return evaluateBatches(model, evaluationBatches(examples, batchSize));
}

/** The same over batches that are made. */
export function evaluateBatches(model: Phi3ForCausalLM, batches: Iterable<Batch>): Promise<Evaluation> {
  return evaluate(model, batches, {
    hidden: (batch: Batch) => model.forward(batch),
    head: (rows) => model.lm_head.forward(rows),
  });
}

/** Held-out rows and how they are read. */
export interface HeldOut {
  readonly rows: readonly Row[];
  /** File of the rows, for messages. */
  readonly path: string;
  readonly lossOn: LossOn;
  readonly maxLength: number;
}

export interface MeasureOptions {
  readonly batchSize: number;
  /** Also generate every answer. */
  readonly answers: boolean;
  /** With `answers`: score them with ROUGE. */
  readonly rouge?: boolean;
  /** Whether the adapter is on. */
  readonly tuned: boolean;
  readonly onProgress?: (line: string) => void;
}

export interface Measured {
  readonly evaluation: Evaluation;
  /** With `answers`: questions and answers, in the same order. */
  readonly questions?: readonly Question[];
  readonly answered?: Answered;
  readonly rouge?: AnswerRouge;
}

/** Measures the base (adapter off) or the tuned model (adapter on). */
export async function measureModel(
  { model, tokenizer, adapter }: OpenedModel,
  { rows, path, lossOn, maxLength }: HeldOut,
  { batchSize, answers, rouge = false, tuned, onProgress = () => undefined }: MeasureOptions,
): Promise<Measured> {
  if (needsTemplate(rows)) requireTemplate(tokenizer, 'eval', 'option');
  if (adapter) setAdapterEnabled(model, tuned);
  const { examples } = await withExitCode(exitCodes.data, () =>
    tokenizeRows(rows, tokenizer, { maxLength, lossOn }),
  ).catch((error: Error) => {
    throw error instanceof CliError
      ? new CliError(exitCodes.data, error.message, { where: path, cause: error })
      : error;
  });
  onProgress(`measuring the ${tuned ? 'tuned' : 'base'} model on ${examples.length} held-out rows`);
  const evaluation = await evaluatePhi3(model, examples, batchSize);
  if (!answers) return { evaluation };
  const questions = await withExitCode(exitCodes.data, () => rows.flatMap((row) => questionOf(row, tokenizer) ?? []));
  if (questions.length === 0)
    throw userError('eval: --exact and --rouge need rows with an answer: these are plain text.', {
      where: path,
      fix: 'Leave both out.',
    });
  const answered = await withExitCode(exitCodes.user, () =>
    answerQuestions(model, tokenizer, questions, {
      onProgress: (done) => {
        if (done % 100 === 0) onProgress(`answered ${done} of ${questions.length}`);
      },
    }),
  );
  return { evaluation, questions, answered, ...(rouge ? { rouge: answerRouge(questions, answered) } : {}) };
}
