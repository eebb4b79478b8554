/**
 * The behaviour every backend must show, run over the whole registry: values against the f64 reference, gradients against
 * the reference's, error samples by their text, and no buffer left behind. A test file calls `opSuite` with its backend.
 */

import { noGrad } from '../autograd.ts';
import type { Backend } from '../backend.ts';
import { memory } from '../memory.ts';
import type { Sample } from '../op.ts';
import { referenceBackend } from '../reference-backend.ts';
import { scope } from '../scope.ts';
import { sizeOf } from '../shape.ts';
import type { Tensor } from '../tensor.ts';
import { expectClose, type Tolerance, toleranceOf } from './close.ts';
import { drawTensor } from './draw.ts';
import { gradientInputs, type TestedOp, testedOps } from './op-cases.ts';

type Attributes = Readonly<Record<string, unknown>>;

/** Rules that read a bf16 output see it rounded: cubes of it (rsqrt) triple its half-ulp of 2^-9. */
const narrowGradient: Tolerance = { relative: 1.6e-2, absolute: 8e-3 };

/** What the suite needs of a test framework: vitest's `describe`, `it` and `expect`, or look-alikes. */
export interface Framework {
  describe(name: string, body: () => void): void;
  it(name: string, body: () => void | Promise<void>): void;
  expect(value: unknown): { toBe(x: unknown): void; toEqual(x: unknown): void; toThrow(x: string): void };
}

export interface OpSuiteOptions {
  readonly backend: () => Promise<Backend>;
  /** Loosens per op, with a reason in the caller's source. */
  readonly tolerance?: (op: string, dtype: string) => Tolerance | undefined;
}

interface Outcome {
  readonly outputs: { readonly dtype: string; readonly shape: readonly number[]; readonly data: ArrayLike<number> }[];
  readonly gradients: Record<string, ArrayLike<number>>;
}

/** Runs a sample, and backward with a fixed seed if anything is differentiable. */
export async function runSample(
  op: TestedOp,
  sample: Sample<Attributes>,
  backend: Backend,
  wide: boolean,
): Promise<Outcome> {
  const wanted = gradientInputs(op, sample);
  const inputs = Object.fromEntries(
    Object.entries(sample.inputs).map(([n, input], i) => [
      n,
      drawTensor(input, 17 + i, backend, wide, wanted.includes(n)),
    ]),
  );
  const { outputs, gradients } = scope(() => {
    const made = wanted.length
      ? op.call(inputs, sample.attributes ?? {})
      : noGrad(() => op.call(inputs, sample.attributes ?? {}));
    const reached = made[0]!.requiresGrad ? made[0]!.backward(seedFor(made[0]!, backend, wide)) : null;
    return { outputs: made, gradients: reached };
  });
  const result: Outcome = {
    outputs: await Promise.all(outputs.map(async (t) => ({ dtype: t.dtype, shape: t.shape, data: await t.data() }))),
    gradients: Object.fromEntries(
      await Promise.all(
        wanted
          .filter((n) => gradients?.has(inputs[n]!))
          .map(async (n) => [n, await gradients!.of(inputs[n]!).data()] as const),
      ),
    ),
  };
  for (const t of [...outputs, ...Object.values(inputs)]) t.dispose();
  gradients?.dispose();
  return result;
}

const seedFor = (out: Tensor, backend: Backend, wide: boolean): Tensor =>
  drawTensor({ shape: out.shape, low: 0.5, high: 1.5 }, 5, backend, wide);

async function compare(
  op: TestedOp,
  sample: Sample<Attributes>,
  backend: Backend,
  options: OpSuiteOptions,
  f: Framework,
): Promise<void> {
  const before = { ...memory(backend) };
  const got = await runSample(op, sample, backend, false);
  const want = await runSample(op, sample, referenceBackend(), true);
  got.outputs.forEach((o, i) => {
    f.expect(o.shape).toEqual(want.outputs[i]!.shape);
    const bound = options.tolerance?.(op.name, o.dtype) ?? toleranceOf[o.dtype] ?? { relative: 0, absolute: 0 };
    expectClose(o.data, want.outputs[i]!.data, bound, `${op.name} output ${i}`);
  });
  f.expect(Object.keys(got.gradients).sort()).toEqual(Object.keys(want.gradients).sort());
  const narrow = Object.values(sample.inputs).some((x) => x.dtype === 'bf16' || x.dtype === 'f16');
  const bound =
    options.tolerance?.(`${op.name}.gradient`, 'f32') ?? (narrow ? narrowGradient : { relative: 1e-5, absolute: 2e-5 });
  for (const [n, g] of Object.entries(got.gradients))
    expectClose(g, want.gradients[n]!, bound, `${op.name} gradient of ${n}`);
  f.expect({ ...memory(backend), peakBytes: 0 }).toEqual({ ...before, peakBytes: 0 });
}

export function opSuite(f: Framework, options: OpSuiteOptions): void {
  let ready: Promise<Backend> | null = null;
  const backend = (): Promise<Backend> => (ready ??= options.backend());
  for (const op of testedOps())
    f.describe(op.name, () => {
      op.samples.forEach((sample, i) => {
        f.it(`${i}: ${describeSample(sample)}`, async () => compare(op, sample, await backend(), options, f));
      });
      op.errors.forEach((sample) => {
        f.it(`refuses: ${sample.message}`, async () => {
          const b = await backend();
          const inputs = Object.fromEntries(
            Object.entries(sample.inputs).map(([n, input]) => [n, drawTensor(input, 3, b)]),
          );
          f.expect(() => op.call(inputs, sample.attributes ?? {})).toThrow(sample.message);
          for (const t of Object.values(inputs)) t.dispose();
        });
      });
    });
}

const describeSample = (sample: Sample<Attributes>): string =>
  Object.entries(sample.inputs)
    .map(([n, { shape, dtype }]) => `${n} [${shape}]${dtype ? ` ${dtype}` : ''}`)
    .join(', ') + (sample.attributes ? ` ${JSON.stringify(sample.attributes)}` : '');

/** Whether a sample is small enough for finite differences. */
export const isSmall = (sample: Sample<Attributes>): boolean =>
  Object.values(sample.inputs).every((s) => sizeOf(s.shape) <= 64);
