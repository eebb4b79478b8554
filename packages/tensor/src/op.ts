import { type Edge, edgesFor, type GradientContext, GradNode, type NodeParts, noGrad, type Rule } from './autograd.ts';
import type { Attributes, Backend, Call, KernelOp, Operand } from './backend.ts';
import { zeros } from './creation.ts';
import { bytesPerElement, type DType } from './dtype.ts';
import { DTypeError } from './errors.ts';
import { Storage } from './memory.ts';
import { scope } from './scope.ts';
import { type Shape, sizeOf } from './shape.ts';
import { Tensor, viewOf } from './tensor.ts';

/** Shape and dtype of a tensor without its data. */
export interface Spec {
  readonly shape: Shape;
  readonly dtype: DType;
}

/** What a test draws for one input. Default: f32 values in [-2, 2). */
export interface SampleInput {
  readonly shape: Shape;
  readonly dtype?: DType;
  /** Values are drawn in [low, high); for integer dtypes, whole numbers in it. */
  readonly low?: number;
  readonly high?: number;
  /** Fixed values instead of drawn ones. */
  readonly values?: readonly number[];
  /** False: no gradient is checked for it (a kink, an index). Default: true for floats. */
  readonly differentiable?: boolean;
}

export interface Sample<A> {
  readonly inputs: Readonly<Record<string, SampleInput>>;
  readonly attributes?: A;
}

/** A call that must be refused, with a piece of the message. */
export interface ErrorSample<A> extends Sample<A> {
  readonly message: string;
}

/** What a gradient rule gets: `grad` (of output 0), `gradOf(i)`, saved values by name, attributes, input specs. */
export interface RuleContext<A> {
  readonly grad: Tensor;
  gradOf(output: number): Tensor;
  readonly saved: Readonly<Record<string, Tensor>>;
  readonly attributes: A;
  readonly inputs: Readonly<Record<string, Spec>>;
  /** Computes what several rules share, once. */
  once<T>(compute: () => T): T;
}

export interface GradientRule<A> {
  /** Inputs by name, outputs as out0, out1, ...: what must be kept for this rule. */
  readonly saves?: readonly string[];
  readonly rule: (context: RuleContext<A>) => Tensor;
}

export interface OpOptions<Names extends string, A> {
  readonly name: string;
  readonly inputs: readonly Names[];
  /** Inputs that may be left out. */
  readonly optional?: readonly Names[];
  /** Output specs; throws ShapeError or DTypeError for what the op cannot take. */
  readonly shape: (inputs: Readonly<Record<Names, Spec>>, attributes: A) => Spec | readonly Spec[];
  /** Plain loops over dense f64 data: the definition of a primitive. */
  readonly reference?: KernelOp['reference'];
  /** The definition of a fused op in other ops: reference, gradient and fallback at once. */
  readonly compose?: (inputs: Readonly<Record<Names, Tensor>>, attributes: A) => Tensor | readonly Tensor[];
  /** One rule an input. Without it a composed op is differentiated through its composition; a primitive has no gradient. */
  readonly gradient?: { readonly [N in Names]?: GradientRule<A> };
  /** Inputs that the op writes in place, in the order of its outputs; it then returns handles of those inputs. */
  readonly mutates?: readonly Names[];
  /** Inputs that kernels accept as column blocks; others are made contiguous first. */
  readonly columnBlocks?: readonly Names[];
  readonly samples: readonly Sample<A>[];
  readonly errors?: readonly ErrorSample<A>[];
}

/** An op: its facts, and `apply`. */
export interface Op<Names extends string = string, A = Attributes> extends KernelOp {
  readonly options: OpOptions<Names, A>;
  apply(inputs: Readonly<Partial<Record<Names, Tensor | null>>>, attributes: A): Tensor[];
}

/** The backend that all inputs share. */
export function backendOf(op: string, inputs: readonly (Tensor | null)[]): Backend {
  let found: Backend | null = null;
  for (const t of inputs) {
    if (!t) continue;
    if (found && t.backend !== found)
      throw new TypeError(
        `${op}: inputs must be on one backend: got ${found.name} and ${t.backend.name}. Move one with tensor(await x.data(), { backend }).`,
      );
    found = t.backend;
  }
  if (!found) throw new TypeError(`${op}: needs at least one tensor. For numbers alone use plain arithmetic.`);
  return found;
}

/** A call without its operands. */
export type CallBody = Omit<Call, 'inputs' | 'outputs'>;

