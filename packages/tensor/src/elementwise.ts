import { type Edge, edgesFor, type GradientContext, type Rule } from './autograd.ts';
import type { Attributes, Backend, KernelOp } from './backend.ts';
import { type DType, isFloat, promote } from './dtype.ts';
import { ShapeError } from './errors.ts';
import { type ElementwiseProgram, input, nodesOf, parameter, type Scalar, substitute } from './expression.ts';
import { backendOf, type CallBody, type ErrorSample, launch, record, type Sample, type Spec } from './op.ts';
import { broadcastShapes, sameShape, showShape } from './shape.ts';
import type { Tensor } from './tensor.ts';

type Scalars<Names extends string> = Readonly<Record<Names, Scalar>>;

/** An elementwise op: one row of expressions. Every backend lowers it; numbers may stand in for any input. */
export interface ElementwiseOptions<Names extends string, Params extends string> {
  readonly name: string;
  readonly inputs: readonly Names[];
  /** Run-time numbers the expressions use. */
  readonly parameters?: readonly Params[];
  readonly forward: (x: Scalars<Names | Params>) => Scalar;
  /** d(loss)/d(input) from `grad`, the inputs, the parameters and `out`; only what it uses is saved. 'grad': passed on as it is. */
  readonly gradient?: { readonly [N in Names]?: 'grad' | ((x: Scalars<Names | Params | 'grad' | 'out'>) => Scalar) };
  /** Output dtype: the promoted input dtype (default), the same but f32 for integers ('float'), or u8. */
  readonly result?: 'promote' | 'float' | 'u8';
  /** An input that only chooses between others: its dtype does not count for the result's. */
  readonly selects?: Names;
  readonly samples: readonly Sample<Attributes>[];
  readonly errors?: readonly ErrorSample<Attributes>[];
}

export interface ElementwiseOp extends KernelOp {
  readonly elementwise: ElementwiseOptions<string, string>;
  /** `target` overrides the output's shape (inputs broadcast to it) and dtype. */
  apply(inputs: readonly (Tensor | number)[], parameters?: readonly number[], target?: Spec): Tensor;
}

interface GradientProgram {
  readonly program: ElementwiseProgram;
  /** Names of tensors the program reads after `grad`. */
  readonly reads: readonly string[];
}

/** One shape of call: which inputs are tensors and which are numbers. */
interface Variant {
  readonly program: ElementwiseProgram;
  /** By bits of the inputs they differentiate by, made when first asked for. */
  readonly gradients: (GradientProgram | undefined)[];
}

const named = (names: readonly string[], make: (i: number) => Scalar): Record<string, Scalar> =>
  Object.fromEntries(names.map((n, i) => [n, make(i)]));

/** Programs of one row, by which inputs are numbers: bit i is set where input i is one. */
class Variants {
  readonly #row: ElementwiseOptions<string, string>;
  readonly #byMask: (Variant | undefined)[] = [];

  constructor(row: ElementwiseOptions<string, string>) {
    this.#row = row;
  }

