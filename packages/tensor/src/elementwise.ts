import { edgesFor, type Rule } from './autograd.ts';
import type { Attributes, KernelOp } from './backend.ts';
import { type DType, isFloat, promote } from './dtype.ts';
import { type ElementwiseProgram, input, nodesOf, parameter, type Scalar, substitute } from './expression.ts';
import { backendOf, type ErrorSample, launch, record, type Sample, type Spec } from './op.ts';
import { broadcastShapes, sizeOf } from './shape.ts';
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
  readonly gradients: Map<number, GradientProgram>;
}

const named = (names: readonly string[], make: (i: number) => Scalar): Record<string, Scalar> =>
  Object.fromEntries(names.map((n, i) => [n, make(i)]));

export function defineElementwise<const Names extends string, const Params extends string = never>(
  options: ElementwiseOptions<Names, Params>,
): ElementwiseOp {
  const row = options as unknown as ElementwiseOptions<string, string>;
  const { name, inputs: names, parameters: parameterNames = [] } = row;
  const variants = new Map<string, Variant>();
  const op: ElementwiseOp = { name, elementwise: row, apply };

  /** Names of tensor inputs first (as inputs), then numbers, then the row's own parameters (as parameters). */
  function layout(mask: string): { tensors: string[]; numbers: string[] } {
    const tensors = names.filter((_, i) => mask[i] === 't');
    return { tensors, numbers: [...names.filter((_, i) => mask[i] === 'n'), ...parameterNames] };
  }

  function variantOf(mask: string): Variant {
    let variant = variants.get(mask);
    if (!variant) {
      const { tensors, numbers } = layout(mask);
      const forward = row.forward({ ...named(tensors, input), ...named(numbers, parameter) });
      const suffix = mask.includes('n') ? `:${mask}` : '';
      variant = {
        program: { name: `${name}${suffix}`, inputs: tensors.length, parameters: numbers.length, outputs: [forward] },
        gradients: new Map(),
      };
      variants.set(mask, variant);
    }
    return variant;
  }

  /** The gradient of input `i` as a program over (grad, what it reads). */
  function gradientOf(mask: string, i: number): GradientProgram {
    const variant = variantOf(mask);
    let made = variant.gradients.get(i);
    if (!made) {
      const rule = row.gradient?.[names[i]!];
      if (!rule || rule === 'grad') throw new TypeError(`${name}: has no gradient for ${names[i]}. Detach that input.`);
      const { tensors, numbers } = layout(mask);
      const slots = [...tensors, 'out'];
      const body = rule({ ...named(slots, (k) => input(k + 1)), ...named(numbers, parameter), grad: input(0) });
      const used = new Set(
        nodesOf([body]).flatMap(({ node }) => (node.kind === 'input' && node.index > 0 ? [node.index] : [])),
      );
      const order = [...used].sort((a, b) => a - b);
      const packed = substitute(body, (node) =>
        node.kind === 'input' && node.index > 0 ? input(order.indexOf(node.index) + 1) : undefined,
      );
      made = {
        reads: order.map((k) => slots[k - 1]!),
        program: {
          name: `${variant.program.name}.grad.${names[i]}`,
          inputs: order.length + 1,
          parameters: numbers.length,
          outputs: [packed],
        },
      };
      variant.gradients.set(i, made);
    }
    return made;
  }

  function resultDType(tensors: readonly Tensor[], numbers: readonly number[]): DType {
    if (row.result === 'u8') return 'u8';
    let dtype = tensors.map((t) => t.dtype).reduce(promote);
    if (!isFloat(dtype) && (row.result === 'float' || numbers.some((n) => !Number.isInteger(n)))) dtype = 'f32';
    return dtype;
  }

  function apply(inputs: readonly (Tensor | number)[], ownParameters: readonly number[] = [], target?: Spec): Tensor {
    const mask = inputs.map((x) => (typeof x === 'number' ? 'n' : 't')).join('');
    const tensors = inputs.filter((x): x is Tensor => typeof x !== 'number');
    const given = inputs.filter((x) => typeof x === 'number');
    const parameters = [...given, ...ownParameters];
    const backend = backendOf(name, tensors);
    const shape = target?.shape ?? broadcastShapes(name, ...tensors.map((t) => t.shape));
    const { program } = variantOf(mask);
    const spec = target ?? { shape, dtype: resultDType(tensors, given) };
    const [out] = launchDense(tensors, spec, { op, attributes: {}, program, parameters });
    const edges = row.result === 'u8' ? null : edgesFor(inputs.map((x) => (typeof x === 'number' ? null : x)));
    if (!edges) return out!;
    const saved: Record<string, Tensor> = {};
    const rules = inputs.map((_, i): Rule => {
      if (!edges[i]) return null;
      if (row.gradient?.[names[i]!] === 'grad') return ({ grads }) => grads[0]!;
      const gradient = gradientOf(mask, i);
      for (const n of gradient.reads) saved[n] = n === 'out' ? out! : (inputs[names.indexOf(n)] as Tensor);
      return ({ grads, saved: values }) => {
        const reads = [grads[0]!, ...gradient.reads.map((n) => values[n]!)];
        const dtype = grads[0]!.dtype;
        return launchDense(reads, { shape, dtype }, { op, attributes: {}, program: gradient.program, parameters })[0]!;
      };
    });
    const inputShapes = inputs.map((x) => (typeof x === 'number' ? [] : x.shape));
    return record({ op: name, edges, inputShapes, outputShapes: [shape], rules, saved }, [out!])[0]!;

    function launchDense(list: readonly Tensor[], target: typeof spec, call: Parameters<typeof launch>[1]): Tensor[] {
      const dense = list.map((t) => (t.isContiguous || backend.readsColumnBlocks ? t : t.contiguous()));
      const made = launch(backend, call, dense, [target]);
      dense.forEach((t, i) => {
        if (t !== list[i]) t.dispose();
      });
      return made;
    }
  }
  return op;
}

/** An elementwise op that updates tensors in place (optimizer steps): output i overwrites the i-th of `mutates`. */
export function defineUpdate<const Names extends string, const Params extends string>(options: {
  readonly name: string;
  readonly inputs: readonly Names[];
  readonly mutates: readonly Names[];
  readonly parameters: readonly Params[];
  readonly forward: (x: Scalars<Names | Params>) => readonly Scalar[];
}): KernelOp & {
  readonly program: ElementwiseProgram;
  apply(inputs: Readonly<Record<Names, Tensor>>, parameters: Readonly<Record<Params, number>>): void;
} {
  const { name, inputs: names, parameters: parameterNames } = options;
  const scalars = { ...named(names, input), ...named(parameterNames, parameter) } as Scalars<Names | Params>;
  const program = { name, inputs: names.length, parameters: parameterNames.length, outputs: options.forward(scalars) };
  const op = {
    name,
    program,
    apply(inputs: Readonly<Record<Names, Tensor>>, parameters: Readonly<Record<Params, number>>): void {
      const tensors = names.map((n) => inputs[n]);
      const backend = backendOf(name, tensors);
      for (const t of tensors)
        if (t.size !== sizeOf(tensors[0]!.shape) || !t.isContiguous)
          throw new TypeError(
            `${name}: all tensors must have one shape: got ${tensors.map((x) => `[${x.shape}]`).join(', ')}.`,
          );
      const call = { op, attributes: {}, program, parameters: parameterNames.map((n) => parameters[n]) };
      const mutated = options.mutates.map((n) => inputs[n]);
      for (const t of launch(backend, call, tensors, [], mutated)) t.dispose();
    },
  };
  return op;
}
