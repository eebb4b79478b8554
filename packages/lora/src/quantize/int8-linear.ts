import { asRows, type LinearLike, Module, type StateEntry } from '@lorikeet/nn';
import type { Tensor, Weight8bit } from '@lorikeet/tensor';
import { dequantizeRowwise, fromBytes, matmul8bit, noGrad, ShapeError, showShape } from '@lorikeet/tensor';
import { quantizeWeight8bit, type RowBlocks, tensorRows } from './quantize-weight.ts';

export interface Int8LinearOptions {
  /** [out] */
  readonly bias?: Tensor | undefined;
  /** Columns of x with a magnitude of at least this are multiplied in full; 0: none. @defaultValue 6 */
  readonly threshold?: number | undefined;
}

/**
 * LLM.int8 (Dettmers et al. 2022; bitsandbytes' Linear8bitLt without trained weights): the frozen weight in 8 bits with one
 * scale a row, x quantized by rows, its outlier columns in full. Checkpoint keys are bitsandbytes' (`weight`, `SCB`,
 * `weight_format`). The gradient of x goes through the decoded weight.
 */
export class Int8Linear extends Module implements LinearLike {
  bias?: Tensor | undefined;
  readonly threshold: number;
  #weight: Weight8bit;
  readonly #format: Tensor;

  /** Takes over the weight's tensors, which must belong to no scope. */
  constructor(weight: Weight8bit, { bias, threshold = 6 }: Int8LinearOptions = {}) {
    super();
    const outFeatures = weight.quantized.shape[0]!;
    if (bias && showShape(bias.shape) !== showShape([outFeatures]))
      throw new ShapeError(`Int8Linear: bias must be [${outFeatures}]: got ${showShape(bias.shape)}.`);
    if (bias) this.bias = bias;
    this.threshold = threshold;
    this.#weight = weight;
    // 0 says: row-major, the only layout that bitsandbytes still writes.
    this.#format = fromBytes(new Uint8Array(1), { backend: weight.quantized.backend, dtype: 'u8', shape: [] });
  }

  get outFeatures(): number {
    return this.#weight.quantized.shape[0]!;
  }
  get inFeatures(): number {
    return this.#weight.quantized.shape[1]!;
  }

  /** x [..., in] -> [..., out]; see LinearLike. @throws ShapeError for another width */
  forward(x: Tensor, add?: readonly [u: Tensor, b: Tensor]): Tensor {
    const rows = asRows('Int8Linear', x, this.inFeatures);
    const pair = add && ([asRows('Int8Linear: add', add[0], add[1].shape[1]!), add[1]] as const);
    const { bias, threshold } = this;
    const y = matmul8bit(rows, this.#weight, { threshold, ...(bias && { bias }), ...(pair && { add: pair }) });
    return x.rank === 2 ? y : y.reshape([...x.shape.slice(0, -1), this.outFeatures]);
  }

  /** The weight in 8 bits with its scales: live handles. */
  weight8bit(): Weight8bit {
    return this.#weight;
  }
  /** The decoded weight [out, in], or its rows start .. end, in the dtype it was quantized from. */
  denseWeight([start, end]: readonly [start: number, end: number] = [0, this.outFeatures]): Tensor {
    const { quantized, absmax, dtype } = this.#weight;
    return noGrad(() => {
      using codes = quantized.slice(0, start, end);
      using scales = absmax.slice(0, start, end);
      return dequantizeRowwise({ quantized: codes, absmax: scales, dtype });
    });
  }
  /**
   * Quantizes another weight [out, in], whole or in blocks of rows, and puts it in the place of this one.
   * @throws NonFiniteError, ShapeError; the layer is unchanged then
   */
  async setDenseWeight(dense: Tensor | RowBlocks): Promise<void> {
    const { quantized, absmax, dtype } = this.#weight;
    if (showShape(dense.shape) !== showShape(quantized.shape))
      throw new ShapeError(
        `setDenseWeight: the weight must be ${showShape(quantized.shape)}: got ${showShape(dense.shape)}.`,
      );
    const made = await quantizeWeight8bit('rows' in dense ? dense : tensorRows(this.path || 'the weight', dense));
    this.#weight = { ...made, dtype };
    for (const old of [quantized, absmax]) old.dispose();
  }

  override *stateEntries(): Iterable<StateEntry> {
    yield ['weight', this.#weight.quantized];
    yield ['SCB', this.#weight.absmax];
    yield ['weight_format', this.#format];
    if (this.bias) yield ['bias', this.bias];
  }
}
