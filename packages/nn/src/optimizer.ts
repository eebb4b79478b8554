import {
  type Gradients,
  isFloat,
  noGrad,
  openScope,
  pageOut,
  type Spec,
  scope,
  showShape,
  type Tensor,
  zeros,
} from '@lorikeet/tensor';
import type { NamedParameter } from './clip-grad-norm.ts';
import { copyInto, type StateSource } from './load-state-dict.ts';

/** Parameters that share settings. */
export interface ParameterGroup {
  readonly parameters: readonly NamedParameter[];
  /** Overrides the optimizer's learning rate. */
  readonly lr?: number;
  /** Overrides the optimizer's weight decay. */
  readonly weightDecay?: number;
}

/** What changes from step to step. */
export interface StepOptions {
  /** Multiplies every gradient: clipGradNorm's scale. Default 1. */
  readonly gradScale?: number;
  /** Multiplies every group's learning rate: the schedule's factor. Default 1. */
  readonly lrFactor?: number;
}

/** What a checkpoint keeps of an optimizer: `path.buffer` -> tensor, and the steps each parameter has seen. */
export interface OptimizerState {
  readonly steps: Readonly<Record<string, number>>;
  readonly tensors: ReadonlyMap<string, Tensor>;
}

export interface ResolvedGroup {
  readonly parameters: readonly NamedParameter[];
  lr: number;
  weightDecay: number;
}

const isGroups = (given: readonly NamedParameter[] | readonly ParameterGroup[]): given is readonly ParameterGroup[] =>
  given.length > 0 && 'parameters' in given[0]!;

/** A tensor that no scope around the call frees. */
export function unscoped(make: () => Tensor): Tensor {
  using scope = openScope();
  const made = scope.run(make);
  scope.keep(made);
  return made;
}

/** One parameter's update, and what holds for it. */
export interface ParameterUpdate {
  readonly path: string;
  readonly tensor: Tensor;
  readonly grad: Tensor;
  readonly buffers: Readonly<Record<string, Tensor>>;
}
export interface UpdateSettings {
  /** Counts from 1. */
  readonly step: number;
  readonly lr: number;
  readonly weightDecay: number;
  readonly gradScale: number;
}

/** State of a parameter's own shape in f32 (f64 for f64 parameters). */
export const fullState = ({ shape, dtype }: Tensor, ...names: string[]): Record<string, Spec> =>
  Object.fromEntries(names.map((name) => [name, { shape, dtype: dtype === 'f64' ? 'f64' : 'f32' }]));

/** Elements from which on bitsandbytes pages state (`get_state_buffer`). */
const pagedSize = 100_000;

/** What a paged optimizer does after a parameter's update: its state may rest outside work memory until the next step. */
export function pageState({ tensor, buffers }: ParameterUpdate): void {
  if (tensor.size >= pagedSize) for (const t of Object.values(buffers)) pageOut(t);
}

/** Steps and state buffers by parameter path; subclasses say the buffers and one parameter's update. */
export abstract class Optimizer {
  /** Settings may be changed between steps. */
  readonly groups: readonly ResolvedGroup[];
  readonly #buffers = new Map<string, Record<string, Tensor>>();
  readonly #steps = new Map<string, number>();

  constructor(
    given: readonly NamedParameter[] | readonly ParameterGroup[],
    defaults: { readonly lr: number; readonly weightDecay: number },
  ) {
    const groups: readonly ParameterGroup[] = isGroups(given) ? given : [{ parameters: given }];
    this.groups = groups.map((group) => ({ ...defaults, ...group }));
    const seen = new Set<string>();
    for (const { path, tensor } of this.groups.flatMap((g) => g.parameters)) {
      if (seen.has(path)) throw new Error(`optimizer: each parameter must stand in one group: ${path} stands in two.`);
      if (!tensor.requiresGrad)
        throw new Error(`optimizer: parameters must be trainable: ${path} is frozen. Pass trainableParameters(model).`);
      seen.add(path);
    }
    for (const { lr, weightDecay } of this.groups)
      if (!(lr >= 0 && weightDecay >= 0))
        throw new RangeError(`optimizer: lr and weightDecay must be at least 0: got ${lr} and ${weightDecay}.`);
  }

  /** The state that a parameter needs, by name; all zeros before its first step. */
  protected abstract stateOf(parameter: NamedParameter): Readonly<Record<string, Spec>>;

  /** Updates one parameter and its buffers in place. */
  protected abstract update(parameter: ParameterUpdate, settings: UpdateSettings): void;

