import { type Backend, fromBytes, noGrad, type Tensor, tensor } from '@lorikeet/tensor';
import { asRows, type LinearLike } from '../linear.ts';
import type { StateEntry } from '../module-tree.ts';

/**
 * The second implementation of the linear contract, made for its suite: a frozen weight stored as int8 rows with one
 * scale a row (absmax / 127). It is no subclass of anything, which is the point.
 */
export class ToyInt8Linear implements LinearLike {
  readonly weight: Tensor;
  readonly scale: Tensor;

  constructor(weight: Tensor, scale: Tensor) {
    this.weight = weight;
    this.scale = scale;
  }
  /** Quantizes host values [out, in]. */
  static from(values: readonly (readonly number[])[], backend: Backend): ToyInt8Linear {
    const scales = values.map((row) => Math.max(1e-8, ...row.map(Math.abs)) / 127);
    const codes = Int8Array.from(values.flatMap((row, i) => row.map((v) => Math.round(v / scales[i]!))));
    const shape = [values.length, values[0]!.length];
    return new ToyInt8Linear(
      fromBytes(new Uint8Array(codes.buffer), { backend, dtype: 'i8', shape }),
      tensor(scales, { backend }),
    );
  }
  get outFeatures(): number {
    return this.weight.shape[0]!;
  }
  get inFeatures(): number {
    return this.weight.shape[1]!;
  }
  forward(x: Tensor, add?: readonly [u: Tensor, b: Tensor]): Tensor {
    const rows = asRows('ToyInt8Linear', x, this.inFeatures);
    const y = rows.matmul(this.denseWeight(), { transposeB: true, ...(add && { add }) });
    return x.rank === 2 ? y : y.reshape([...x.shape.slice(0, -1), this.outFeatures]);
  }
  denseWeight([start, end]: readonly [number, number] = [0, this.outFeatures]): Tensor {
    return noGrad(() =>
      this.weight
        .slice(0, start, end)
        .cast('f32')
        .mul(this.scale.slice(0, start, end).reshape([end - start, 1])),
    );
  }
  *stateEntries(): Iterable<StateEntry> {
    yield ['weight', this.weight];
    yield ['weight.scale', this.scale];
  }
}
