import {
  type Backend,
  type DType,
  embedding,
  normal,
  type RandomKey,
  ShapeError,
  showShape,
  type Tensor,
  tensor,
} from '@lorikeet/tensor';
import { Module } from './module.ts';

/** Rows of a table [v, d] by id (torch.nn.Embedding). The row of `paddingIdx` gets no gradient from here. */
export class Embedding extends Module {
  weight: Tensor;
  readonly paddingIdx: number | null;

  constructor(weight: Tensor, { paddingIdx = null }: { readonly paddingIdx?: number | null } = {}) {
    super();
    if (weight.rank !== 2) throw new ShapeError(`Embedding: weight must be [v, d]: got ${showShape(weight.shape)}.`);
    if (paddingIdx !== null && !(paddingIdx >= 0 && paddingIdx < weight.shape[0]!))
      throw new RangeError(
        `Embedding: paddingIdx must be null or in 0 .. ${weight.shape[0]! - 1}: got ${paddingIdx}. Check pad_token_id.`,
      );
    this.weight = weight;
    this.paddingIdx = paddingIdx;
  }

  /** N(0, 1), as torch.nn.Embedding. */
  static init(
    numEmbeddings: number,
    embeddingDim: number,
    options: {
      readonly backend: Backend;
      readonly key: RandomKey;
      readonly dtype?: DType;
      readonly requiresGrad?: boolean;
    },
  ): Embedding {
    return new Embedding(normal([numEmbeddings, embeddingDim], { requiresGrad: true, ...options }));
  }

  /** v, the number of ids. */
  get numEmbeddings(): number {
    return this.weight.shape[0]!;
  }
  /** d, the width of a row. */
  get embeddingDim(): number {
    return this.weight.shape[1]!;
  }

  /** ids [t] -> [t, d], in the table's dtype. Ids given as numbers are checked against v. */
  forward(ids: Tensor | Int32Array | readonly number[]): Tensor {
    const rows = embedding(ids, this.weight);
    const { paddingIdx } = this;
    if (paddingIdx === null || !this.weight.requiresGrad) return rows;
    if ('storage' in ids) return this.#withoutPadding(rows, ids.ne(paddingIdx));
    if (!ids.includes(paddingIdx)) return rows;
    const real = Uint8Array.from(ids, (id) => Number(id !== paddingIdx));
    return this.#withoutPadding(rows, tensor(real, { backend: rows.backend, dtype: 'u8' }));
  }

  #withoutPadding(rows: Tensor, real: Tensor): Tensor {
    return real.reshape([...real.shape, 1]).where(rows, rows.detach());
  }
}