  /** The largest number of steps any parameter has seen. */
  get stepCount(): number {
    return Math.max(0, ...this.#steps.values());
  }

  /** One step, in place; parameters that the backward did not reach stay as they are, as torch does with grad None. */
  step(gradients: Gradients, { gradScale = 1, lrFactor = 1 }: StepOptions = {}): void {
    noGrad(() => {
      for (const { parameters, lr, weightDecay } of this.groups)
        for (const { path, tensor } of parameters) {
          if (!gradients.has(tensor) || tensor.size === 0) continue;
          const step = (this.#steps.get(path) ?? 0) + 1;
          this.#steps.set(path, step);
          const buffers = this.#buffersOf({ path, tensor });
          scope(() =>
            this.update(
              { path, tensor, grad: gradients.of(tensor), buffers },
              { step, lr: lr * lrFactor, weightDecay, gradScale },
            ),
          );
        }
    });
  }

  /** They belong to no scope. */
  #buffersOf(parameter: NamedParameter): Record<string, Tensor> {
    let buffers = this.#buffers.get(parameter.path);
    if (!buffers) {
      const { backend } = parameter.tensor;
      buffers = Object.fromEntries(
        Object.entries(this.stateOf(parameter)).map(([name, { shape, dtype }]) => [
          name,
          unscoped(() => zeros(shape, { backend, dtype })),
        ]),
      );
      this.#buffers.set(parameter.path, buffers);
    }
    return buffers;
  }

  /** Handles of the live state, not copies. */
  stateDict(): OptimizerState {
    const tensors = new Map<string, Tensor>();
    for (const [path, buffers] of this.#buffers)
      for (const [name, t] of Object.entries(buffers)) tensors.set(`${path}.${name}`, t);
    return { steps: Object.fromEntries(this.#steps), tensors };
  }

  /** Restores what stateDict gave; every parameter with steps needs all its buffers, and nothing else may be there. @throws Error with every misfit */
  loadStateDict(state: {
    readonly steps: Readonly<Record<string, number>>;
    readonly tensors: ReadonlyMap<string, StateSource>;
  }): void {
    const byPath = new Map(this.groups.flatMap((g) => g.parameters.map((p) => [p.path, p] as const)));
    const problems: string[] = [];
    const wanted = new Set<string>();
    for (const path of Object.keys(state.steps)) {
      const parameter = byPath.get(path);
      if (!parameter) problems.push(`${path}: not a parameter of this optimizer`);
      else
        for (const [name, spec] of Object.entries(this.stateOf(parameter))) {
          const key = `${path}.${name}`;
          wanted.add(key);
          const problem = misfit(spec, state.tensors.get(key));
          if (problem) problems.push(`${key}: ${problem}`);
        }
    }
    for (const key of state.tensors.keys()) if (!wanted.has(key)) problems.push(`${key}: unexpected`);
    if (problems.length)
      throw new Error(
        `optimizer: the state must fit the parameters:\n  ${problems.join('\n  ')}\nResume with the configuration that wrote the checkpoint.`,
      );
    this.#steps.clear();
    for (const [path, step] of Object.entries(state.steps)) {
      this.#steps.set(path, step);
      const buffers = this.#buffersOf(byPath.get(path)!);
      for (const [name, t] of Object.entries(buffers)) copyInto(t, state.tensors.get(`${path}.${name}`)!);
    }
  }

  /** Frees the state. */
  dispose(): void {
    for (const buffers of this.#buffers.values()) for (const t of Object.values(buffers)) t.dispose();
    this.#buffers.clear();
    this.#steps.clear();
  }
  [Symbol.dispose](): void {
    this.dispose();
  }
}

function misfit({ shape, dtype }: Spec, found: StateSource | undefined): string | null {
  if (!found) return 'missing';
  if (showShape(found.shape) !== showShape(shape)) return `expected ${showShape(shape)}, got ${showShape(found.shape)}`;
  const converts = isFloat(found.dtype) && isFloat(dtype);
  return found.dtype === dtype || converts ? null : `expected ${dtype}, got ${found.dtype}`;
}

/** transformers' rule for what is not decayed: biases and the weights of norms. */
export const isDecayed = (path: string): boolean =>
  !/(^|\.)bias$|layernorm|rmsnorm|(^|\.)norm(\.|$)|_norm(\.|$)/i.test(path);

/** Two groups: decayed with `weightDecay`, and biases and norms without. */
export function decayGroups(parameters: readonly NamedParameter[], weightDecay: number): ParameterGroup[] {
  const decayed = parameters.filter(({ path }) => isDecayed(path));
  const rest = parameters.filter(({ path }) => !isDecayed(path));
  return [
    { parameters: decayed, weightDecay },
    { parameters: rest, weightDecay: 0 },
  ].filter(({ parameters: p }) => p.length > 0);
}
