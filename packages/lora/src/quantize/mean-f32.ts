/**
 * The f32 mean of a vector in the order of torch.mean on one x86 thread (ATen/native/cpu/SumKernel.cpp, 8 lanes of AVX2). The
 * order decides the last bits of double quantization's offset, and with it which codes bitsandbytes writes. torch itself sums
 * in another order with more threads (above 32768 values) and on a GPU.
 */

const lanes = 8;
const streams = 4;
const levels = 4;

/** Adds row `row` of the vectors to `into`, lane by lane. */
function addRow(into: Float32Array, values: Float32Array, row: number): void {
  const at = row * lanes * streams;
  for (let i = 0; i < lanes * streams; i++) into[i]! += values[at + i]!;
}

/** Sums of 4 x 8 columns over all rows, cascaded over four levels so that the rounding grows with the logarithm. */
function cascade(values: Float32Array, rows: number): Float32Array {
  const sums = Array.from({ length: levels }, () => new Float32Array(lanes * streams));
  const power = Math.max(4, Math.floor(Math.ceil(Math.log2(Math.max(1, rows))) / levels));
  const step = 2 ** power;
  let row = 0;
  while (row + step <= rows) {
    for (let i = 0; i < step; i++) addRow(sums[0]!, values, row++);
    for (let level = 1; level < levels; level++) {
      addRow(sums[level]!, sums[level - 1]!, 0);
      sums[level - 1]!.fill(0);
      if ((row & ((step - 1) * 2 ** (level * power))) !== 0) break;
    }
  }
  while (row < rows) addRow(sums[0]!, values, row++);
  for (let level = 1; level < levels; level++) addRow(sums[0]!, sums[level]!, 0);
  return sums[0]!;
}

/** Fewer values than lanes: four streams of single values. */
function sumOfFew(values: Float32Array): number {
  const partial = new Float32Array(streams);
  const whole = values.length - (values.length % streams);
  for (let i = 0; i < whole; i++) partial[i % streams]! += values[i]!;
  for (let i = whole; i < values.length; i++) partial[0]! += values[i]!;
  return partial.reduce((sum, value) => Math.fround(sum + value));
}

/** sum / n, both rounded to f32; NaN for an empty vector, as torch has it. */
export function meanF32(values: Float32Array): number {
  if (values.length < lanes) return Math.fround(sumOfFew(values) / values.length);
  const vectors = Math.floor(values.length / lanes);
  const rows = Math.floor(vectors / streams);
  const partial = cascade(values, rows);
  // Vectors that fill no row of four go to the first stream, then the streams are added up.
  for (let v = rows * streams; v < vectors; v++)
    for (let lane = 0; lane < lanes; lane++) partial[lane]! += values[v * lanes + lane]!;
  for (let stream = 1; stream < streams; stream++)
    for (let lane = 0; lane < lanes; lane++) partial[lane]! += partial[stream * lanes + lane]!;
  let sum = 0;
  for (let i = vectors * lanes; i < values.length; i++) sum = Math.fround(sum + values[i]!);
  for (let lane = 0; lane < lanes; lane++) sum = Math.fround(sum + partial[lane]!);
  return Math.fround(sum / values.length);
}
