/** How much of the right answers the given ones share, in ROUGE. */
import { aggregateRouge, type RougeInterval, type RougeScore, rouge } from '@lorikeet/trainer';
import type { Answered, Question } from './exact-answers.ts';

/** What summaries and chat answers are usually compared with. */
export const rougeTypes = ['rouge1', 'rouge2', 'rougeL', 'rougeLsum'] as const;
export type AnswerRouge = Readonly<Record<(typeof rougeTypes)[number], readonly RougeScore[]>>;

/** Scores of every generated answer against the right one, by type. Words are compared as they stand, not by stem. */
export function answerRouge(questions: readonly Question[], { answers }: Answered): AnswerRouge {
  const scores = questions.map(({ reference }, i) => rouge(reference, answers[i]!, { types: rougeTypes }));
  const of = (type: (typeof rougeTypes)[number]): readonly RougeScore[] => scores.map((score) => score[type]);
  return { rouge1: of('rouge1'), rouge2: of('rouge2'), rougeL: of('rougeL'), rougeLsum: of('rougeLsum') };
}

/** F1 with the interval of its mean, in 0 .. 1, by type. */
export const rougeNumbers = (scores: AnswerRouge) =>
  Object.fromEntries(rougeTypes.map((type) => [type, fmeasures(aggregateRouge(scores[type]))]));

const fmeasures = ({ low, mid, high }: RougeInterval) => ({
  low: low.fmeasure,
  mid: mid.fmeasure,
  high: high.fmeasure,
});