  /** Names of tensor inputs first (as inputs), then numbers, then the row's own parameters (as parameters). */
  #layout(mask: number): { tensors: string[]; numbers: string[] } {
    const { inputs, parameters = [] } = this.#row;
    const isNumber = (_: string, i: number): boolean => ((mask >> i) & 1) === 1;
    return {
      tensors: inputs.filter((n, i) => !isNumber(n, i)),
      numbers: [...inputs.filter(isNumber), ...parameters],
    };
  }

  of(mask: number): Variant {
    return (this.#byMask[mask] ??= this.#make(mask));
  }

  #make(mask: number): Variant {
    const { name, inputs } = this.#row;
    const { tensors, numbers } = this.#layout(mask);
    const forward = this.#row.forward({ ...named(tensors, input), ...named(numbers, parameter) });
    const suffix = mask === 0 ? '' : `:${inputs.map((_, i) => ((mask >> i) & 1 ? 'n' : 't')).join('')}`;
    return {
      program: { name: `${name}${suffix}`, inputs: tensors.length, parameters: numbers.length, outputs: [forward] },
      gradients: [],
    };
  }

  /** The gradients of some inputs, ascending, as one program over (grad, what it reads). */
  gradient(mask: number, wanted: readonly number[]): GradientProgram {
    const bits = wanted.reduce((sum, i) => sum | (1 << i), 0);
    return (this.of(mask).gradients[bits] ??= this.#makeGradient(mask, wanted));
  }

  #makeGradient(mask: number, wanted: readonly number[]): GradientProgram {
    const { inputs } = this.#row;
    const { tensors, numbers } = this.#layout(mask);
    const slots = [...tensors, 'out'];
    const given = { ...named(slots, (k) => input(k + 1)), ...named(numbers, parameter), grad: input(0) };
    const bodies = wanted.map((i) => this.#rule(inputs[i]!)(given));
    const used = new Set(
      nodesOf(bodies).flatMap(({ node }) => (node.kind === 'input' && node.index > 0 ? [node.index] : [])),
    );
    const order = [...used].sort((a, b) => a - b);
    const packed = (body: Scalar) =>
      substitute(body, (node) =>
        node.kind === 'input' && node.index > 0 ? input(order.indexOf(node.index) + 1) : undefined,
      );
    return {
      reads: order.map((k) => slots[k - 1]!),
      program: {
        name: `${this.of(mask).program.name}.grad.${wanted.map((i) => inputs[i]).join('+')}`,
        inputs: order.length + 1,
        parameters: numbers.length,
        outputs: bodies.map(packed),
      },
    };
  }

  #rule(name: string) {
    const rule = this.#row.gradient?.[name];
    if (!rule || rule === 'grad')
      throw new TypeError(
        `${this.#row.name}: input ${name} must need no gradient: there is no rule for it. Detach it.`,
      );
    return rule;
  }
}

/** Runs a program on tensors that broadcast to the target; column blocks are read in place where the backend can. */
function launchDense(backend: Backend, call: CallBody, tensors: readonly Tensor[], targets: readonly Spec[]): Tensor[] {
  if (backend.readsColumnBlocks || tensors.every((t) => t.isContiguous)) return launch(backend, call, tensors, targets);
  const dense = tensors.map((t) => (t.isContiguous ? t : t.contiguous()));
  try {
    return launch(backend, call, dense, targets);
  } finally {
    for (const [i, t] of dense.entries()) if (t !== tensors[i]) t.dispose();
  }
}

const noAttributes = {};
const passOn: Rule = ({ grads }) => grads[0]!;
const noGradients = { program: undefined, reads: [] };

