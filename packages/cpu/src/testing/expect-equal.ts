/** Compares what a computation gives on a backend with the reference in f64. */
import { type Backend, type DType, isFloat, referenceBackend, type Tensor, tensor } from '@lorikeet/tensor';
import { drawFloats } from './draw.ts';

const reference = referenceBackend();

/** Values in [-3, 3), whole numbers for integer dtypes. */
export function draw(on: Backend, seed: number, shape: readonly number[], dtype: DType = 'f32'): Tensor {
  const values = drawFloats(
    shape.reduce((a, b) => a * b, 1),
    seed,
    -3,
    3,
  );
  const whole = dtype === 'u8' || dtype === 'u32' ? (v: number) => Math.abs(Math.trunc(v)) : Math.trunc;
  return tensor(isFloat(dtype) ? values : values.map(whole), { backend: on, shape, dtype, requiresGrad: false });
}

/** `relative` to each element, `absolute` to the largest of its tensor (at least 1). */
export async function expectEqual(
  backend: Backend,
  compute: (on: Backend) => readonly Tensor[],
  relative = 2e-6,
  absolute = 1e-6,
): Promise<void> {
  const [mine, theirs] = [compute(backend), compute(reference)];
  for (const [i, t] of mine.entries()) {
    const [mineIs, theirsIs] = [t, theirs[i]!].map(({ dtype, shape }) => `${dtype} [${shape}]`);
    if (mineIs !== theirsIs) throw new Error(`output ${i} is ${mineIs}, expected ${theirsIs}`);
    const [got, expected] = [await t.data(), await theirs[i]!.data()];
    let scale = 1;
    for (const v of expected) if (Number.isFinite(v)) scale = Math.max(scale, Math.abs(v));
    for (let k = 0; k < expected.length; k++)
      if (!isNear(got[k]!, expected[k]!, relative * Math.abs(expected[k]!) + absolute * scale))
        throw new Error(`output ${i}, element ${k} of [${t.shape}]: ${got[k]}, expected ${expected[k]}`);
  }
}

const isNear = (got: number, expected: number, limit: number) =>
  Object.is(got, expected) || (Number.isFinite(expected) && Math.abs(got - expected) <= limit);
