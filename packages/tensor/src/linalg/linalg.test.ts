import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import {
  encode,
  fromBytes,
  matmul,
  memory,
  NonFiniteError,
  normal,
  qr,
  randomKey,
  referenceBackend,
  svd,
  svdLowrank,
  type Tensor,
  tensor,
  truncatedSvd,
  zeros,
} from '../index.ts';
import { hostileBackend } from '../testing/index.ts';

const backend = referenceBackend();
const key = randomKey(3);
const f64 = (rows: number[][]): Tensor => tensor(rows, { backend, dtype: 'f64' });

async function distance(a: Tensor, b: Tensor): Promise<number> {
  expect(a.shape).toEqual(b.shape);
  const [x, y] = [[...(await a.data())], [...(await b.data())]];
  return x.reduce((worst, v, i) => Math.max(worst, Math.abs(v - y[i]!)), 0);
}
const identity = (n: number): Tensor => {
  const values = Float64Array.from({ length: n * n }, (_, i) => (i % (n + 1) === 0 ? 1 : 0));
  return tensor(values, { backend, dtype: 'f64', shape: [n, n] });
};
const gram = (q: Tensor): Tensor => q.matmul(q, { transposeA: true });

/** Matrices of every kind: any shape, of full or lower rank, with repeated rows, zero columns, equal or far apart sizes. */
const matrices = fc
  .record({
    m: fc.integer({ min: 1, max: 70 }),
    n: fc.integer({ min: 1, max: 70 }),
    rank: fc.integer({ min: 0, max: 70 }),
    scale: fc.constantFrom(1, 1e-12, 1e12),
    zeroColumn: fc.boolean(),
    seed: fc.nat(1e6),
  })
  .map(({ m, n, rank, scale, zeroColumn, seed }) => {
    const made = (shape: number[], name: string): Tensor =>
      normal(shape, { backend, dtype: 'f64', key: randomKey(seed, name) });
    const kept = Math.min(rank, m, n);
    const product =
      kept === 0 ? zeros([m, n], { backend, dtype: 'f64' }) : matmul(made([m, kept], 'l'), made([kept, n], 'r'));
    const mask = Float64Array.from({ length: n }, (_, j) => (zeroColumn && j === 0 ? 0 : scale));
    return product.mul(tensor(mask, { backend, dtype: 'f64' }));
  });
const sizeOfLargest = async (a: Tensor): Promise<number> =>
  [...(await a.data())].reduce((m, x) => Math.max(m, Math.abs(x)), 1e-300);

describe('qr', () => {
  it('gives the factors of PyTorch, signs included', async () => {
    const cases = [
      {
        a: [[1, 2], [-3, 4], [5, -6]],
        q: [[-0.16903085, -0.97995789], [0.50709255, -0.17817416], [-0.8451542, 0.08908708]],
        r: [[-5.91607978, 6.76123404], [0, -3.2071349]],
      },
      {
        a: [[1, -3, 5], [2, 4, -6]],
        q: [[-0.4472136, -0.89442719], [-0.89442719, 0.4472136]],
        r: [[-2.23606798, -2.23606798, 3.13049517], [0, 4.47213595, -7.15541753]],
      },
      { a: [[0, 1, 2], [0, -3, 4]], q: [[1, 0], [0, 1]], r: [[0, 1, 2], [0, -3, 4]] },
    ]; // biome-ignore format: matrices
    for (const { a, ...expected } of cases) {
      const { q, r } = await qr(f64(a));
      expect(await distance(q, f64(expected.q))).toBeLessThan(1e-7);
      expect(await distance(r, f64(expected.r))).toBeLessThan(1e-7);
    }
  });
  it('is orthonormal times upper triangular for every matrix', async () => {
    await fc.assert(
      fc.asyncProperty(matrices, async (a) => {
        const { q, r } = await qr(a);
        const k = Math.min(...a.shape);
        expect(await distance(gram(q), identity(k))).toBeLessThan(1e-13);
        expect(await distance(q.matmul(r), a)).toBeLessThan(1e-12 * (await sizeOfLargest(a)));
        const rows = (await r.toArray()) as number[][];
        for (const [i, row] of rows.entries()) expect(row.slice(0, i).every((x) => x === 0)).toBe(true);
      }),
      { numRuns: 60 },
    );
  });
  it('rank is the beginning of the whole', async () => {
    const a = normal([50, 41], { backend, dtype: 'f64', key });
    const [whole, part] = [await qr(a), await qr(a, { rank: 35 })];
    expect(await distance(part.q, whole.q.slice(1, 0, 35))).toBeLessThan(1e-13);
    expect(await distance(part.r, whole.r.slice(0, 0, 35))).toBeLessThan(1e-12);
  });
});

describe('svd', () => {
  it('is orthonormal, sorted, and gives the matrix back, for every matrix', async () => {
    await fc.assert(
      fc.asyncProperty(matrices, async (a) => {
        const { u, s, vh } = await svd(a);
        const k = Math.min(...a.shape);
        expect(await distance(gram(u), identity(k))).toBeLessThan(1e-12);
        expect(await distance(vh.matmul(vh, { transposeB: true }), identity(k))).toBeLessThan(1e-12);
        expect(await distance(u.mul(s).matmul(vh), a)).toBeLessThan(1e-12 * (await sizeOfLargest(a)));
        const values = [...(await s.data())];
        expect(values).toEqual(values.toSorted((x, y) => y - x));
        expect(values.every((x) => x >= 0)).toBe(true);
      }),
      { numRuns: 60 },
    );
  });
  it('finds small singular values to full relative accuracy', async () => {
    // Columns of far different lengths: a bidiagonalization loses the small ones to the rounding of the large.
    const { q } = await qr(normal([6, 4], { backend, dtype: 'f64', key }));
    const scales = [1, 1e-6, 1e-12, 1e-18];
    const { s } = await svd(q.mul(tensor(scales, { backend, dtype: 'f64' })));
    const values = await s.data();
    for (const [i, want] of scales.entries()) expect(Math.abs(values[i]! / want - 1)).toBeLessThan(1e-12);
  });
  it('has a basis where values are equal, and where all are zero', async () => {
    for (const a of [identity(5), zeros([4, 3], { backend, dtype: 'f64' }), zeros([1, 1], { backend, dtype: 'f64' })]) {
      const { u, vh } = await svd(a);
      expect(await distance(gram(u), identity(u.shape[1]!))).toBeLessThan(1e-13);
      expect(await distance(vh.matmul(vh, { transposeB: true }), identity(vh.shape[0]!))).toBeLessThan(1e-13);
    }
  });
});

