import {
  AdamW,
  clipGradNorm,
  type NamedParameter,
  type Optimizer,
  type ScheduleOptions,
  SGD,
  scheduleByName,
} from '@lorikeet/nn';
import { openScope } from '@lorikeet/tensor';
import { type CaseContext, type Finding, finding, tensorFinding } from './findings.ts';
import { openModel, readBatch, sameNames } from './models.ts';
import { modelLimit } from './tolerances.ts';

/** The options of a recorded run, as reference/optim.py names them. */
interface RunOptions {
  readonly model: string;
  readonly steps: number;
  readonly batches: number;
  readonly optimizer: 'AdamW' | 'SGD';
  readonly schedule: 'linear' | 'cosine' | 'constant';
  readonly learningRate: number;
  readonly warmupSteps: number;
  readonly weightDecay: number;
  readonly maxGradNorm: number;
  readonly beta1: number;
  readonly beta2: number;
  readonly epsilon: number;
  readonly momentum: number;
}

/** What a run shows at each step. */
export interface Trajectory {
  readonly loss: number[];
  readonly gradNorm: number[];
  readonly learningRate: number[];
}

/** A recorded case of the family: a schedule's factors, or a whole run. */
export const runOptimCase = async (context: CaseContext): Promise<Finding[]> =>
  context.testCase.op === 'schedule' ? runSchedule(context) : runSteps(context);

/** A schedule's factors step by step: arithmetic on the host, the same on every backend. */
function runSchedule({ recording, testCase, backend }: CaseContext): Finding[] {
  const { schedule, steps, warmupSteps, options } = testCase.attributes as {
    schedule: string;
    steps: number;
    warmupSteps: number;
    options: ScheduleOptions;
  };
  const factor = scheduleByName(schedule);
  const factors = Array.from({ length: steps + 1 }, (_, step) => factor(step, steps, warmupSteps, options));
  const expected = recording.tensor(testCase.outputs.factors!);
  return [finding('factors', factors, expected, modelLimit('learningRate', backend.name))];
}

/** Every parameter of a tiny Phi-3 trained for twenty steps, with nn's own parts and no trainer. */
async function runSteps(context: CaseContext): Promise<Finding[]> {
  const { recording, testCase, backend } = context;
  const o = testCase.attributes as unknown as RunOptions;
  using model = await openModel(recording, o.model, backend);
  const parameters = model.namedParameters();
  for (const { tensor } of parameters) tensor.requiresGrad = true;
  using optimizer: Optimizer = makeOptimizer(parameters, o);
  const factor = scheduleByName(o.schedule === 'constant' ? 'constant_with_warmup' : o.schedule);
  const batches = Array.from({ length: o.batches }, (_, i) => readBatch(context, `batch${i}/`));
  const seen: Trajectory = { loss: [], gradNorm: [], learningRate: [] };
  for (let step = 0; step < o.steps; step++) {
    using tensors = openScope();
    const { loss, gradients } = tensors.run(() => {
      const made = model.loss(batches[step % batches.length]!);
      return { loss: made, gradients: made.backward() };
    });
    const { norm, scale } = await clipGradNorm(gradients, parameters, o.maxGradNorm);
    const lrFactor = factor(step, o.steps, o.warmupSteps);
    optimizer.step(gradients, { gradScale: scale, lrFactor });
    seen.loss.push(await loss.item());
    seen.gradNorm.push(norm);
    seen.learningRate.push(o.learningRate * lrFactor);
  }
  return [...trajectoryFindings(context, seen), ...(await parameterFindings(context, parameters))];
}

function makeOptimizer(parameters: ConstructorParameters<typeof AdamW>[0], o: RunOptions): AdamW | SGD {
  const shared = { lr: o.learningRate, weightDecay: o.weightDecay };
  if (o.optimizer === 'SGD') return new SGD(parameters, { ...shared, momentum: o.momentum });
  return new AdamW(parameters, { ...shared, betas: [o.beta1, o.beta2], eps: o.epsilon });
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
