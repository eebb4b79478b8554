import { type Edge, edgesFor, GradNode, noGrad, type Rule } from './autograd.ts';
import type { Attributes, Backend, Call, KernelOp } from './backend.ts';
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

/** Allocates outputs (or takes the mutated inputs) and runs one kernel call. */
export function launch(
  backend: Backend,
  call: Omit<Call, 'inputs' | 'outputs'>,
  inputs: readonly (Tensor | null)[],
  specs: readonly Spec[],
  mutated?: readonly Tensor[],
): Tensor[] {
  const outputs =
    mutated?.map((t) => viewOf(t, t.shape, t.offset, t.rowStride)) ??
    specs.map(({ shape, dtype }) => {
      if (!backend.dtypes.has(dtype))
        throw new DTypeError(
          `${call.op.name}: backend ${backend.name} holds ${[...backend.dtypes].join(', ')}: got ${dtype}.`,
        );
      return new Tensor(new Storage(backend, sizeOf(shape) * bytesPerElement[dtype]), { shape, dtype });
    });
  if (outputs.some((t) => t.size > 0))
    backend.run({
      ...call,
      inputs: inputs.map((t) => t?.operand(call.op.name) ?? null),
      outputs: outputs.map((t) => t.operand(call.op.name)),
    });
  for (const t of mutated ?? []) {
    const storage = t.storage(call.op.name);
    storage.version++;
    storage.writer = call.op.name;
  }
  return outputs;
}

/** Gives an op's outputs their place in the graph. */
export function record(parts: ConstructorParameters<typeof GradNode>[0], outputs: readonly Tensor[]): Tensor[] {
  const node = new GradNode(parts);
  return outputs.map((t, index) => {
    const made = new Tensor(t.storage(parts.op).retain(), t, { node, index });
    t.dispose();
    return made;
  });
}

const asList = <T>(value: T | readonly T[]): readonly T[] => (Array.isArray(value) ? value : [value as T]);

/** Defines an op in one place. See packages/tensor/src/ops/README.md. */
export function defineOp<const Names extends string, A = Attributes>(options: OpOptions<Names, A>): Op<Names, A> {
  const { name, inputs: names, optional = [], mutates } = options;
  if (!options.reference === !options.compose)
    throw new TypeError(`defineOp ${name}: needs exactly one of reference and compose.`);
  const blocks = new Set<string>(options.columnBlocks);

  const gather = (given: Readonly<Partial<Record<Names, Tensor | null>>>): (Tensor | null)[] =>
    names.map((n) => {
      const t = given[n] ?? null;
      if (!t && !optional.includes(n))
        throw new TypeError(`${name}: input ${n} must be a tensor: got ${String(given[n])}.`);
      return t;
    });

  const compute = (backend: Backend, tensors: (Tensor | null)[], specs: readonly Spec[], attributes: A): Tensor[] => {
    const dense = tensors.map((t, i) => (t && !t.isContiguous && !blocks.has(names[i]!) ? t.contiguous() : t));
    const call = { op, attributes: attributes as Attributes };
    const mutated = mutates?.map((n) => tensors[names.indexOf(n)]!);
    const freeCopies = (): void =>
      dense.forEach((t, i) => {
        if (t !== tensors[i]) t?.dispose();
      });
    const operands = {
      inputs: dense.map((t) => t?.operand(name) ?? null),
      outputs: specs.map((s) => ({ ...s, buffer: {}, offset: 0, rowStride: sizeOf(s.shape.slice(1)) })),
    };
    if (!options.compose || backend.supports({ ...call, ...operands })) {
      const outputs = launch(backend, call, dense, specs, mutated);
      freeCopies();
      return outputs;
    }
    freeCopies();
    return scope(() => noGrad(() => composed(tensors, specs, attributes)));
  };

  /** The composition, in the dtypes that the op's shape rule promises: half-precision results are rounded once, here. */
  const composed = (tensors: readonly (Tensor | null)[], specs: readonly Spec[], attributes: A): Tensor[] => {
    const inputs = Object.fromEntries(names.map((n, i) => [n, tensors[i]])) as Record<Names, Tensor>;
    return asList(options.compose!(inputs, attributes)).map((t, i) => {
      const { dtype } = specs[i]!;
      return t.dtype === dtype ? t : t.cast(dtype);
    });
  };

  const apply: Op<Names, A>['apply'] = (given, attributes) => {
    const tensors = gather(given);
    const backend = backendOf(name, tensors);
    for (const t of tensors) t?.storage(name);
    const inputSpecs = Object.fromEntries(names.map((n, i) => [n, tensors[i] ?? undefined])) as unknown as Record<
      Names,
      Spec
    >;
    const specs = asList(options.shape(inputSpecs, attributes));
    const edges = edgesFor(tensors);
    const { gradient } = options;
    if (edges && mutates) throw new TypeError(`${name}: writes in place and must run inside noGrad.`);
    if (edges && !gradient && options.compose) return composed(tensors, specs, attributes);
    const outputs = compute(backend, tensors, specs, attributes);
    if (!edges || !gradient) return outputs;
    return record(nodeParts(options, gradient, tensors, edges, outputs, attributes), outputs);
  };

  const op: Op<Names, A> = { name, options, apply, ...(options.reference ? { reference: options.reference } : {}) };
  return op;
}

/** What a GradNode of this call needs: rules bound to the call, and only the values those rules save. */
function nodeParts<Names extends string, A>(
  options: OpOptions<Names, A>,
  gradient: NonNullable<OpOptions<Names, A>['gradient']>,
  tensors: readonly (Tensor | null)[],
  edges: readonly Edge[],
  outputs: readonly Tensor[],
  attributes: A,
): ConstructorParameters<typeof GradNode>[0] {
  const { name, inputs: names } = options;
  const saved: Record<string, Tensor> = {};
  const inputSpecs = Object.fromEntries(
    tensors.flatMap((t, i) => (t ? [[names[i]!, { shape: t.shape, dtype: t.dtype }]] : [])),
  );
  const backend = outputs[0]!.backend;
  const outputSpecs = outputs.map(({ shape, dtype }) => ({ shape, dtype }));
  const rules = names.map((n, i): Rule => {
    if (!edges[i]) return null;
    const entry = gradient[n];
    if (!entry) return null;
    for (const s of entry.saves ?? []) {
      const t =
        s.startsWith('out') && !names.includes(s as Names)
          ? outputs[Number(s.slice(3))]
          : tensors[names.indexOf(s as Names)];
      if (t) saved[s] = t;
    }
    return ({ grads, saved: values, once }) => {
      const gradOf = (output: number): Tensor =>
        grads[output] ?? zeros(outputSpecs[output]!.shape, { backend, dtype: outputSpecs[output]!.dtype });
      return entry.rule({
        get grad() {
          return gradOf(0);
        },
        gradOf,
        saved: values,
        attributes,
        inputs: inputSpecs,
        once,
      });
    };
  });
  return {
    op: name,
    edges: edges.map((e, i) => (rules[i] ? e : null)),
    inputShapes: tensors.map((t) => t?.shape ?? []),
    outputShapes: outputSpecs.map((s) => s.shape),
    rules,
    saved,
  };
}
