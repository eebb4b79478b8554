import type { Example } from './tokenize-rows.ts';

/**
 * How short rows share a batch item, as TRL's `packing_strategy`. 'bfd': best fit decreasing, no row is cut or joined. 'bfd_split': rows
 * over `maxLength` are cut into pieces first, and no token is lost. 'wrapped': all rows end to end, cut every `maxLength` tokens;
 * attention crosses the rows' borders within a piece.
 */
export type PackingStrategy = 'bfd' | 'bfd_split' | 'wrapped';

/** What is packed together, and how. */
export interface PackOptions {
  /** Tokens of a pack. */
  readonly maxLength: number;
  /** @defaultValue 'bfd' */
  readonly packingStrategy?: PackingStrategy;
  /**
   * Rows that are packed with each other; TRL takes 1000 at a time, the rows of one batch of `datasets.map`. Fewer make more packs.
   * @defaultValue all
   */
  readonly packingRows?: number;
}

/**
 * Packs rows as TRL's `pack_dataset` does: the same packs in the same order.
 *
 * @returns for each pack, its sequences; a piece has the line of the row in which it starts
 * @throws {RangeError} if `packingRows` or `maxLength` is below 1, or with 'bfd' a row is longer than `maxLength`
 */
export function packRows(examples: readonly Example[], options: PackOptions): Example[][] {
  const { maxLength, packingStrategy = 'bfd', packingRows = Math.max(1, examples.length) } = options;
  for (const [name, value] of Object.entries({ maxLength, packingRows }))
    if (!Number.isInteger(value) || value < 1)
      throw new RangeError(`packRows: ${name} must be an integer of at least 1: got ${value}.`);
  const packs: Example[][] = [];
  for (let start = 0; start < examples.length; start += packingRows) {
    const rows = examples.slice(start, start + packingRows);
    if (packingStrategy === 'wrapped') packs.push(...wrapRows(rows, maxLength).map((piece) => [piece]));
    else {
      const pieces = packingStrategy === 'bfd_split' ? rows.flatMap((row) => cutRow(row, maxLength)) : rows;
      const bins = packExamples(
        pieces.map(({ ids }) => ids.length),
        maxLength,
      );
      packs.push(...bins.map((bin) => bin.map((index) => pieces[index]!)));
    }
  }
  return packs;
}

/** A row as pieces of `maxLength` tokens; the last may be shorter. */
function cutRow({ ids, labels, line }: Example, maxLength: number): Example[] {
  return Array.from({ length: Math.ceil(ids.length / maxLength) }, (_, i) => {
    const [start, end] = [i * maxLength, (i + 1) * maxLength];
    return { ids: ids.slice(start, end), labels: labels.slice(start, end), line };
  });
}

/** Rows end to end, cut every `maxLength` tokens. */
function wrapRows(rows: readonly Example[], maxLength: number): Example[] {
  const size = rows.reduce((sum, { ids }) => sum + ids.length, 0);
  const whole = { ids: new Int32Array(size), labels: new Int32Array(size), line: 0 };
  const lines = new Int32Array(size);
  let start = 0;
  for (const { ids, labels, line } of rows) {
    whole.ids.set(ids, start);
    whole.labels.set(labels, start);
    lines.fill(line, start, start + ids.length);
    start += ids.length;
  }
  return cutRow(whole, maxLength).map((piece, i) => ({ ...piece, line: lines[i * maxLength]! }));
}

/**
 * Best-fit-decreasing packing, as TRL's `packing_strategy: 'bfd'`: longest first, each into the fullest bin that still holds it.
 * Rows are never cut or joined: each stays a sequence of its own in a padding-free batch, and attention does not cross their
 * borders.
 *
 * @param lengths token count of each example, at most `maxLength`
 * @returns for each bin, the indices of its examples
 * @throws {RangeError} if a length is below 1 or above `maxLength`
 */
export function packExamples(lengths: readonly number[], maxLength: number): number[][] {
  const order = lengths.map((_, index) => index).sort((a, b) => lengths[b]! - lengths[a]! || a - b);
  const bins: number[][] = [];
  // Bins by the room left in them; a bin of less room is fuller, so the search goes up from the length itself.
  const byRoom: number[][] = Array.from({ length: maxLength + 1 }, () => []);
  for (const index of order) {
    const length = lengths[index]!;
    if (!Number.isInteger(length) || length < 1 || length > maxLength)
      throw new RangeError(
        `packExamples: lengths must be integers from 1 to ${maxLength}: got ${length}. Truncate rows first.`,
      );
    let room = length;
    while (room < maxLength && byRoom[room]!.length === 0) room++;
    // Of equally full bins the one that was so first, as TRL takes it.
    const bin = byRoom[room]!.shift() ?? bins.push([]) - 1;
    bins[bin]!.push(index);
    byRoom[room - length]!.push(bin);
  }
  return bins;
}
