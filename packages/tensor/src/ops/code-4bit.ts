/** The two 16-entry codebooks of bitsandbytes, from their definitions. */

export type QuantType4bit = 'nf4' | 'fp4';

/** P(Z <= x) for a standard normal Z, by its power series; to f64 accuracy for |x| < 3. */
function normalProbability(x: number): number {
  let term = x;
  let sum = x;
  for (let n = 3; Math.abs(term) > 1e-18 * Math.abs(sum); n += 2) {
    term *= (x * x) / n;
    sum += term;
  }
  return 0.5 + (sum * Math.exp((-x * x) / 2)) / Math.sqrt(2 * Math.PI);
}

/** The x with P(Z <= x) = p, by Newton's method. */
function normalQuantile(p: number): number {
  let x = 0;
  for (let i = 0; i < 60; i++) {
    const step = ((normalProbability(x) - p) * Math.sqrt(2 * Math.PI)) / Math.exp((-x * x) / 2);
    x -= step;
    if (Math.abs(step) < 1e-16) break;
  }
  return x;
}

/** The outermost probability of `create_normal_map`: the mean of 1 - 1/30 and 1 - 1/32, in seven digits. */
const outermost = Math.fround(0.9677083);

/** Quantiles at `count` probabilities evenly from `outermost` towards 1/2, which itself is left out; steps in f32, as torch.linspace takes them. */
function quantiles(count: number): number[] {
  const step = Math.fround(Math.fround(0.5 - outermost) / count);
  return Array.from({ length: count }, (_, i) => {
    const fromStart = i < (count + 1) / 2;
    const p = fromStart ? outermost + Math.fround(step * i) : 0.5 - Math.fround(step * (count - i));
    return normalQuantile(Math.fround(p));
  });
}

/**
 * NF4 (Dettmers et al. 2023, "QLoRA"): eight positive and seven negative normal quantiles and 0, over the largest; ascending.
 * Equal in every bit to the table that bitsandbytes prints.
 */
export const nf4Code: Float32Array = Float32Array.from(
  [...quantiles(7).map((x) => -x), 0, ...quantiles(8).reverse()],
  (x) => Math.fround(x) / Math.fround(normalQuantile(outermost)),
);

/** sign, two exponent bits of bias 2, one mantissa bit, over the largest: 0, 1/192, 2/3, 1, 1/3, 1/2, 1/6, 1/4; bit 3 is the sign. */
export const fp4Code: Float32Array = Float32Array.from({ length: 16 }, (_, index) => {
  const magnitude = [0, 1 / 16, 8, 12, 4, 6, 2, 3][index & 7]! / 12;
  return index < 8 || magnitude === 0 ? magnitude : -magnitude;
});

export const code4bit = (quantType: QuantType4bit): Float32Array => (quantType === 'nf4' ? nf4Code : fp4Code);

/** How a scaled value becomes a nibble: nibbles in the order of their values, and the 15 borders between them. */
export interface Decision4bit {
  /** Midpoints of neighbours, ascending: a value is above a border only if it is greater. */
  readonly borders: Float32Array;
  /** The nibble for the number of borders below a value. */
  readonly order: Uint8Array;
}

/**
 * The rule of `bitsandbytes.functional.quantize_4bit` on the CPU (its portable backend). Its CUDA kernel differs in what
 * dequantizes alike or lies on a border: NF4's last border is one f32 lower there, FP4 rounds a negative border towards zero
 * and swaps the nibbles 0 and 8, which both mean zero.
 */
export function decision4bit(quantType: QuantType4bit): Decision4bit {
  const code = code4bit(quantType);
  const order = Uint8Array.from(code.keys()).sort((a, b) => code[a]! - code[b]! || a - b);
  const borders = Float32Array.from({ length: 15 }, (_, i) =>
    Math.fround(Math.fround(code[order[i]!]! + code[order[i + 1]!]!) / 2),
  );
  return { borders, order };
}
