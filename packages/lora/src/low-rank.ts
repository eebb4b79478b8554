/** The low-rank update s B A (Hu et al. 2021, "LoRA"): initial values, scale, and the pair that a linear sums into its product. */
import { asRows, kaimingUniform, normalInit } from '@lorikeet/nn';
import { type Backend, lowRankMatmul, nextKey, type RandomKey, scope, type Tensor, zeros } from '@lorikeet/tensor';

/** What `LinearLike.forward` takes as its second product: u [t, r] and b [out, r]. */
export type Pair = readonly [u: Tensor, b: Tensor];

/** Dropout on the adapter's input. */
export interface InputDropout {
  readonly p: number;
  readonly training: boolean;
  /** Module path: the mask's key inside withRandom. */
  readonly path: string;
}

/** loraAlpha / r, or with rsLoRA loraAlpha / sqrt(r) (Kalajdzievski 2023). */
export const loraScaling = (r: number, loraAlpha: number, useRslora = false): number =>
  loraAlpha / (useRslora ? Math.sqrt(r) : r);

export interface InitialOptions {
  readonly backend: Backend;
  readonly key: RandomKey;
  /** See LoraConfig.initLoraWeights; 'zeros': both zero. @defaultValue true */
  readonly init?: boolean | 'gaussian' | 'zeros';
}

/** lora_A [r, in] and lora_B [out, r], trainable, in f32 whatever the base is stored in. */
export function initialPair(
  shapeA: readonly [rows: number, inFeatures: number],
  shapeB: readonly [outFeatures: number, columns: number],
  { backend, key, init = true }: InitialOptions,
): { a: Tensor; b: Tensor } {
  const made = { backend, requiresGrad: true };
  if (init === 'zeros') return { a: zeros(shapeA, made), b: zeros(shapeB, made) };
  const keyA = key.fold('lora_A');
  const a =
    init === 'gaussian'
      ? normalInit(shapeA, { ...made, key: keyA, std: 1 / shapeA[0] })
      : kaimingUniform(shapeA, { ...made, key: keyA });
  return { a, b: init === false ? kaimingUniform(shapeB, { ...made, key: key.fold('lora_B') }) : zeros(shapeB, made) };
}

/** Checks what every layer's constructor is given. */
export function checkLoraOptions(
  op: string,
  { r, loraAlpha, loraDropout = 0 }: { readonly r: number; readonly loraAlpha: number; readonly loraDropout?: number },
): void {
  if (!Number.isSafeInteger(r) || r < 0)
    throw new RangeError(`${op}: r must be a whole number of at least 0: got ${r}.`);
  if (!Number.isFinite(loraAlpha)) throw new RangeError(`${op}: loraAlpha must be a finite number: got ${loraAlpha}.`);
  if (!(loraDropout >= 0 && loraDropout < 1))
    throw new RangeError(`${op}: loraDropout must be in [0, 1): got ${loraDropout}.`);
}

/** The dtype that the base gives is not widened by the adapter's f32 (PEFT casts the result back). */
const narrowed = (t: Tensor, like: Tensor): Tensor => (isHalf(like) ? t.cast(like.dtype) : t);

/** The update of one call: u b^T = s dropout(x) A^T B^T with a [r, in] and b [out, r]. */
export interface Update {
  /** Names the layer in the error for a wrong width. */
  readonly op: string;
  readonly a: Tensor;
  readonly b: Tensor;
  readonly scaling: number;
  readonly dropout: InputDropout;
  /** The base's only matrix [out, in], where it is a plain one: then base and update are one op, forward and backward. */
  readonly plain?: { readonly weight: Tensor | null; readonly bias: Tensor | undefined };
}

const isHalf = ({ dtype }: Tensor): boolean => dtype === 'f16' || dtype === 'bf16';

/**
 * base(x) + the update (+ add), all second products in the base's one pass: x [..., in] -> [..., out]. The base sees rows [t, in]
 * whatever the shape of x, so that the pair always fits it. The scale is on u, the smallest of the three.
 */
export function forwardWithUpdate(
  base: (x: Tensor, add: Pair) => Tensor,
  x: Tensor,
  { op, a, b, scaling, dropout, plain }: Update,
  add?: Pair,
): Tensor {
  return scope(() => {
    const rows = asRows(op, x, a.shape[1]!);
    const drops = dropout.training && dropout.p > 0;
    const separate = (): Tensor => {
      const dropped = drops ? rows.dropout(dropout.p, nextKey(dropout.path)) : rows;
      const u = dropped.matmul(a, { transposeB: true }).mul(scaling); // [t, r]
      return base(rows, joinPairs([narrowed(u, x), narrowed(b, x)], add));
    };
    const { weight, bias } = plain ?? {};
    const y =
      weight && !drops && !add && !isHalf(x)
        ? lowRankMatmul(rows, weight, [a, b], { scaling, ...(bias && { bias }) })
        : separate();
    return x.rank === 2 ? y : y.reshape([...x.shape.slice(0, -1), y.shape[1]!]);
  });
}

/** One pair whose product is the sum of two: u side by side, b side by side. */
function joinPairs([u, b]: Pair, second: Pair | undefined): Pair {
  if (!second) return [u, b];
  const like = (t: Tensor, other: Tensor): Tensor => (t.dtype === other.dtype ? t : t.cast(other.dtype));
  const rows = asRows('add', second[0], second[1].shape[1]!);
  return [u.concat([like(rows, u)], 1), b.concat([like(second[1], b)], 1)];
}
