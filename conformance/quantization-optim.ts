/** Steps of the 8-bit optimizers on recorded gradients: their state is compared byte for byte. */
import { AdamW8bit, Lion8bit, scheduleByName } from '@lorikeet/nn';
import { openScope, type Tensor } from '@lorikeet/tensor';
import { type CaseContext, type Finding, numbersOf, tensorFinding, upload } from './findings.ts';
import { exact, modelLimit } from './tolerances.ts';

const kinds = { AdamW8bit, Lion8bit } as const;

interface Attributes {
  readonly optimizer: keyof typeof kinds;
  readonly options: { readonly lr: number };
  readonly schedule: string;
  readonly warmupSteps: number;
  readonly steps: number;
}

export async function runOptimizer8bit({ recording, testCase, backend }: CaseContext): Promise<Finding[]> {
  const { optimizer: kind, options, schedule, warmupSteps, steps } = testCase.attributes as unknown as Attributes;
  const input = (name: string) => recording.tensor(testCase.inputs[name] as string);
  using tensors = openScope();
  const { parameter, bank } = tensors.run(() => ({
    parameter: upload(input('start'), backend, true),
    bank: upload(input('bank'), backend),
  }));
  const scales = numbersOf(input('scales'));
  using optimizer = new kinds[kind]([{ path: 'p', tensor: parameter }], { ...options, min8bitSize: 0 });
  const factor = scheduleByName(schedule);
  const findings: Finding[] = [];
  const compare = async (step: number, name: string, actual: Tensor): Promise<void> => {
    const key = testCase.outputs[`${step}/${name}`];
    if (key === undefined) return;
    // The kernels of the step round as bitsandbytes does; a backend that composes it rounds more often.
    const isState = name !== 'parameter' && backend.name !== 'webgpu';
    const limit = isState ? exact : modelLimit(parameter.dtype === 'bf16' ? 'mergedHalf' : 'stepped', backend.name);
    findings.push(await tensorFinding(`${name} after step ${step}`, actual, recording.tensor(key), limit));
  };
  for (let step = 1; step <= steps; step++) {
    using made = openScope();
    const gradients = made.run(() => {
      const at = (step - 1) % bank.shape[0]!;
      const gradient = bank
        .slice(0, at, at + 1)
        .reshape(parameter.shape)
        .mul(scales[step - 1]!);
      // In the dtype that torch keeps gradients in: the parameter's.
      return parameter.mul(gradient.cast(parameter.dtype)).sum().backward();
    });
    optimizer.step(gradients, { lrFactor: factor(step - 1, steps, warmupSteps) });
    for (const [key, t] of optimizer.stateDict().tensors) await compare(step, key.slice('p.'.length), t);
    await compare(step, 'parameter', parameter);
  }
  return findings;
}