/** Allocates outputs (or takes the mutated inputs) and runs one kernel call. */
export function launch(
  backend: Backend,
  { op, attributes, program, parameters }: CallBody,
  inputs: readonly (Tensor | null)[],
  specs: readonly Spec[],
  mutated?: readonly Tensor[],
): Tensor[] {
  const { name } = op;
  const operands = operandsOf(name, inputs);
  const outputs = mutated
    ? mutated.map((t) => viewOf(t, t.shape, t.offset, t.rowStride))
    : allocateAll(backend, name, specs);
  try {
    const places = operandsOf(name, outputs) as Operand[];
    if (outputs.some(hasElements))
      backend.run(
        program
          ? { op, inputs: operands, outputs: places, attributes, program, parameters: parameters ?? [] }
          : { op, inputs: operands, outputs: places, attributes },
      );
  } catch (error) {
    for (const t of outputs) t.dispose();
    throw error;
  }
  if (mutated) for (const t of mutated) t.storage(name).written(name);
  return outputs;
}

const hasElements = (t: Tensor): boolean => t.size > 0;

/** New tensors; if memory ends on the way, those already made are given back. */
function allocateAll(backend: Backend, name: string, specs: readonly Spec[]): Tensor[] {
  for (const { dtype } of specs)
    if (!backend.dtypes.has(dtype))
      throw new DTypeError(
        `${name}: the result's dtype must be one that backend ${backend.name} holds (${[...backend.dtypes].join(', ')}): got ${dtype}. Cast the inputs.`,
      );
  const made: Tensor[] = [];
  try {
    for (const spec of specs)
      made.push(new Tensor(new Storage(backend, sizeOf(spec.shape) * bytesPerElement[spec.dtype]), spec));
  } catch (error) {
    for (const t of made) t.dispose();
    throw error;
  }
  return made;
}

function operandsOf(name: string, tensors: readonly (Tensor | null)[]): (Operand | null)[] {
  const operands: (Operand | null)[] = [];
  for (const t of tensors) operands.push(t ? t.operand(name) : null);
  return operands;
}

/** Gives an op's outputs, handles that nobody else holds yet, their place in the graph. */
export function record(parts: NodeParts, outputs: readonly Tensor[]): Tensor[] {
  const node = new GradNode(parts);
  return outputs.map((t, index) => t.attach({ node, index }));
}

const asList = <T>(value: T | readonly T[]): readonly T[] => (Array.isArray(value) ? value : [value as T]);

/** An input's rule with where its saved values come from, worked out once an op. */
interface PlannedRule<A> {
  readonly rule: GradientRule<A>['rule'];
  readonly saves: readonly { readonly name: string; readonly output: boolean; readonly index: number }[];
}

function planRules<Names extends string, A>({ inputs, gradient }: OpOptions<Names, A>): (PlannedRule<A> | null)[] {
  return inputs.map((n) => {
    const entry = gradient?.[n];
    if (!entry) return null;
    const saves = (entry.saves ?? []).map((name) => {
      const index = inputs.indexOf(name as Names);
      return index >= 0 ? { name, output: false, index } : { name, output: true, index: Number(name.slice(3)) };
    });
    return { rule: entry.rule, saves };
  });
}

/** Defines an op in one place. See packages/tensor/src/ops/README.md. */
export function defineOp<const Names extends string, A = Attributes>(options: OpOptions<Names, A>): Op<Names, A> {
  const { name, inputs: names, gradient, compose } = options;
  if (!options.reference === !compose)
    throw new TypeError(`defineOp ${name}: must have exactly one of reference and compose. Remove or add one.`);
  const optional = names.map((n) => options.optional?.includes(n) ?? false);
  const takesBlocks = names.map((n) => options.columnBlocks?.includes(n) ?? false);
  const mutates = options.mutates?.map((n) => names.indexOf(n));
  const rules = planRules(options);

  const gather = (given: Given<Names>): (Tensor | null)[] =>
    names.map((n, i) => {
      const t = given[n];
      if (t) {
        t.storage(name);
        return t;
      }
      if (!optional[i]) throw new TypeError(`${name}: input ${n} must be a tensor: got ${String(t)}. Pass one.`);
      return null;
    });

  const compute = (
    backend: Backend,
    tensors: (Tensor | null)[],
    specs: readonly Spec[],
    attributes: A,
    given: Given<Names>,
  ): Tensor[] => {
    const dense = tensors.map((t, i) => (t === null || t.isContiguous || takesBlocks[i] ? t : t.contiguous()));
    const call = { op, attributes: attributes as Attributes };
    try {
      if (!compose || backend.supports({ ...call, inputs: operandsOf(name, dense), outputs: specs.map(unplaced) }))
        return launch(
          backend,
          call,
          dense,
          specs,
          mutates?.map((i) => tensors[i]!),
        );
    } finally {
      for (let i = 0; i < dense.length; i++) if (dense[i] !== tensors[i]) dense[i]!.dispose();
    }
    return noGrad(() => composed(tensors, specs, attributes, given));
  };

  /** The composition, in the dtypes that the op's shape rule promises: half-precision results are rounded once, here. */
  const composed = (
    tensors: readonly (Tensor | null)[],
    specs: readonly Spec[],
    attributes: A,
    given: Given<Names>,
  ): Tensor[] =>
    scope(() =>
      asList(compose!(given as Readonly<Record<Names, Tensor>>, attributes)).map((t, i) => {
        const { dtype } = specs[i]!;
        if (t.dtype !== dtype) return t.cast(dtype);
        return tensors.includes(t) ? t.alias() : t;
      }),
    );

  const apply: Op<Names, A>['apply'] = (given, attributes) => {
    const tensors = gather(given);
    const backend = backendOf(name, tensors);
    const specs = asList(options.shape(given as unknown as Readonly<Record<Names, Spec>>, attributes));
    const edges = edgesFor(tensors);
    if (edges && mutates)
      throw new TypeError(`${name}: must run inside noGrad, because it writes in place: got an input with history.`);
    if (edges && !gradient && compose) return composed(tensors, specs, attributes, given);
    const outputs = compute(backend, tensors, specs, attributes, given);
    if (!edges || !gradient) return outputs;
    return record(nodeParts(options, rules, tensors, edges, outputs, attributes), outputs);
  };

  const op: Op<Names, A> = { name, options, apply, ...(options.reference ? { reference: options.reference } : {}) };
  return op;
}

