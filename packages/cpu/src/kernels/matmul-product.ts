/** What a matrix product is, for those who plan, run or hold one. */
import type { FloatType } from './lanes.ts';
import type { PlacedWeight4bit } from './weight-4bit.ts';

/** One matrix operand in memory. */
export interface Operand {
  /** Byte address of the first element. */
  readonly address: number;
  /** It lies in the store: for B only. */
  readonly inStore?: boolean;
  readonly dtype: FloatType;
  /** Elements between two rows of the stored matrix. */
  readonly rowStride: number;
  /** Elements between two matrices of a batch; 0 repeats one. */
  readonly batchStride: number;
  /** The stored matrix is the transpose of the operand. */
  readonly transposed: boolean;
}

/** B in 4 bits: one matrix for the whole batch. */
export interface Operand4bit {
  readonly weight: PlacedWeight4bit;
  /** The stored matrix is the transpose of the operand. */
  readonly transposed: boolean;
}

export interface Pair {
  readonly a: Operand;
  readonly b: Operand | Operand4bit;
  readonly k: number;
}

/** C [batch, m, n] in f32 = sum over pairs of A [batch, m, k] x B [batch, k, n] (+ bias). */
export interface Product {
  readonly m: number;
  readonly n: number;
  readonly batch: number;
  readonly pairs: readonly Pair[];
  /** Elements between rows and between matrices. */
  readonly c: { readonly address: number; readonly rowStride: number; readonly batchStride: number };
  /** Address of n f32 values, 0 without. */
  readonly bias?: number;
  /** Adds to what C holds. */
  readonly keep?: boolean;
}