export function defineElementwise<const Names extends string, const Params extends string = never>(
  options: ElementwiseOptions<Names, Params>,
): ElementwiseOp {
  const row = options as unknown as ElementwiseOptions<string, string>;
  const { name, inputs: names, selects } = row;
  const variants = new Variants(row);
  const chooses = names.map((n) => n === selects);
  const op: ElementwiseOp = { name, elementwise: row, apply };

  function resultDType(inputs: readonly (Tensor | number)[]): DType {
    if (row.result === 'u8') return 'u8';
    let dtype: DType | null = null;
    let fraction = row.result === 'float';
    for (let i = 0; i < inputs.length; i++) {
      const x = inputs[i]!;
      if (chooses[i]) continue;
      if (typeof x === 'number') fraction ||= !Number.isInteger(x);
      else dtype = dtype === null ? x.dtype : promote(dtype, x.dtype);
    }
    return dtype === null || (fraction && !isFloat(dtype)) ? 'f32' : dtype;
  }

  function rulesFor(
    inputs: readonly (Tensor | number)[],
    mask: number,
    edges: readonly Edge[],
    out: Tensor,
    call: CallBody,
  ): { rules: Rule[]; saved: Record<string, Tensor> } {
    const saved: Record<string, Tensor> = {};
    const { backend, shape } = out;
    const wanted = edges.flatMap((edge, i) => (edge && row.gradient?.[names[i]!] !== 'grad' ? [i] : []));
    // All in one pass over what they read.
    const { program, reads } = wanted.length ? variants.gradient(mask, wanted) : noGradients;
    for (const n of reads) saved[n] = n === 'out' ? out : (inputs[names.indexOf(n)] as Tensor);
    const all: (context: GradientContext) => Tensor[] = ({ grads, saved: values }) => {
      const operands = [grads[0]!, ...reads.map((n) => values[n]!)];
      const target = { shape, dtype: grads[0]!.dtype };
      return launchDense(
        backend,
        { ...call, program: program! },
        operands,
        wanted.map(() => target),
      );
    };
    const rules = edges.map((edge, i): Rule => {
      if (!edge) return null;
      const at = wanted.indexOf(i);
      return at < 0 ? passOn : (context) => context.once(() => all(context))[at]!;
    });
    return { rules, saved };
  }

  function apply(inputs: readonly (Tensor | number)[], own: readonly number[] = [], target?: Spec): Tensor {
    let mask = 0;
    const tensors: Tensor[] = [];
    const given: number[] = [];
    for (let i = 0; i < inputs.length; i++) {
      const x = inputs[i];
      if (typeof x === 'number') {
        mask |= 1 << i;
        given.push(x);
      } else if (x) tensors.push(x);
      else throw new TypeError(`${name}: input ${names[i]} must be a tensor or a number: got ${String(x)}. Pass one.`);
    }
    const backend = backendOf(name, tensors);
    const shape = target ? target.shape : broadcastShapes(name, ...tensors.map((t) => t.shape));
    const parameters = mask === 0 ? own : [...given, ...own];
    const call = { op, attributes: noAttributes, program: variants.of(mask).program, parameters };
    const out = launchDense(backend, call, tensors, [target ?? { shape, dtype: resultDType(inputs) }])[0]!;
    const edges =
      row.result === 'u8'
        ? null
        : edgesFor(mask === 0 ? tensors : inputs.map((x) => (typeof x === 'number' ? null : x)));
    if (!edges) return out;
    const inputShapes = inputs.map((x) => (typeof x === 'number' ? [] : x.shape));
    const parts = { op: name, edges, inputShapes, outputShapes: [shape], ...rulesFor(inputs, mask, edges, out, call) };
    return record(parts, [out])[0]!;
  }
  return op;
}

/** An elementwise op that updates tensors in place (optimizer steps): output i overwrites the i-th of `mutates`. */
export function defineUpdate<
  const Names extends string,
  const Params extends string,
  const Derived extends string = never,
>(options: {
  readonly name: string;
  readonly inputs: readonly Names[];
  readonly mutates: readonly Names[];
  readonly parameters: readonly Params[];
  /** Further numbers, computed from the parameters in f64: 1 - beta in f32 would keep no digit more than beta leaves it. */
  readonly derived?: { readonly [N in Derived]: (parameters: Readonly<Record<Params, number>>) => number };
  readonly forward: (x: Scalars<Names | Params | Derived>) => readonly Scalar[];
}): KernelOp & {
  readonly program: ElementwiseProgram;
  apply(inputs: Readonly<Record<Names, Tensor>>, parameters: Readonly<Record<Params, number>>): void;
} {
  const { name, inputs: names, parameters: given } = options;
  const derived = Object.entries(options.derived ?? {}) as [
    Derived,
    (parameters: Readonly<Record<Params, number>>) => number,
  ][];
  const parameterNames = [...given, ...derived.map(([n]) => n)];
  const scalars = { ...named(names, input), ...named(parameterNames, parameter) } as Scalars<Names | Params | Derived>;
  const program = { name, inputs: names.length, parameters: parameterNames.length, outputs: options.forward(scalars) };
  const op = {
    name,
    program,
    apply(inputs: Readonly<Record<Names, Tensor>>, parameters: Readonly<Record<Params, number>>): void {
      const tensors = names.map((n) => inputs[n]);
      const backend = backendOf(name, tensors);
      for (const t of tensors)
        if (!sameShape(t.shape, tensors[0]!.shape) || !t.isContiguous)
          throw new ShapeError(
            `${name}: all tensors must have one shape and be no column blocks: got ${tensors.map((x) => showShape(x.shape)).join(', ')}. Use contiguous().`,
          );
      const numbers = [...given.map((n) => parameters[n]), ...derived.map(([, of]) => of(parameters))];
      const call = { op, attributes: {}, program, parameters: numbers };
      const mutated = options.mutates.map((n) => inputs[n]);
      for (const t of launch(backend, call, tensors, [], mutated)) t.dispose();
    },
  };
  return op;
}
