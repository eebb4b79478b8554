import type { Tensor } from '@lorikeet/tensor';
import { LowRankLinear } from './low-rank-linear.ts';
import type { LoraLayerOptions } from './options.ts';

export interface LinearOptions extends LoraLayerOptions {
  /** Probability with which an element of the adapter's input is dropped in training. @defaultValue 0 */
  readonly loraDropout?: number;
  /** @defaultValue true */
  readonly bias?: boolean;
}

/**
 * loralib.Linear (0.1.2): y = x W^T + b + s dropout(x) A^T B^T with `weight` [out, in] frozen, `lora_A` [r, in] uniform on
 * +-1/sqrt(in) and `lora_B` [out, r] zero; the bias stays trainable until markOnlyLoraAsTrainable says otherwise.
 *
 * loralib merges the update into the weight in eval() and takes it out in train(); here nothing moves until `merge()` or
 * `unmerge()` is called, and forward gives the same either way.
 */
export class Linear extends LowRankLinear {
  constructor(inFeatures: number, outFeatures: number, options: LinearOptions) {
    const { r = 0 } = options;
    super(
      'lora.Linear',
      [inFeatures, outFeatures],
      options,
      r > 0 ? { a: [r, inFeatures], b: [outFeatures, r] } : null,
    );
  }
  protected override columns(): Tensor {
    return this.lora_B!;
  }
}
