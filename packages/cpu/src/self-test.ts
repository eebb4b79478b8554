/**
 * A short check at start: each kernel computes a sample of its op and is compared with the reference. A wrong one (a V8
 * bug, an odd machine) is switched off by name, so a run is slow rather than wrong.
 */
import {
  type Backend,
  elementwiseOps,
  isFloat,
  type Op,
  ops,
  referenceBackend,
  type Sample,
  type Shape,
  sizeOf,
  type Tensor,
  tensor,
  threefry2x32,
  updates,
} from '@lorikeet/tensor';

/** Programs that together use every node of the expression language that has code of its own. */
const elementwiseNames = new Set(['exp', 'log', 'sin', 'cos', 'tanh', 'sigmoid', 'gelu', 'pow', 'where', 'div']);
/** Ops that several kernels share by shape, dtype and attributes: all their samples are computed. */
const manyKernels = new Set(['quantize4bit', 'dequantize4bit', 'matmul4bit']);
const tolerance = 1e-4;

/** Ops that may have kernels of their own; steps of the expression language are lowered like other rows. */
export const kernelOps: readonly AnyOp[] = [...ops, ...updates.filter((op) => 'options' in op)] as unknown as AnyOp[];

type AnyOp = Op<string, Readonly<Record<string, unknown>>>;
type AnySample = Sample<Readonly<Record<string, unknown>>>;

const attentionAttributes = { lengths: [5, 2], keyLengths: [5, 2], slidingWindow: null, scale: 0.5, causal: true };
const heads: Shape = [7, 2, 4];
const attentionGradSample: AnySample = {
  inputs: {
    grad: { shape: heads },
    q: { shape: heads },
    k: { shape: heads },
    v: { shape: heads },
    out: { shape: heads },
    lse: { shape: [2, 7], low: 3, high: 5 },
  },
  attributes: attentionAttributes,
};

/** Values for a sample's inputs, the same on both backends. */
function draw({ inputs }: AnySample, names: readonly string[], backend: Backend): Record<string, Tensor> {
  const made: Record<string, Tensor> = {};
  for (const [index, name] of names.entries()) {
    const spec = inputs[name];
    if (!spec) continue;
    const { shape, dtype = 'f32', low = -2, high = 2, values } = spec;
    const drawn = Array.from({ length: sizeOf(shape) }, (_, i) => {
      const value = low + ((high - low) * threefry2x32(index, 7, i, 0)[0]) / 2 ** 32;
      return isFloat(dtype) ? Math.fround(value) : Math.floor(value);
    });
    made[name] = tensor(values ?? drawn, { backend, shape, dtype });
  }
  return made;
}

async function agrees(
  compute: (backend: Backend) => readonly Tensor[],
  backend: Backend,
  reference: Backend,
): Promise<boolean> {
  const [mine, theirs] = [compute(backend), compute(reference)];
  try {
    for (const [i, t] of mine.entries()) {
      const [got, expected] = [await t.data(), await theirs[i]!.data()];
      for (let k = 0; k < expected.length; k++)
        if (!(Math.abs(got[k]! - expected[k]!) <= tolerance * (1 + Math.abs(expected[k]!)))) return false;
    }
    return true;
  } finally {
    for (const t of [...mine, ...theirs]) t.dispose();
  }
}

/** Names of the kernels (and 'elementwise') whose results differ from the reference. */
export async function selfTest(backend: Backend, kernelNames: Iterable<string>): Promise<string[]> {
  const reference = referenceBackend();
  const wrong: string[] = [];
  const check = async (
    name: string,
    names: readonly string[],
    sample: AnySample,
    apply: (given: Record<string, Tensor>) => readonly Tensor[],
  ) => {
    const drawn: Tensor[] = [];
    const compute = (on: Backend) => {
      const given = draw(sample, names, on);
      drawn.push(...Object.values(given));
      return apply(given);
    };
    try {
      if (!(await agrees(compute, backend, reference))) wrong.push(name);
    } catch {
      wrong.push(name);
    } finally {
      for (const t of drawn) t.dispose();
    }
  };
  for (const { elementwise, apply, name } of elementwiseOps) {
    if (!elementwiseNames.has(name)) continue;
    const sample = elementwise.samples[0]! as AnySample;
    await check('elementwise', elementwise.inputs, sample, (given) => [
      apply(elementwise.inputs.map((n) => given[n]!)),
    ]);
  }
  const byName = new Map(kernelOps.map((op): [string, AnyOp] => [op.name, op]));
  for (const name of kernelNames) {
    const op = byName.get(name);
    if (!op) continue;
    const own = name === 'attentionGrad' ? [attentionGradSample] : op.options.samples;
    for (const sample of manyKernels.has(name) ? own : own.slice(0, 1))
      await check(name, op.options.inputs, sample, (given) => op.apply(given, sample.attributes ?? {}));
  }
  return [...new Set(wrong)];
}
