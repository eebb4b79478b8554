import { asRows, type LinearLike, Module, type StateEntry } from '@lorikeet/nn';
import type { Backend, Tensor, Weight4bit } from '@lorikeet/tensor';
import {
  code4bit,
  dequantize4bit,
  fromBytes,
  matmul4bit,
  noGrad,
  ShapeError,
  showShape,
  tensor,
} from '@lorikeet/tensor';
import { quantStateBytes, quantStateKey } from './quant-state.ts';
import { quantizeWeight4bit, type RowBlocks, type Settings4bit, tensorRows } from './quantize-weight.ts';

export interface QuantizedLinearOptions {
  /** [out] */
  readonly bias?: Tensor | undefined;
  /** 'int8' multiplies in integers where the backend can, at a loss; see matmul4bit. @defaultValue 'f32' */
  readonly computeDtype?: 'f32' | 'int8' | undefined;
}

/** The tensors of a 4-bit weight by their names in a checkpoint, below the layer. */
function entriesOf(weight: Weight4bit): Map<string, Tensor> {
  const { packed, absmax, nested, quantType } = weight;
  const { backend }: { backend: Backend } = packed;
  const state = quantStateBytes(weight);
  return new Map<string, Tensor>([
    ['weight', packed],
    ['weight.absmax', absmax],
    ['weight.quant_map', tensor(code4bit(quantType), { backend })],
    ...(nested
      ? ([
          ['weight.nested_absmax', nested.absmax],
          ['weight.nested_quant_map', nested.code],
        ] as const)
      : []),
    [quantStateKey(quantType), fromBytes(state, { backend, dtype: 'u8', shape: [state.length] })],
  ]);
}

/**
 * A linear layer over a frozen weight in 4 bits (bitsandbytes' Linear4bit): y = x W^T + b, W decoded panel by panel inside the
 * product, forward and for the gradient of x. Its checkpoint keys are bitsandbytes'. An adapter goes over it as over any
 * LinearLike. Arithmetic is f32; the bias alone may be trained.
 */
export class QuantizedLinear extends Module implements LinearLike {
  bias?: Tensor | undefined;
  readonly computeDtype: 'f32' | 'int8';
  #weight: Weight4bit;
  #entries: Map<string, Tensor>;

  /** Takes over the weight's tensors, which must belong to no scope. */
  constructor(weight: Weight4bit, { bias, computeDtype = 'f32' }: QuantizedLinearOptions = {}) {
    super();
    const [outFeatures] = weight.shape;
    if (bias && showShape(bias.shape) !== showShape([outFeatures]))
      throw new ShapeError(`QuantizedLinear: bias must be [${outFeatures}]: got ${showShape(bias.shape)}.`);
    if (bias) this.bias = bias;
    this.computeDtype = computeDtype;
    this.#weight = weight;
    this.#entries = entriesOf(weight);
  }

  get outFeatures(): number {
    return this.#weight.shape[0];
  }
  get inFeatures(): number {
    return this.#weight.shape[1];
  }
  /** How the weight was quantized. */
  get settings(): Settings4bit {
    const { quantType, blocksize, nested } = this.#weight;
    return { quantType, blocksize, doubleQuant: nested !== undefined };
  }

  /** x [..., in] -> [..., out]; see LinearLike. @throws ShapeError for another width */
  forward(x: Tensor, add?: readonly [u: Tensor, b: Tensor]): Tensor {
    const rows = asRows('QuantizedLinear', x, this.inFeatures);
    const pair = add && ([asRows('QuantizedLinear: add', add[0], add[1].shape[1]!), add[1]] as const);
    const { bias, computeDtype } = this;
    const y = matmul4bit(rows, this.#weight, { computeDtype, ...(bias && { bias }), ...(pair && { add: pair }) });
    return x.rank === 2 ? y : y.reshape([...x.shape.slice(0, -1), this.outFeatures]);
  }

  /** The packed weight with its scales: live handles. */
  weight4bit(): Weight4bit {
    return this.#weight;
  }
  /** The decoded weight [out, in], or its rows start .. end, in the dtype it was quantized from. */
  denseWeight(rows?: readonly [start: number, end: number]): Tensor {
    return noGrad(() => dequantize4bit(this.#weight, rows));
  }
  /**
   * Quantizes another weight [out, in], whole or in blocks of rows, with the same settings and puts it in the place of this one. The blocks
   * may be made of the weight that is there.
   * @throws NonFiniteError, ShapeError; the layer is unchanged then
   */
  async setDenseWeight(dense: Tensor | RowBlocks): Promise<void> {
    const { shape, dtype } = this.#weight;
    if (showShape(dense.shape) !== showShape(shape))
      throw new ShapeError(`setDenseWeight: the weight must be ${showShape(shape)}: got ${showShape(dense.shape)}.`);
    const rows = 'rows' in dense ? dense : tensorRows(this.path || 'the weight', dense);
    const made = await quantizeWeight4bit(rows, this.settings);
    const before = this.#entries;
    // The dtype that values are rounded to stays: it belongs to the checkpoint, not to whoever computed the new values.
    this.#weight = { ...made, dtype };
    this.#entries = entriesOf(this.#weight);
    for (const old of before.values()) old.dispose();
  }

  override *stateEntries(): Iterable<StateEntry> {
    yield* this.#entries;
    if (this.bias) yield ['bias', this.bias];
  }
}
