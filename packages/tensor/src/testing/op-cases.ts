import type { Backend } from '../backend.ts';
import { isFloat } from '../dtype.ts';
import type { ErrorSample, Sample, SampleInput } from '../op.ts';
import { elementwiseOps, ops } from '../ops/registry.ts';
import type { Tensor } from '../tensor.ts';

type Attributes = Readonly<Record<string, unknown>>;

/** One op as the generic tests see it: elementwise rows and op definitions alike. */
export interface TestedOp {
  readonly name: string;
  readonly inputs: readonly string[];
  readonly samples: readonly Sample<Attributes>[];
  readonly errors: readonly ErrorSample<Attributes>[];
  /** Inputs that have a gradient. */
  readonly differentiable: ReadonlySet<string>;
  readonly composed: boolean;
  call(inputs: Readonly<Record<string, Tensor>>, attributes: Attributes): Tensor[];
}

/** Every registered op. Optimizer updates have tests of their own. */
export function testedOps(): TestedOp[] {
  const rows = elementwiseOps.map(
    ({ name, elementwise: e, apply }): TestedOp => ({
      name,
      inputs: e.inputs,
      samples: e.samples as readonly Sample<Attributes>[],
      errors: (e.errors ?? []) as readonly ErrorSample<Attributes>[],
      differentiable: new Set(Object.keys(e.gradient ?? {})),
      composed: false,
      call: (inputs, attributes) => [
        apply(
          e.inputs.map((n) => inputs[n]!),
          attributes?.parameters as number[] | undefined,
        ),
      ],
    }),
  );
  const defined = ops.map(
    ({ name, options, apply }): TestedOp => ({
      name,
      inputs: options.inputs,
      samples: options.samples,
      errors: options.errors ?? [],
      differentiable: new Set(
        options.gradient
          ? Object.keys(options.gradient)
          : options.compose && !name.endsWith('Grad')
            ? options.inputs
            : [],
      ),
      composed: Boolean(options.compose),
      call: (inputs, attributes) => apply(inputs, attributes ?? {}),
    }),
  );
  return [...rows, ...defined];
}

/** The inputs of a sample whose gradient is to be checked. */
export const gradientInputs = (op: TestedOp, sample: Sample<Attributes>): string[] =>
  Object.entries(sample.inputs).flatMap(([n, input]: [string, SampleInput]) =>
    op.differentiable.has(n) && input.differentiable !== false && isFloat(input.dtype ?? 'f32') ? [n] : [],
  );

export type MakeBackend = () => Backend | Promise<Backend>;
