/** What the families of whole models share: a recorded model folder, a recorded batch, comparisons by path. */
import { join } from 'node:path';
import { nodeFiles } from '@lorikeet/files';
import type { NamedParameter } from '@lorikeet/nn';
import { loadPhi3, type Phi3ForCausalLM } from '@lorikeet/phi3';
import type { Backend, Gradients } from '@lorikeet/tensor';
import { type CaseContext, type Finding, numbersOf, tensorFinding } from './findings.ts';
import type { Recording } from './recording.ts';
import { modelLimit } from './tolerances.ts';

/** Sequences end to end, as store_batch of reference/tiny_phi3.py writes them. */
export interface Batch {
  readonly ids: Int32Array;
  readonly labels: Int32Array;
  readonly lengths: readonly number[];
}

/** Opens the model folder that a case names, all of it frozen. */
export const openModel = (recording: Recording, folder: string, backend: Backend): Promise<Phi3ForCausalLM> =>
  loadPhi3(nodeFiles(), join(recording.directory, folder), { backend });

/** The batch below a prefix such as `batch0/`. */
export function readBatch({ recording, testCase }: Pick<CaseContext, 'recording' | 'testCase'>, prefix = ''): Batch {
  const integers = (name: string): Int32Array =>
    numbersOf(recording.tensor(testCase.inputs[`${prefix}${name}`] as string)) as Int32Array;
  return { ids: integers('ids'), labels: integers('labels'), lengths: [...integers('lengths')] };
}

/** Compares the gradient of every parameter with the recorded one; both must name the same parameters. */
export async function gradientFindings(
  { recording, testCase, backend }: CaseContext,
  gradients: Gradients,
  parameters: readonly NamedParameter[],
  label = 'gradient of',
  limit = modelLimit('gradient', backend.name),
): Promise<Finding[]> {
  const recorded = testCase.gradients ?? {};
  sameNames(
    parameters.map((p) => p.path),
    Object.keys(recorded),
  );
  return Promise.all(
    parameters.map(({ path, tensor }) =>
      tensorFinding(`${label} ${path}`, gradients.of(tensor), recording.tensor(recorded[path]!), limit),
    ),
  );
}

/** Throws when two lists of names differ, saying how. */
export function sameNames(ours: readonly string[], recorded: readonly string[]): void {
  const [a, b] = [new Set(ours), new Set(recorded)];
  const [extra, missing] = [[...a.difference(b)], [...b.difference(a)]];
  if (extra.length + missing.length > 0)
    throw new Error(
      `names must be the recorded ones: missing ${missing.join(', ') || 'none'}, unexpected ${extra.join(', ') || 'none'}.`,
    );
}
