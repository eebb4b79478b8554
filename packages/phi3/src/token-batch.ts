import { ShapeError } from '@lorikeet/tensor';
import type { Phi3Config } from './config.ts';
import type { RopeTable } from './rope-table.ts';

/** A padding-free batch: the tokens of all sequences one after another. */
export interface TokenBatch {
  /** [t] */
  readonly ids: Int32Array | readonly number[];
  /** Tokens of each sequence; they sum to t. */
  readonly lengths: readonly number[];
  /** [t], place of each token in its sequence. Default: 0, 1, ... in each. */
  readonly positions?: Int32Array;
  /** Tokens of the row in which transformers would lay the batch out, for NEFTune. Default: the longest sequence. */
  readonly rowTokens?: number;
}

/** Tokens, with all that decides about their hidden states. */
export interface PlacedTokens {
  /** [t] */
  readonly ids: Int32Array | readonly number[];
  /** Tokens of each sequence; they sum to t. */
  readonly lengths: readonly number[];
  /** [t], place of each token in its sequence. */
  readonly positions: Int32Array;
  /** [t], 1 where a token is rotated by LongRoPE's long factors. */
  readonly long: Uint8Array;
}

/**
 * A batch's tokens where they stand, counted on from those `held` of each sequence.
 *
 * @throws ShapeError when ids, lengths and positions do not fit each other; RangeError beyond max_position_embeddings
 */
export function placeTokens(
  batch: TokenBatch,
  config: Phi3Config,
  rope: RopeTable,
  held: readonly number[] = [],
): PlacedTokens {
  const { ids, lengths } = batch;
  const positions = positionsOf(batch, config, held);
  return { ids, lengths, positions, long: rope.longTokens(positions, lengths) };
}

/** Positions of a batch, with the batch's own checks. */
function positionsOf(batch: TokenBatch, config: Phi3Config, held: readonly number[]): Int32Array {
  const { ids, lengths, positions } = batch;
  const total = lengths.reduce((sum, n) => sum + n, 0);
  if (total !== ids.length || ids.length === 0 || lengths.some((n) => !Number.isInteger(n) || n < 1))
    throw new ShapeError(
      `Phi3: lengths must be positive integers that sum to the number of ids: got [${lengths.slice(0, 8).join(', ')}${lengths.length > 8 ? ', ...' : ''}] for ${ids.length} ids.`,
    );
  if (held.length > 0 && held.length !== lengths.length)
    throw new ShapeError(
      `Phi3: a cache continues the sequences it holds: it holds ${held.length}, got ${lengths.length}.`,
    );
  if (positions && positions.length !== ids.length)
    throw new ShapeError(`Phi3: positions must be one an id: got ${positions.length} for ${ids.length} ids.`);
  const made =
    positions ?? Int32Array.from(lengths.flatMap((n, i) => Array.from({ length: n }, (_, j) => (held[i] ?? 0) + j)));
  const furthest = made.reduce((most, p) => Math.max(most, p), 0);
  if (furthest >= config.maxPositionEmbeddings || made.some((p) => p < 0))
    throw new RangeError(
      `Phi3: sequences must have at most ${config.maxPositionEmbeddings} tokens (max_position_embeddings): got position ${furthest}. Shorten them.`,
    );
  return made;
}
