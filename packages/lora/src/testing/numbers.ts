import type { Tensor } from '@lorikeet/tensor';

/** The elements of a tensor as a plain array. */
export const numbers = async (t: Tensor): Promise<number[]> => [...(await t.data())];

/** The largest |a - b| / (1 + |b|): what a tolerance is compared with. */
export async function distance(a: Tensor, b: Tensor): Promise<number> {
  if (`${a.shape}` !== `${b.shape}`) throw new Error(`distance: shapes must be equal: [${a.shape}] and [${b.shape}].`);
  const [left, right] = [await numbers(a), await numbers(b)];
  return left.reduce((worst, v, i) => Math.max(worst, Math.abs(v - right[i]!) / (1 + Math.abs(right[i]!))), 0);
}
