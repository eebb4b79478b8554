import type { CpuBackend } from '@lorikeet/cpu';
import {
  dequantize4bit,
  fromBytes,
  matmul,
  matmul4bit,
  normal,
  quantize4bit,
  randomKey,
  referenceBackend,
  type Tensor,
  tensor,
  type Weight4bit,
} from '@lorikeet/tensor';
import { type BenchCase, type BenchContender, type BenchContext, boundBy, plainJavaScript } from '../case.ts';
import { draw } from '../data.ts';

/** Phi-3-mini's o_proj, qkv_proj and gate_up_proj. */
const shapes = [
  { name: 'o_proj', n: 3072 },
  { name: 'qkv_proj', n: 9216 },
  { name: 'gate_up_proj', n: 16384 },
] as const;
const k = 3072;
const kind = { quantType: 'nf4', blocksize: 64 } as const;

interface Weights {
  readonly dense: Tensor;
  /** `dense` in 4 bits with double quantization's layout: absmax as bytes of an even code. */
  readonly weight: Weight4bit;
}

/** A bf16 weight and its NF4 form, both written whole, so that they lie in the store as loaded weights do. */
async function weights(backend: CpuBackend, n: number, seed: number, defer: BenchContext['defer']): Promise<Weights> {
  using drawn = tensor(draw(n * k, seed, 0.02), { backend, shape: [n, k] });
  using halves = drawn.cast('bf16');
  const dense = fromBytes(await halves.bytes(), { backend, shape: [n, k], dtype: 'bf16' });
  const quantized = quantize4bit(dense, kind);
  using made = quantized.packed;
  using scales = quantized.absmax;
  const packed = fromBytes(await made.bytes(), { backend, shape: made.shape, dtype: 'u8' });
  const absmax = (await scales.data()) as Float32Array;
  const most = absmax.reduce((a, b) => Math.max(a, b));
  const codes = Uint8Array.from(absmax, (x) => Math.round((x / most) * 255));
  const nested = {
    absmax: tensor(new Float32Array(Math.ceil(codes.length / 256)).fill(most), { backend }),
    code: tensor(
      Float32Array.from({ length: 256 }, (_, i) => i / 255),
      { backend },
    ),
    offset: 0,
    blocksize: 256,
  };
  const coded = fromBytes(codes, { backend, shape: [codes.length], dtype: 'u8' });
  defer(() => {
    for (const t of [dense, packed, coded, nested.absmax, nested.code]) t.dispose();
  });
  return { dense, weight: { packed, absmax: coded, nested, ...kind, shape: [n, k], dtype: 'bf16' } };
}

/** Relative L2 distance of two results. */
async function distance(got: Tensor, want: Tensor): Promise<number> {
  const [a, b] = [await got.data(), await want.data()];
  let [difference, size] = [0, 0];
  for (let i = 0; i < b.length; i++) {
    difference += (a[i]! - b[i]!) ** 2;
    size += b[i]! ** 2;
  }
  return Math.sqrt(difference / size);
}

async function check(name: string, got: Tensor, want: Tensor, most: number): Promise<void> {
  const error = await distance(got, want);
  got.dispose();
  want.dispose();
  if (!(error <= most)) throw new Error(`${name}: differs from the dequantized product by ${error}, allowed ${most}`);
}

