import type { CpuBackend } from '@lorikeet/cpu';
import { AdamW, AdamW8bit, Lion, Lion8bit, type Optimizer } from '@lorikeet/nn';
import {
  createDynamicMap,
  dequantizeBlockwise,
  fromBytes,
  type Gradients,
  matmul,
  matmul8bit,
  normal,
  quantizeBlockwise,
  quantizeRowwise,
  randomKey,
  scope,
  type Tensor,
  tensor,
} from '@lorikeet/tensor';
import type { BenchCase, BenchContender } from '../case.ts';

const elements = 4 * 1024 * 1024;

/** A parameter with its gradient and an optimizer that has taken a step. */
function stepping(backend: CpuBackend, make: (p: Tensor) => Optimizer): () => void {
  const p = normal([elements], { backend, key: randomKey(1), requiresGrad: true });
  const gradients: Gradients = scope(() => p.mul(p).sum().backward());
  const optimizer = make(p);
  optimizer.step(gradients);
  return () => optimizer.step(gradients);
}

const steps: BenchCase = {
  name: 'optimizer step',
  shape: `${elements / 2 ** 20} M parameters, f32`,
  unit: 'M parameters/s',
  perUnit: 1e6,
  async contenders({ one }) {
    const kinds = { AdamW, AdamW8bit, Lion, Lion8bit };
    return Object.entries(kinds).map(([name, Kind]) => ({
      name: `${name}, 1 thread`,
      work: elements,
      run: stepping(one, (p) => new Kind([{ path: 'p', tensor: p }], { lr: 1e-4 })),
      row: {
        name: `optimizer step ${name}`,
        threads: 1,
        versus: name.endsWith('8bit')
          ? { [`lorikeet ${name.slice(0, -4)}`]: `optimizer step ${name.slice(0, -4)}` }
          : {},
      },
    }));
  },
};

const blocks: BenchCase = {
  name: '8-bit blocks',
  shape: `${elements / 2 ** 20} M elements, blocks of 256`,
  unit: 'M elements/s',
  perUnit: 1e6,
  async contenders({ one }) {
    const x = normal([elements], { backend: one, key: randomKey(1) });
    const code = tensor([...createDynamicMap(true)], { backend: one });
    const { quantized, absmax } = quantizeBlockwise(x, code, { blocksize: 256 });
    const free = (...made: Tensor[]): void => {
      for (const t of made) t.dispose();
    };
    return [
      {
        name: 'quantizeBlockwise, 1 thread',
        work: elements,
        row: { name: '8-bit blocks quantize', threads: 1, versus: { 'lorikeet x * 2': '8-bit blocks x * 2' } },
        run: () => {
          const made = quantizeBlockwise(x, code, { blocksize: 256 });
          free(made.quantized, made.absmax);
        },
      },
      {
        name: 'dequantizeBlockwise, 1 thread',
        work: elements,
        row: { name: '8-bit blocks dequantize', threads: 1, versus: { 'lorikeet x * 2': '8-bit blocks x * 2' } },
        run: () => free(dequantizeBlockwise(quantized, absmax, code, { blocksize: 256 })),
      },
      {
        name: 'x * 2, 1 thread',
        work: elements,
        run: () => {
          const doubled = x.mul(2);
          // Freed before it is computed, it would not be.
          const done = one.sync();
          free(doubled);
          return done;
        },
        row: { name: '8-bit blocks x * 2', threads: 1 },
      },
    ];
  },
};

const products = [1, 512].map(
  (m): BenchCase => ({
    name: `matmul8bit ${m === 1 ? 'one row' : `${m} rows`}`,
    shape: `${m} x 3072 x 9216`,
    unit: 'GFLOP/s',
    perUnit: 1e9,
    async contenders({ many }) {
      const [k, n] = [3072, 9216];
      using drawn = normal([n, k], { backend: many, key: randomKey(2), std: 0.02 });
      using halves = drawn.cast('bf16');
      const dense = fromBytes(await halves.bytes(), { backend: many, shape: [n, k], dtype: 'bf16' });
      const { quantized: made, absmax } = quantizeRowwise(drawn);
      const quantized = fromBytes(await made.bytes(), { backend: many, shape: [n, k], dtype: 'i8' });
      made.dispose();
      const weight = { quantized, absmax, dtype: 'bf16' as const };
      const x = normal([m, k], { backend: many, key: randomKey(1) });
      const { threads } = many.describe() as { threads: number };
      const row = (kind: string): string => `matmul8bit ${m} rows ${kind}`;
      const run = (kind: string, product: () => Tensor): BenchContender => ({
        name: kind,
        work: 2 * m * k * n,
        run: () => product().dispose(),
        row: { name: row(kind), threads, versus: kind === 'bf16' ? {} : { 'lorikeet bf16': row('bf16') } },
      });
      return [run('LLM.int8', () => matmul8bit(x, weight)), run('bf16', () => matmul(x, dense, { transposeB: true }))];
    },
  }),
);

export const eightBitCases: readonly BenchCase[] = [steps, blocks, ...products];