describe('svdLowrank', () => {
  it('finds all of a matrix of low rank, tall or wide, and never more columns than asked for', async () => {
    for (const [m, n] of [
      [40, 25],
      [25, 40],
      [9, 1],
      [1, 9],
    ] as const) {
      // biome-ignore format: a list
      const rank = Math.min(3, m, n);
      const made = (shape: number[], seed: number) => normal(shape, { backend, dtype: 'f64', key: randomKey(seed) });
      const a = made([m, rank], 1).matmul(made([rank, n], 2));
      const { u, s, v } = await svdLowrank(a, { q: rank, niter: 1, key });
      expect([u.shape, s.shape, v.shape]).toEqual([[m, rank], [rank], [n, rank]]);
      expect(await distance(u.mul(s).matmul(v, { transposeB: true }), a)).toBeLessThan(1e-12);
    }
  });
  it('comes closer with more iterations', async () => {
    const a = normal([60, 50], { backend, dtype: 'f64', key });
    const best = [...(await (await svd(a)).s.data())].slice(0, 4);
    const errors: number[] = [];
    for (const niter of [0, 2, 16]) {
      const values = await (await svdLowrank(a, { q: 4, niter, key })).s.data();
      errors.push(best.reduce((sum, x, i) => sum + Math.abs(x - values[i]!), 0));
    }
    expect(errors[0]!).toBeGreaterThan(errors[1]!);
    expect(errors[1]!).toBeGreaterThan(errors[2]!);
    expect(errors[2]! / best[0]!).toBeLessThan(0.02);
  });
});

describe('truncatedSvd', () => {
  it.each([
    [230, 200],
    [200, 230],
  ])('gives the first triplets of a [%i, %i], too large for the whole', async (m, n) => {
    // biome-ignore format: a table
    const a = normal([m, n], { backend, key: randomKey(m) });
    const [some, all] = [await truncatedSvd(a, { rank: 3, key }), await svd(a)];
    expect(await distance(some.s, all.s.slice(0, 0, 3))).toBeLessThan(1e-4);
    const best = (x: typeof all, rank: number): Tensor =>
      x.u
        .slice(1, 0, rank)
        .mul(x.s.slice(0, 0, rank))
        .matmul(x.vh.slice(0, 0, rank));
    expect(await distance(best(some, 3), best(all, 3))).toBeLessThan(2e-3);
  });
  it('is the beginning of svd for a small one', async () => {
    const a = normal([7, 5], { backend, dtype: 'f64', key });
    const [some, all] = [await truncatedSvd(a, { rank: 2, key }), await svd(a)];
    expect(await distance(some.u, all.u.slice(1, 0, 2))).toBe(0);
    expect(await distance(some.vh, all.vh.slice(0, 0, 2))).toBe(0);
  });
});

describe('decompositions', () => {
  const bad = fromBytes(encode([1, Number.NaN], 'f32'), { backend, shape: [2, 1] });
  const vector = tensor([1, 2], { backend });
  const all = {
    qr,
    svd,
    svdLowrank: (a: Tensor) => svdLowrank(a, { key }),
    truncatedSvd: (a: Tensor) => truncatedSvd(a, { rank: 1, key }),
  };
  it.each(Object.entries(all))('%s refuses what is no finite matrix of floats', async (name, decompose) => {
    await expect(decompose(bad)).rejects.toThrow(NonFiniteError);
    await expect(decompose(vector)).rejects.toThrow(`${name}: a must be a matrix: got [2]`);
    await expect(decompose(zeros([2, 2], { backend, dtype: 'i32' }))).rejects.toThrow(`${name}: a must be floats`);
  });
  it('run on a backend that computes late', async () => {
    const late = hostileBackend();
    const a = normal([40, 70], { backend: late, key });
    const { q, r } = await qr(a);
    expect(await distance(q.matmul(r), a)).toBeLessThan(2e-6);
    const { u, s, v } = await svdLowrank(a, { q: 40, niter: 1, key });
    expect(await distance(u.mul(s).matmul(v, { transposeB: true }), a)).toBeLessThan(2e-6);
  });
  it('refuse a rank that the matrix does not have', async () => {
    const a = zeros([3, 2], { backend });
    await expect(qr(a, { rank: 3 })).rejects.toThrow('qr: rank must be a whole number in 1 .. 2: got 3');
    await expect(truncatedSvd(a, { rank: 0, key })).rejects.toThrow('in 1 .. 2: got 0');
    await expect(svdLowrank(a, { q: 3, key })).rejects.toThrow('svdLowrank: q must be');
  });
  it.each(Object.entries(all))('%s keeps nothing but its results', async (_, decompose) => {
    const a = normal([45, 40], { backend, key });
    const before = memory(backend).liveTensors;
    const found = await decompose(a);
    expect(memory(backend).liveTensors).toBe(before + Object.keys(found).length);
    for (const t of Object.values(found) as Tensor[]) t.dispose();
  });
});
