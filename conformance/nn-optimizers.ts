/** Two hundred steps of an optimizer on the problem of reference/nn_optimizers.py, and gradients clipped. */
import {
  Adafactor,
  AdamW,
  AdamW8bit,
  clipGradNorm,
  Lion,
  Lion8bit,
  type NamedParameter,
  type Optimizer,
  PagedAdamW,
  SGD,
  scheduleByName,
} from '@lorikeet/nn';
import { openScope, type Tensor, zeros } from '@lorikeet/tensor';
import { type CaseContext, type Finding, finding, tensorFinding, upload } from './findings.ts';
import { modelLimit } from './tolerances.ts';
import { type Trajectory, trajectoryFindings } from './trajectories.ts';

const kinds = { AdamW, AdamW8bit, Adafactor, Lion, Lion8bit, PagedAdamW, SGD } as const;

interface RunAttributes {
  readonly optimizer: keyof typeof kinds;
  readonly options: { readonly lr?: number };
  readonly schedule: string;
  readonly warmupSteps: number;
  readonly steps: number;
  readonly maxGradNorm: number;
}

/** The recorded problem: sum(curvature * (p - goal)^2) / 2 + sum(noise[step % n] * p). */
export class Problem {
  readonly parameters: readonly NamedParameter[];
  readonly #parts: readonly {
    readonly p: Tensor;
    readonly curvature: Tensor;
    readonly goal: Tensor;
    readonly noise: Tensor;
  }[];

  constructor({ recording, testCase, backend }: CaseContext) {
    const tensor = (name: string, trained = false): Tensor =>
      upload(recording.tensor(testCase.inputs[name] as string), backend, trained);
    const names = Object.keys(testCase.inputs).flatMap((n) => (n.startsWith('start/') ? [n.slice(6)] : []));
    this.parameters = names.map((path) => ({ path, tensor: tensor(`start/${path}`, true) }));
    this.#parts = this.parameters.map(({ path, tensor: p }) => ({
      p,
      curvature: tensor(`curvature/${path}`),
      goal: tensor(`goal/${path}`),
      noise: tensor(`noise/${path}`),
    }));
  }

  loss(step: number): Tensor {
    return this.#parts
      .map(({ p, curvature, goal, noise }) => {
        const distance = p.sub(goal);
        const at = step % noise.shape[0]!;
        const drift = noise
          .slice(0, at, at + 1)
          .reshape(p.shape)
          .mul(p)
          .sum();
        return curvature.mul(distance).mul(distance).sum().mul(0.5).add(drift);
      })
      .reduce((a, b) => a.add(b));
  }
}

/** Runs a recorded optimizer; gives what each step showed. */
export async function runOptimizer(
  problem: Problem,
  optimizer: Optimizer,
  { schedule, warmupSteps, steps, maxGradNorm, options }: RunAttributes,
): Promise<Trajectory> {
  const factor = scheduleByName(schedule);
  const seen: Trajectory = { loss: [], gradNorm: [], learningRate: [] };
  for (let step = 0; step < steps; step++) {
    using made = openScope();
    const { loss, gradients } = made.run(() => {
      const value = problem.loss(step);
      return { loss: value, gradients: value.backward() };
    });
    const { norm, scale } = await clipGradNorm(gradients, problem.parameters, maxGradNorm);
    const lrFactor = options.lr === undefined ? 1 : factor(step, steps, warmupSteps);
    optimizer.step(gradients, { gradScale: scale, lrFactor });
    seen.loss.push(await loss.item());
    seen.gradNorm.push(norm);
    seen.learningRate.push((options.lr ?? 0) * lrFactor);
  }
  return seen;
}

/** The optimizer that a case names, on the problem's parameters. */
export const optimizerOf = (problem: Problem, { optimizer, options }: RunAttributes): Optimizer =>
  new kinds[optimizer](problem.parameters, options);

export async function runOptimizerCase(context: CaseContext): Promise<Finding[]> {
  const { recording, testCase, backend } = context;
  const attributes = testCase.attributes as unknown as RunAttributes;
  using tensors = openScope();
  const problem = tensors.run(() => new Problem(context));
  using optimizer = optimizerOf(problem, attributes);
  const findings = trajectoryFindings(context, await runOptimizer(problem, optimizer, attributes));
  const limit = modelLimit('optimizedParameter', backend.name);
  const state = optimizer.stateDict().tensors;
  for (const [name, key] of Object.entries(testCase.outputs)) {
    const [kind, path] = [name.split('/')[0], name.slice(name.indexOf('/') + 1)];
    const actual =
      kind === 'parameter'
        ? problem.parameters.find((p) => p.path === path)!.tensor
        : kind === 'state' && state.get(path);
    if (actual) findings.push(await tensorFinding(name, actual, recording.tensor(key), limit));
    else if (kind === 'state') throw new Error(`${testCase.name}: the optimizer must have state ${path}: it has not.`);
  }
  return findings;
}

/** clipGradNorm on gradients that are given: those of sum(gradient * p). */
export async function runClipping({ recording, testCase, backend }: CaseContext): Promise<Finding[]> {
  const limit = modelLimit('clipped', backend.name);
  using tensors = openScope();
  const { given, parameters, gradients } = tensors.run(() => {
    const given = Object.values(testCase.inputs).map((key) => upload(recording.tensor(key as string), backend));
    const parameters = given.map((g, i) => {
      const tensor = zeros(g.shape, { backend, requiresGrad: true });
      return { path: `${i}`, tensor };
    });
    const loss = parameters.map(({ tensor }, i) => tensor.mul(given[i]!).sum()).reduce((a, b) => a.add(b));
    return { given, parameters, gradients: loss.backward() };
  });
  const { norm, scale } = await clipGradNorm(gradients, parameters, testCase.attributes.maxGradNorm as number);
  const findings = [finding('norm', [norm], recording.tensor(testCase.outputs.norm!), limit)];
  for (const i of given.keys()) {
    const clipped = tensors.run(() => gradients.of(parameters[i]!.tensor).mul(scale));
    findings.push(await tensorFinding(`clipped ${i}`, clipped, recording.tensor(testCase.outputs[i]!), limit));
  }
  return findings;
}
