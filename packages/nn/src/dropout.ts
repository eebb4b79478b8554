import { nextKey, type Tensor } from '@lorikeet/tensor';
import { Module } from './module.ts';

/** Zeroes elements with probability p in training (torch.nn.Dropout); the mask is keyed by the module's path inside withRandom. */
export class Dropout extends Module {
  /** Probability in [0, 1) with which an element is zeroed; the others are divided by 1 - p. */
  readonly p: number;

  constructor(p: number) {
    super();
    if (!(p >= 0 && p < 1)) throw new RangeError(`Dropout: p must be in [0, 1): got ${p}.`);
    this.p = p;
  }
  get drawsPerRow(): boolean {
    return this.training && this.p > 0;
  }
  /** In eval mode, or with p = 0, another handle of x. */
  forward(x: Tensor): Tensor {
    return this.drawsPerRow ? x.dropout(this.p, nextKey(this.path)) : x.alias();
  }
}
