/**
 * Best-fit-decreasing packing, as TRL's `packing_strategy: 'bfd'`: longest first, each into the fullest bin that still holds it.
 * Unlike TRL, which packs a thousand rows at a time, it sees the whole data set. Rows are never cut or joined: each
 * stays a sequence of its own in a padding-free batch, and attention does not cross their borders.
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
