/** How answers are compared: composed Unicode, outer white space left off. */
const plain = (text: string): string => text.normalize('NFC').trim();

/** How many answers are exactly right, and which. */
export interface ExactMatch {
  /** Part of the predictions that equal their reference, 0 .. 1. */
  readonly exactMatch: number;
  /** One a row, 1 or 0: what `bootstrapDifference` takes. */
  readonly matches: readonly (0 | 1)[];
}

/**
 * Counts answers that are the reference, character by character, but for outer white space and Unicode composition. Case and
 * punctuation count; `normalize` loosens that.
 *
 * @throws RangeError if the lists differ in length or are empty
 */
export function exactMatch(
  predictions: readonly string[],
  references: readonly string[],
  normalize: (text: string) => string = plain,
): ExactMatch {
  if (predictions.length !== references.length || predictions.length === 0)
    throw new RangeError(
      `exactMatch: predictions and references must be as many, at least one: got ${predictions.length} and ${references.length}.`,
    );
  const matches = predictions.map((p, i) => (normalize(p) === normalize(references[i]!) ? 1 : 0));
  return { exactMatch: matches.reduce((sum: number, m) => sum + m, 0) / matches.length, matches };
}