/** 512 rows, forward and the gradient of the input, beside the bf16 product. */
const manyRows = shapes.map(
  ({ name, n }): BenchCase => ({
    name: `matmul4bit ${name}`,
    shape: `512 x ${k} x ${n}, NF4, bf16 codes`,
    unit: 'GFLOP/s',
    perUnit: 1e9,
    async contenders({ many, defer }) {
      const { dense, weight } = await weights(many, n, 2, defer);
      const x = normal([512, k], { backend: many, key: randomKey(1) });
      const grad = normal([512, n], { backend: many, key: randomKey(3) });
      const back = { transposeB: false };
      using full = dequantize4bit(weight);
      await check('forward', matmul4bit(x, weight), matmul(x, full, { transposeB: true }), 0);
      await check('gradient', matmul4bit(grad, weight, back), matmul(grad, full), 0);
      const { threads } = many.describe() as { threads: number };
      const row = (kind: string): string => `matmul4bit ${name} ${kind}`;
      const run = (dtype: 'NF4' | 'bf16', product: 'x W^T' | 'grad W', call: () => Tensor): BenchContender => ({
        name: `${dtype} ${product}`,
        work: 2 * 512 * k * n,
        run: () => call().dispose(),
        row: {
          name: row(`${dtype} ${product}`),
          threads,
          limit: boundBy('multiply-add'),
          versus: dtype === 'NF4' ? { 'lorikeet bf16': row(`bf16 ${product}`) } : {},
        },
      });
      return [
        run('NF4', 'x W^T', () => matmul4bit(x, weight)),
        run('bf16', 'x W^T', () => matmul(x, dense, { transposeB: true })),
        run('NF4', 'grad W', () => matmul4bit(grad, weight, back)),
        run('bf16', 'grad W', () => matmul(grad, dense)),
      ];
    },
  }),
);

/** Weights that take turns, so that a row's product reads memory and not a cache. */
const turns = 4;

const oneRow: BenchCase = {
  name: 'matmul4bit one row',
  shape: `1 x ${k} x 16384, ${turns} weights in turn`,
  unit: 'G weights/s',
  perUnit: 1e9,
  async contenders({ many, defer }) {
    const n = 16384;
    const made: Weights[] = [];
    for (let i = 0; i < turns; i++) made.push(await weights(many, n, 10 + i, defer));
    const x = normal([1, k], { backend: many, key: randomKey(1) });
    const { weight } = made[0]!;
    using full = dequantize4bit(weight);
    const want = (): Tensor => matmul(x, full, { transposeB: true });
    await check('exact', matmul4bit(x, weight), want(), 1e-6);
    await check('int8', matmul4bit(x, weight, { computeDtype: 'int8' }), want(), 0.01);
    const { threads } = many.describe() as { threads: number };
    const row = (label: string): string => `matmul4bit one row ${label}`;
    const run = (label: string, product: (w: Weights) => Tensor): BenchContender => ({
      name: label,
      work: turns * n * k,
      row: { name: row(label), threads, versus: label === 'bf16' ? {} : { 'lorikeet bf16': row('bf16') } },
      run: () => {
        for (const w of made) product(w).dispose();
      },
    });
    return [
      run('NF4, exact f32', (w) => matmul4bit(x, w.weight)),
      run("NF4, computeDtype 'int8'", (w) => matmul4bit(x, w.weight, { computeDtype: 'int8' })),
      run('bf16', (w) => matmul(x, w.dense, { transposeB: true })),
    ];
  },
};

const quantizing: BenchCase = {
  name: 'quantize4bit',
  shape: `9216 x ${k}, NF4, blocks of 64`,
  unit: 'M weights/s',
  perUnit: 1e6,
  async contenders({ one, many }) {
    const rows = 9216;
    const run = async (backend: CpuBackend, dtype: 'f32' | 'bf16' | 'f16'): Promise<BenchContender> => {
      const { threads } = backend.describe() as { threads: number };
      using drawn = normal([rows, k], { backend, key: randomKey(2) });
      const x = drawn.cast(dtype);
      return {
        name: `${dtype}, ${threads} threads`,
        work: rows * k,
        row: { name: `quantize4bit ${dtype}`, threads },
        run: () => {
          const { packed, absmax } = quantize4bit(x, kind);
          packed.dispose();
          absmax.dispose();
        },
      };
    };
    const plain = referenceBackend();
    const few = normal([16, k], { backend: plain, key: randomKey(2) });
    return [
      await run(many, 'bf16'),
      await run(many, 'f32'),
      await run(many, 'f16'),
      await run(one, 'bf16'),
      plainJavaScript(16 * k, () => quantize4bit(few, kind), 3),
    ];
  },
};

export const quantizeCases: readonly BenchCase[] = [...manyRows, oneRow, quantizing];
