/** Numbers for the cases: equal on every run, fast to make, without zeros and subnormals. */

const poolSize = 65_521;
const pool = Float32Array.from({ length: poolSize }, (_, i) => {
  const x = (Math.imul(i + 1, 0x9e3779b1) >>> 8) / 2 ** 24;
  return (x < 0.5 ? -1 : 1) * (0.05 + Math.abs(2 * x - 1));
});

/** `count` values in [-1.05, -0.05] and [0.05, 1.05], times `scale`; another seed begins elsewhere. */
export function draw(count: number, seed: number, scale = 1): Float32Array {
  const scaled = scale === 1 ? pool : pool.map((x) => x * scale);
  const out = new Float32Array(count);
  let from = (seed * 7919) % poolSize;
  for (let at = 0; at < count; ) {
    const length = Math.min(poolSize - from, count - at);
    out.set(scaled.subarray(from, from + length), at);
    at += length;
    from = 0;
  }
  return out;
}

/** Rounded to bf16 as weights are stored, ties to even. */
export function roundedToBf16(values: Float32Array): Float32Array {
  const words = new Uint32Array(values.slice().buffer);
  for (let i = 0; i < words.length; i++)
    words[i] = ((words[i]! + 0x7fff + ((words[i]! >>> 16) & 1)) & 0xffff0000) >>> 0;
  return new Float32Array(words.buffer);
}

/** Labels below `classes`, every `skip`th left out with -100 (0: none). */
export const drawLabels = (count: number, classes: number, skip = 0): Int32Array =>
  Int32Array.from({ length: count }, (_, i) => (skip > 0 && i % skip === 0 ? -100 : (i * 7919) % classes));
