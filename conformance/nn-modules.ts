/** How each recorded module is built and called: one row a module. Input names are the recording's. */
import { Conv1d, Conv2d, Dropout, Embedding, LayerNorm, Linear, RMSNorm } from '@lorikeet/nn';
import { ones, openScope, randomKey, withRandom } from '@lorikeet/tensor';
import { type CaseContext, type Finding, finding, verdict } from './findings.ts';
import type { OpCall } from './ops.ts';
import { modelLimit } from './tolerances.ts';

export const moduleCalls: Readonly<Record<string, OpCall>> = {
  Linear: ({ x, weight, bias }) => new Linear(weight!, bias).forward(x!),
  Embedding: ({ x, weight }, { paddingIdx }) => new Embedding(weight!, { paddingIdx }).forward(x!),
  RMSNorm: ({ x, weight }, { eps }) => new RMSNorm(weight!, eps).forward(x!),
  LayerNorm: ({ x, weight, bias }, { eps }) => new LayerNorm(weight!, bias!, eps).forward(x!),
  Conv1d: ({ x, weight, bias }, geometry) => new Conv1d(weight!, bias, geometry).forward(x!),
  Conv2d: ({ x, weight, bias }, geometry) => new Conv2d(weight!, bias, geometry).forward(x!),
  Dropout: ({ x }, { p, training }) => {
    const dropout = new Dropout(p);
    dropout.training = training;
    return dropout.forward(x!);
  },
};

/** Standard deviations that the share of kept elements may be off: one case in 16000 by chance. */
const allowedDeviations = 4;

/** Dropout in training by what its bits must do: what is kept is scaled, as many are as p says, and no two calls are alike. */
export async function runDropoutLaw({ recording, testCase, backend }: CaseContext): Promise<Finding[]> {
  const { p, shape } = testCase.attributes as { p: number; shape: number[] };
  using tensors = openScope();
  const dropout = new Dropout(p);
  const passes = tensors.run(() =>
    withRandom(randomKey(recording.seed, 'dropout'), () => [0, 1].map(() => dropout.forward(ones(shape, { backend })))),
  );
  const [first, second] = await Promise.all(passes.map((t) => t.data()));
  const values = Array.from(first!);
  const kept = values.filter((v) => v !== 0);
  const deviations = (kept.length - values.length * (1 - p)) / Math.sqrt(values.length * p * (1 - p));
  return [
    finding(
      'kept',
      [Math.max(...values)],
      recording.tensor(testCase.outputs.kept!),
      modelLimit('keptScale', backend.name),
    ),
    verdict('one value', new Set(kept).size === 1, `${new Set(kept).size} values`),
    verdict('share', Math.abs(deviations) < allowedDeviations, `${kept.length} of ${values.length} kept, p ${p}`),
    verdict(
      'calls',
      values.some((v, i) => v !== second![i]),
      'two calls dropped the same elements',
    ),
  ];
}
