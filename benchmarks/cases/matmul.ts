import type { CpuBackend } from '@lorikeet/cpu';
import { matmul, normal, randomKey, type Tensor, tensor } from '@lorikeet/tensor';
import type { BenchCase } from '../case.ts';
import type { Contender } from '../measure.ts';
import type { GpuJs } from '../peers.ts';

/** Phi-3-mini's products for 512 tokens: o_proj, qkv_proj and gate_up_proj. W is [n, k], as checkpoints hold it. */
const shapes = [
  { name: 'o_proj', n: 3072 },
  { name: 'qkv_proj', n: 9216 },
  { name: 'gate_up_proj', n: 16384 },
] as const;
const [m, k] = [512, 3072];

/** Plain JavaScript: packed columns would be faster, this is what one writes. Both operands are read along k. */
function plainProduct(a: Float32Array, w: Float32Array, rows: number, n: number): Float32Array {
  const out = new Float32Array(rows * n);
  for (let r = 0; r < rows; r++)
    for (let c = 0; c < n; c++) {
      let sum = 0;
      for (let i = 0; i < k; i++) sum += a[r * k + i]! * w[c * k + i]!;
      out[r * n + c] = sum;
    }
  return out;
}

/** |got - want| <= sqrt(k) 2^-24 sum|a||b|, on 200 entries against f64: twice the bound of exact arithmetic. */
function check(name: string, got: ArrayLike<number>, a: Float32Array, w: Float32Array, rows: number, n: number): void {
  for (let s = 0; s < 200; s++) {
    const [r, c] = [(s * 37) % rows, (s * 7919) % n];
    let [sum, size] = [0, 0];
    for (let i = 0; i < k; i++) {
      const p = a[r * k + i]! * w[c * k + i]!;
      sum += p;
      size += Math.abs(p);
    }
    const bound = Math.sqrt(k) * 2 ** -24 * size;
    if (!(Math.abs(got[r * n + c]! - sum) <= bound))
      throw new Error(`${name}: entry ${r}, ${c} is ${got[r * n + c]}, expected ${sum} within ${bound}`);
  }
}

async function ours(
  backend: CpuBackend,
  a: Float32Array,
  w: Float32Array,
  n: number,
  dtype: 'f32' | 'bf16',
  label: string,
): Promise<Contender> {
  const [x, wide] = [tensor(a, { backend, shape: [m, k] }), tensor(w, { backend, shape: [n, k] })];
  const weight: Tensor = dtype === 'f32' ? wide : wide.cast('bf16');
  const stored = dtype === 'f32' ? w : ((await weight.data()) as Float32Array);
  using y = matmul(x, weight, { transposeB: true });
  check(label, await y.data(), a, stored, m, n);
  return {
    name: label,
    work: 2 * m * k * n,
    run: () => {
      matmul(x, weight, { transposeB: true }).dispose();
    },
  };
}

function peers(a: Float32Array, w: Float32Array, n: number, gpuJs: GpuJs | null): Contender[] {
  // Peers at under 2 GFLOP/s get 4 of the 512 rows: the same k and n, a sixteenth of a minute instead of one.
  const rows = 4;
  const few = a.subarray(0, rows * k);
  check('plain JavaScript', plainProduct(few, w, rows, n), a, w, rows, n);
  const list: Contender[] = [
    { name: 'plain JavaScript', work: 2 * rows * k * n, run: () => plainProduct(few, w, rows, n), maxRounds: 3 },
  ];
  for (const mode of gpuJs ? (['cpu', 'webasm'] as const) : []) {
    const product = gpuJs!.product(mode, rows, k, n);
    const out = product(few, w);
    const flat = new Float32Array(rows * n);
    Array.from(out).forEach((row, i) => flat.set(row, i * n));
    check(`gpu.js ${mode}`, flat, a, w, rows, n);
    list.push({
      name: `gpu.js ${gpuJs!.version} ${mode}`,
      work: 2 * rows * k * n,
      run: () => product(few, w),
      maxRounds: 3,
    });
  }
  return list;
}

export const matmulCases: readonly BenchCase[] = shapes.map(({ name, n }) => ({
  name: `matmul ${name}`,
  shape: `${m} x ${k} x ${n}`,
  unit: 'GFLOP/s',
  perUnit: 1e9,
  async contenders({ one, many, gpuJs }) {
    const values = async (rows: number, seed: number): Promise<Float32Array> => {
      using t = normal([rows, k], { backend: one, key: randomKey(seed) });
      return (await t.data()) as Float32Array;
    };
    const [a, w] = [await values(m, 1), await values(n, 2)];
    return [
      await ours(many, a, w, n, 'f32', `lorikeet f32, ${many.describe().threads} threads`),
      await ours(many, a, w, n, 'bf16', `lorikeet bf16 weights, ${many.describe().threads} threads`),
      await ours(one, a, w, n, 'f32', 'lorikeet f32, 1 thread'),
      ...peers(a, w, n, gpuJs),
    ];
  },
}));