type Given<Names extends string> = Readonly<Partial<Record<Names, Tensor | null>>>;

const nowhere = {};
/** An output as `supports` sees it: before it has memory. */
const unplaced = ({ shape, dtype }: Spec): Operand => ({
  buffer: nowhere,
  dtype,
  shape,
  offset: 0,
  rowStride: sizeOf(shape, 1),
});

/** What a GradNode of this call needs: rules bound to the call, and only the values those rules save. */
function nodeParts<Names extends string, A>(
  { name, inputs: names }: OpOptions<Names, A>,
  planned: readonly (PlannedRule<A> | null)[],
  tensors: readonly (Tensor | null)[],
  edges: Edge[],
  outputs: readonly Tensor[],
  attributes: A,
): NodeParts {
  const saved: Record<string, Tensor> = {};
  const facts: CallFacts<A> = {
    names,
    attributes,
    backend: outputs[0]!.backend,
    inputs: tensors.map((t) => t && { shape: t.shape, dtype: t.dtype }),
    outputs: outputs.map((t) => ({ shape: t.shape, dtype: t.dtype })),
  };
  const rules = planned.map((plan, i): Rule => {
    if (!edges[i] || !plan) return null;
    for (const { name: n, output, index } of plan.saves) {
      const t = output ? outputs[index] : tensors[index];
      if (t) saved[n] = t;
    }
    return (context) => plan.rule(new BoundContext(facts, context));
  });
  return {
    op: name,
    edges: edges.map((e, i) => (rules[i] ? e : null)),
    inputShapes: tensors.map((t) => (t ? t.shape : [])),
    outputShapes: facts.outputs.map((s) => s.shape),
    rules,
    saved,
  };
}

interface CallFacts<A> {
  readonly names: readonly string[];
  readonly attributes: A;
  readonly backend: Backend;
  readonly inputs: readonly (Spec | null)[];
  readonly outputs: readonly Spec[];
}

/** What a rule sees: a call's facts and what the walk brought. */
class BoundContext<A> implements RuleContext<A> {
  readonly attributes: A;
  readonly saved: Readonly<Record<string, Tensor>>;
  readonly once: <T>(compute: () => T) => T;
  readonly #facts: CallFacts<A>;
  readonly #grads: GradientContext['grads'];

  constructor(facts: CallFacts<A>, { grads, saved, once }: GradientContext) {
    this.attributes = facts.attributes;
    this.saved = saved;
    this.once = once;
    this.#facts = facts;
    this.#grads = grads;
  }
  get grad(): Tensor {
    return this.gradOf(0);
  }
  /** Zeros where nothing arrived. */
  readonly gradOf = (output: number): Tensor => {
    const { backend, outputs } = this.#facts;
    return this.#grads[output] ?? zeros(outputs[output]!.shape, { backend, dtype: outputs[output]!.dtype });
  };
  get inputs(): Readonly<Record<string, Spec>> {
    const { names, inputs } = this.#facts;
    const specs: Record<string, Spec> = {};
    for (const [i, spec] of inputs.entries()) if (spec) specs[names[i]!] = spec;
    return specs;
  }
}
