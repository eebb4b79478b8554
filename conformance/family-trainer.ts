import { type Example, evaluate, evaluationBatches } from '@lorikeet/trainer';
import { type CaseContext, type Finding, finding } from './findings.ts';
import { readBatch } from './models.ts';
import { seededPhi3 } from './seeded-phi3.ts';
import { runSft } from './sft-run.ts';
import { exact, modelLimit } from './tolerances.ts';

/** A recorded case of the family: a run of SFTTrainer, or an evaluation. */
export const runTrainerCase = async (context: CaseContext): Promise<Finding[]> =>
  context.testCase.op === 'evaluate' ? runEvaluation(context) : runSft(context);

/** Loss, perplexity and token accuracy over batches of unequal weight. */
async function runEvaluation(context: CaseContext): Promise<Finding[]> {
  const { recording, testCase, backend } = context;
  const { model: changes, seed } = testCase.attributes as { model: Record<string, unknown>; seed: number };
  using model = await seededPhi3(changes, seed, backend);
  const { ids, labels, lengths } = readBatch(context);
  let start = 0;
  const examples = lengths.map((length, i): Example => {
    const [from, to] = [start, start + length];
    start = to;
    return { ids: ids.slice(from, to), labels: labels.slice(from, to), line: i + 1 };
  });
  const made = await evaluate(model, evaluationBatches(examples, 2), {
    hidden: (batch) => model.forward(batch),
    head: (rows) => model.lm_head.forward(rows),
    chunkRows: 5,
  });
  const limits = { evalLoss: 'loss', perplexity: 'perplexity', tokenAccuracy: null, tokens: null } as const;
  return Object.entries(limits).map(([name, quantity]) =>
    finding(
      name,
      [made[name as keyof typeof limits]],
      recording.tensor(testCase.outputs[name]!),
      quantity ? modelLimit(quantity, backend.name) : exact,
    ),
  );
}
