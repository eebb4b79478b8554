/**
 * First values that are taken from the base's weights, and what they take away from it: PiSSA (Meng et al. 2024), OLoRA (Buyukakyuz
 * 2024), LoftQ (Li et al. 2023), as PEFT 0.21 computes them (tuners/lora/layer.py, utils/loftq_utils.py).
 */
import {
  dequantize4bit,
  dequantizeRowwise,
  noGrad,
  qr,
  type RandomKey,
  type Svd,
  scope,
  svdLowrank,
  type Tensor,
  truncatedSvd,
} from '@lorikeet/tensor';
import { quantizeWeight4bit, quantizeWeight8bit, type Settings4bit, tensorRows } from '../quantize/quantize-weight.ts';
import type { BaseInit, LoftqConfig } from './lora-config.ts';

/** lora_A [r, in] and lora_B [out, r] in f32, or factors of that form. The caller frees them. */
export interface Factors {
  readonly a: Tensor;
  readonly b: Tensor;
}

/** What an initialization makes of one weight. */
export interface InitialFactors extends Factors {
  /** What is taken out of the weight before it becomes the base, `scale` b a; null: nothing. May be `a` and `b` themselves. */
  readonly taken: (Factors & { readonly scale: number }) | null;
}

/** How a weight is rounded to few bits and back. */
export type Rounding = Settings4bit | 'int8';

/** PEFT quantizes with blocks of 64 and without double quantization. */
export const roundingOf = ({ loftqBits }: Required<LoftqConfig>): Rounding =>
  loftqBits === 8 ? 'int8' : { quantType: 'nf4', blocksize: 64, doubleQuant: false };

export const disposeFactors = ({ a, b, taken }: InitialFactors): void => {
  for (const t of [a, b, ...(taken ? [taken.a, taken.b] : [])]) t.dispose();
};

/** The weight [out, in] after quantizing and decoding, in f32. */
export async function roundTrip(path: string, weight: Tensor, rounding: Rounding): Promise<Tensor> {
  const rows = tensorRows(path, weight);
  if (rounding === 'int8') {
    const made = await quantizeWeight8bit(rows);
    const decoded = noGrad(() => dequantizeRowwise({ ...made, dtype: 'f32' }));
    for (const t of [made.quantized, made.absmax]) t.dispose();
    return decoded;
  }
  const made = await quantizeWeight4bit(rows, rounding);
  const decoded = noGrad(() => dequantize4bit({ ...made, dtype: 'f32' }));
  const { packed, absmax, nested } = made;
  for (const t of [packed, absmax, ...(nested ? [nested.absmax, nested.code] : [])]) t.dispose();
  return decoded;
}

/** b a in f32 times `scale`, [out, in]. */
const productOf = ({ a, b }: Factors, scale = 1): Tensor => scope(() => b.matmul(a).mul(scale));

/** weight - scale b a, in f32. */
export const without = (weight: Tensor, taken: InitialFactors['taken']): Tensor =>
  noGrad(() =>
    scope(() => (taken ? weight.cast('f32').sub(productOf(taken, taken.scale)) : weight.cast('f32').alias())),
  );

/** diag(sqrt(s / scale)) vh and u diag(sqrt(s / scale)); frees what it is given. */
export function balanced({ u, s, vh }: Svd, scale = 1): Factors {
  const factors = noGrad(() =>
    scope(() => {
      const root = s.div(scale).sqrt();
      return { a: vh.mul(root.reshape([root.size, 1])), b: u.mul(root) };
    }),
  );
  for (const t of [u, s, vh]) t.dispose();
  return factors;
}

interface InitOptions {
  readonly path: string;
  readonly r: number;
  readonly scaling: number;
  readonly key: RandomKey;
}

async function pissa(weight: Tensor, init: string, { r, scaling, key }: InitOptions): Promise<Factors> {
  const niter = /^pissa_niter_(\d+)$/.exec(init)?.[1];
  if (niter === undefined) return balanced(await truncatedSvd(weight, { rank: r, key }), scaling);
  const { u, s, v } = await svdLowrank(weight, { q: r, niter: Number(niter), key });
  const vh = noGrad(() => v.transpose(0, 1));
  v.dispose();
  return balanced({ u, s, vh }, scaling);
}

async function olora(weight: Tensor, { r }: InitOptions): Promise<Factors> {
  const found = await qr(weight, { rank: r });
  return { a: found.r, b: found.q };
}

/**
 * The alternation of LoftQ: quantize what the last low-rank part leaves of the weight, decompose what quantizing loses. PEFT does not
 * divide by the scaling, so base plus adapter comes near the weight only where loraAlpha / r is 1.
 */
async function loftq(
  weight: Tensor,
  { loftqIter }: Required<LoftqConfig>,
  rounding: Rounding,
  { path, r, key }: InitOptions,
): Promise<InitialFactors> {
  let taken: InitialFactors['taken'] = null;
  for (let i = 1; ; i++) {
    using target = without(weight, taken);
    using decoded = await roundTrip(path, target, rounding);
    using lost = noGrad(() => scope(() => weight.cast('f32').sub(decoded)));
    const factors = balanced(await truncatedSvd(lost, { rank: r, key }));
    if (i === loftqIter) return { ...factors, taken };
    if (taken) for (const t of [taken.a, taken.b]) t.dispose();
    taken = { ...factors, scale: 1 };
  }
}

export interface DecomposeOptions extends InitOptions {
  readonly init: BaseInit;
  readonly loftqConfig: Required<LoftqConfig>;
  /** How the base will round its weight; for LoftQ. */
  readonly rounding: Rounding;
}

/**
 * First values from a weight [out, in]; they belong to no scope.
 * @throws RangeError when r is larger than the weight's sides; NonFiniteError
 */
export async function decompose(weight: Tensor, options: DecomposeOptions): Promise<InitialFactors> {
  const { init, path, r, scaling, loftqConfig, rounding } = options;
  const most = Math.min(...weight.shape);
  if (r > most)
    throw new RangeError(
      `applyLora: r must be at most ${most} for initLoraWeights '${init}': ${path} [${weight.shape}] has r ${r}. Lower it, or use rankPattern.`,
    );
  if (init === 'loftq') return loftq(weight, loftqConfig, rounding, options);
  const factors = await (init === 'olora' ? olora(weight, options) : pissa(weight, init, options));
  return { ...factors, taken: { a: factors.a.alias(), b: factors.b.alias(), scale: scaling } };
}

/** PEFT's orthogonal_init: both factors random, their product zero. r must be even. */
export async function orthogonalFactors(
  [outFeatures, inFeatures]: readonly [number, number],
  r: number,
  draw: (shape: readonly number[], name: string) => Tensor,
): Promise<Factors> {
  if (r % 2 !== 0)
    throw new RangeError(`applyLora: r must be even for initLoraWeights 'orthogonal': got ${r}. Use another rank.`);
  using square = draw([r, r], 'q');
  const decomposed = await qr(square);
  decomposed.r.dispose();
  using q = decomposed.q;
  return noGrad(() =>
    scope(() => {
      const rows = q.reshape([r / 2, 2 * r]); // odd rows side by side with even ones
      const [first, second] = [rows.slice(1, 0, r), rows.slice(1, r, 2 * r)];
      const a = first.matmul(draw([r / 2, inFeatures], 'lora_A'), { transposeA: true }).div(10);
      const b = draw([outFeatures, r / 2], 'lora_B')
        .matmul(second)
        .div(10);
      return { a, b };
    }),
  );
}
