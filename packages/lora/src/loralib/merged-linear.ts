import { concat, type Tensor } from '@lorikeet/tensor';
import type { LinearOptions } from './linear.ts';
import { LowRankLinear } from './low-rank-linear.ts';

export interface MergedLinearOptions extends LinearOptions {
  /** For each slice of the output whether it gets an adapter: `[true, false, true]` adapts q and v of a fused qkv. */
  readonly enableLora: readonly boolean[];
  /** Rows of each slice, for slices of unequal size (grouped-query q, k, v). @defaultValue equal slices */
  readonly sliceSizes?: readonly number[];
}

/** Rows of the weight that one adapter covers. */
interface Slice {
  readonly start: number;
  readonly end: number;
}

/** The enabled slices, in order. */
function enabledSlices(outFeatures: number, { enableLora, sliceSizes }: MergedLinearOptions): Slice[] {
  const n = enableLora.length;
  if (n === 0) throw new RangeError('lora.MergedLinear: enableLora must have an entry for each slice: it is empty.');
  if (!sliceSizes && outFeatures % n !== 0)
    throw new RangeError(
      `lora.MergedLinear: the length of enableLora must divide outFeatures: ${n} does not divide ${outFeatures}. Give sliceSizes.`,
    );
  const sizes = sliceSizes ?? enableLora.map(() => outFeatures / n);
  const sum = sizes.reduce((total, size) => total + size, 0);
  if (sizes.length !== n || sum !== outFeatures || !sizes.every((size) => Number.isSafeInteger(size) && size > 0))
    throw new RangeError(
      `lora.MergedLinear: sliceSizes must be ${n} whole numbers above 0 that sum to outFeatures ${outFeatures}: got [${sizes.join(', ')}].`,
    );
  let start = 0;
  const slices = sizes.map((size) => ({ start, end: (start += size) }));
  return slices.filter((_, i) => enableLora[i]);
}

/**
 * loralib.MergedLinear (0.1.2): one linear whose output is several slices, each with an adapter of its own or none.
 * `lora_A` is [r n, in] and `lora_B` [rows of the n enabled slices, r], one below the other. Unlike loralib's, slices may be
 * unequal, and enabling none gives a plain layer. Merging is explicit, as in `Linear`.
 */
export class MergedLinear extends LowRankLinear {
  readonly #slices: readonly Slice[];

  constructor(inFeatures: number, outFeatures: number, options: MergedLinearOptions) {
    const { r = 0 } = options;
    const slices = enabledSlices(outFeatures, options);
    const rows = slices.reduce((sum, { start, end }) => sum + end - start, 0);
    const shapes = r > 0 && rows > 0 ? ({ a: [r * slices.length, inFeatures], b: [rows, r] } as const) : null;
    super('lora.MergedLinear', [inFeatures, outFeatures], options, shapes);
    this.#slices = slices;
  }

  /** Block i of lora_B in the rows of slice i and columns i r .. i r + r, the rest zero: [out, r n]. */
  protected override columns(): Tensor {
    let at = 0;
    const blocks = this.#slices.map(({ start, end }) => {
      const block = this.lora_B!.slice(0, at, (at += end - start));
      return block.pad(0, start, this.outFeatures - end);
    });
    return concat(blocks, 1);
  }
}
