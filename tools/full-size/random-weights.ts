/** Random bf16 weights by the million: drawn row by row from a seed, each row with a scale of its own, as trained rows have. */
import { normalsOf, type RandomKey, randomKey } from '@lorikeet/tensor';

const tableBits = 16;
/** Values of a piece: 4 MiB of bf16. */
const pieceElements = 1 << 21;

/** What a matrix is drawn with. */
export interface Spread {
  /** Typical standard deviation of a row. */
  readonly deviation: number;
  /** Standard deviation of the logarithm of a row's own: 0.3 is what linears of trained transformers show. */
  readonly rowSpread: number;
}

/** Standard normals to draw from: a table is 50 times faster than a new normal for each of 3.8 thousand million weights. */
export const normalTable = (seed: number): Float32Array => normalsOf(1 << tableBits, randomKey(seed, 'normals'));

/**
 * The rows of a matrix as little-endian bf16, in pieces of whole rows; one piece is held at a time and is used again for the next.
 * Equal keys give equal bytes.
 */
export function* bf16Rows(
  [rows, columns]: readonly [rows: number, columns: number],
  { deviation, rowSpread }: Spread,
  key: RandomKey,
  table: Float32Array,
): Generator<Uint8Array> {
  const scales = normalsOf(rows, key.fold('rows'));
  const rowsAtOnce = Math.max(1, Math.min(rows, Math.floor(pieceElements / columns)));
  const piece = new Uint16Array(rowsAtOnce * columns);
  const value = new Float32Array(1);
  const bits = new Uint32Array(value.buffer);
  let state = key.k0 | 1;
  for (let start = 0; start < rows; start += rowsAtOnce) {
    const end = Math.min(rows, start + rowsAtOnce);
    let at = 0;
    for (let row = start; row < end; row++) {
      const scale = deviation * Math.exp(rowSpread * scales[row]!);
      for (let column = 0; column < columns; column++) {
        // xorshift32 (Marsaglia 2003); its upper bits choose from the table.
        state ^= state << 13;
        state ^= state >>> 17;
        state ^= state << 5;
        value[0] = table[state >>> (32 - tableBits)]! * scale;
        piece[at++] = (bits[0]! + 0x8000) >>> 16;
      }
    }
    yield new Uint8Array(piece.buffer, 0, at * 2);
  }
}
