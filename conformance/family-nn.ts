import { AdamW, clipGradNorm, type NamedParameter, type ScheduleOptions, SGD, scheduleByName } from '@lorikeet/nn';
import { openScope } from '@lorikeet/tensor';
import { runOpCase } from './family-ops.ts';
import { type CaseContext, type FamilyRunner, type Finding, finding } from './findings.ts';
import { openModel, readBatch } from './models.ts';
import { runInitialiser } from './nn-initialisers.ts';
import { moduleCalls, runDropoutLaw } from './nn-modules.ts';
import { runClipping, runOptimizerCase } from './nn-optimizers.ts';
import { modelLimit } from './tolerances.ts';
import { parameterFindings, type Trajectory, trajectoryFindings } from './trajectories.ts';

/** The options of a recorded run, as reference/nn_model.py names them. */
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

const runners: Readonly<Record<string, FamilyRunner>> = {
  clipGradNorm: runClipping,
  dropoutLaw: runDropoutLaw,
  initialiser: runInitialiser,
  model: runSteps,
  optimizer: runOptimizerCase,
  schedule: async (context) => runSchedule(context),
};

/** A recorded case of the family: a module, first values, an optimizer's steps, a schedule's factors, or a model's training. */
export async function runNnCase(context: CaseContext): Promise<Finding[]> {
  const { op } = context.testCase;
  if (op in moduleCalls) return runOpCase(context);
  const run = runners[op];
  if (!run) throw new TypeError(`conformance: family nn must know ${op}: it does not. Add it to family-nn.ts.`);
  return run(context);
}

/** A schedule's factors step by step: arithmetic on the host, the same on every backend. */
function runSchedule({ recording, testCase, backend }: CaseContext): Finding[] {
  const { schedule, steps, warmupSteps, options } = testCase.attributes as {
    schedule: string;
    steps: number;
    warmupSteps: number;
    options: ScheduleOptions;
  };
  const factor = scheduleByName(schedule);
  const factors = Array.from({ length: steps + 2 }, (_, step) => factor(step, steps, warmupSteps, options));
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
  using optimizer = makeOptimizer(parameters, o);
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

function makeOptimizer(parameters: readonly NamedParameter[], o: RunOptions): AdamW | SGD {
  const shared = { lr: o.learningRate, weightDecay: o.weightDecay };
  if (o.optimizer === 'SGD') return new SGD(parameters, { ...shared, momentum: o.momentum });
  return new AdamW(parameters, { ...shared, betas: [o.beta1, o.beta2], eps: o.epsilon });
}
