import type { Backend } from '../backend.ts';
import { tensor } from '../creation.ts';
import { scope } from '../scope.ts';
import type { Tensor } from '../tensor.ts';
import { expectClose } from './close.ts';

/**
 * Gradients against central differences in f64 (torch.autograd.gradcheck: eps 1e-6, relative 1e-3, absolute 1e-5).
 * `fn` maps f64 leaves on the reference backend to a tensor of any shape; a fixed random projection makes it a scalar.
 */
export async function gradcheck(
  backend: Backend,
  leaves: readonly { readonly name: string; readonly shape: readonly number[]; readonly values: Float64Array }[],
  fn: (leaves: Tensor[]) => Tensor,
  eps = 1e-6,
): Promise<void> {
  const make = (values: readonly Float64Array[], requiresGrad: boolean): Tensor[] =>
    values.map((v, i) => tensor(v, { backend, dtype: 'f64', shape: leaves[i]!.shape, requiresGrad }));
  const project = (out: Tensor): Tensor => {
    const weights = Float64Array.from({ length: out.size }, (_, i) => Math.sin(1 + 1.7 * i));
    return out
      .cast('f64')
      .mul(tensor(weights, { backend, dtype: 'f64', shape: out.shape }))
      .sum();
  };
  const valueAt = async (values: readonly Float64Array[]): Promise<number> => {
    using out = scope(() => project(fn(make(values, false))));
    return out.item();
  };
  const inputs = make(
    leaves.map((l) => l.values),
    true,
  );
  const gradients = scope(() => project(fn(inputs)).backward());
  for (const [i, leaf] of leaves.entries()) {
    const numeric = new Float64Array(leaf.values.length);
    for (let k = 0; k < numeric.length; k++) {
      const shifted = (by: number): Float64Array[] =>
        leaves.map((l, j) => (j === i ? l.values.with(k, l.values[k]! + by) : l.values));
      numeric[k] = ((await valueAt(shifted(eps))) - (await valueAt(shifted(-eps)))) / (2 * eps);
    }
    expectClose(
      await gradients.of(inputs[i]!).data(),
      numeric,
      { relative: 1e-3, absolute: 1e-5 },
      `gradient of ${leaf.name} against finite differences`,
    );
  }
  gradients.dispose();
  for (const t of inputs) t.dispose();
}
