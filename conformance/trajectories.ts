/** What a run shows at each step, and the parameters it ends with, against a recording. */
import type { NamedParameter } from '@lorikeet/nn';
import { type CaseContext, type Finding, finding, tensorFinding } from './findings.ts';
import { sameNames } from './models.ts';
import { modelLimit } from './tolerances.ts';

/** What a run shows at each step. */
export interface Trajectory {
  readonly loss: number[];
  readonly gradNorm: number[];
  readonly learningRate: number[];
}

/** Loss, grad norm and learning rate of every step. */
export function trajectoryFindings({ recording, testCase, backend }: CaseContext, seen: Trajectory): Finding[] {
  const compared = { loss: 'lossTrajectory', gradNorm: 'gradNorm', learningRate: 'learningRate' } as const;
  return Object.entries(compared).map(([name, quantity]) => {
    const expected = recording.tensor(testCase.outputs[name]!);
    return finding(`${name} by step`, seen[name as keyof Trajectory], expected, modelLimit(quantity, backend.name));
  });
}

/** The parameters as training left them. */
export async function parameterFindings(
  { recording, testCase, backend }: CaseContext,
  parameters: readonly NamedParameter[],
): Promise<Finding[]> {
  const recorded = Object.entries(testCase.outputs).filter(([name]) => name.startsWith('parameter/'));
  const byName = new Map(parameters.map(({ path, tensor }) => [`parameter/${path}`, tensor]));
  sameNames(
    [...byName.keys()],
    recorded.map(([name]) => name),
  );
  const limit = modelLimit('trainedParameter', backend.name);
  return Promise.all(
    recorded.map(([name, key]) => tensorFinding(name, byName.get(name)!, recording.tensor(key), limit)),
  );
}
