/** Above the last attention a token's row depends on no other: only rows whose hidden states are read need computing there. */

/** Fewer rows left out than this part of all are not worth picking the others. */
const leastLeftOut = 1 / 16;

/**
 * The rows that `tokens` have among the `computed` ones, each once, in order; null where they are all, nearly all, or none.
 * `rows` says which row a token has where they are not the same.
 */
export function wantedRows(tokens: Int32Array, rows: Int32Array | undefined, computed: number): Int32Array | null {
  const isWanted = new Uint8Array(computed);
  let count = 0;
  for (const token of tokens) {
    const row = rows ? rows[token]! : token;
    count += 1 - isWanted[row]!;
    isWanted[row] = 1;
  }
  if (count === 0 || computed - count < computed * leastLeftOut) return null;
  const picked = new Int32Array(count);
  let at = 0;
  for (let row = 0; row < computed; row++) if (isWanted[row]) picked[at++] = row;
  return picked;
}

/** The place of each row among the picked ones; 0 for those that are not. */
export function placesOf(picked: Int32Array, computed: number): Int32Array {
  const places = new Int32Array(computed);
  for (const [place, row] of picked.entries()) places[row] = place;
  return places;
}
