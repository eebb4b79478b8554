import { type BenchCase, boundBy, type Limit, roofline } from '../case.ts';
import { draw, roundedToBf16 } from '../data.ts';
import type { MatmulSpec } from '../peer.ts';
import { type SpecCase, specCase } from '../spec-case.ts';

interface Shape {
  readonly m: number;
  readonly k: number;
  readonly n: number;
  readonly batch?: number;
  readonly transpose?: 'NN' | 'NT' | 'TN' | 'TT';
  /** Matrices that take turns. */
  readonly turns?: number;
}

function specOf({ m, k, n, batch = 1, transpose = 'NT', turns = 1 }: Shape, dtype: 'f32' | 'bf16' = 'f32'): MatmulSpec {
  const weight = (seed: number): Float32Array => {
    const drawn = draw(batch * k * n, seed, 0.02);
    return dtype === 'bf16' ? roundedToBf16(drawn) : drawn;
  };
  return {
    op: 'matmul', batch, m, k, n, dtype,
    transposeA: transpose[0] === 'T', transposeB: transpose[1] === 'T',
    a: draw(batch * m * k, 1), b: Array.from({ length: turns }, (_, i) => weight(2 + i)),
  }; // biome-ignore format: a record
}

const flopOf = ({ batch, m, k, n }: MatmulSpec): number => 2 * batch * m * k * n;
const bytesOf = ({ batch, m, k, n, dtype }: MatmulSpec): number =>
  batch * (4 * m * k + (dtype === 'f32' ? 4 : 2) * k * n + 4 * m * n);

const show = ({ m, k, n, batch }: Shape): string => `${batch ? `${batch} x ` : ''}${m} x ${k} x ${n}`;

/** Products that arithmetic binds. */
const dense = (
  name: string,
  shape: Shape,
  { also, halves = false, peers }: Pick<SpecCase<MatmulSpec>, 'also' | 'peers'> & { readonly halves?: boolean } = {},
): BenchCase =>
  specCase({
    name,
    shape: show(shape),
    unit: 'GFLOP/s',
    variants: halves
      ? { f32: () => specOf(shape), bf16: () => specOf(shape, 'bf16') }
      : { [shape.transpose ?? 'NT']: () => specOf(shape) },
    work: flopOf,
    limit: () => boundBy('multiply-add'),
    ...(also && { also }),
    everyPeer: halves,
    ...(peers && { peers }),
  });

/** Phi-3-mini's products for 512 tokens, W [n, k] as checkpoints hold it: o_proj, qkv_proj and gate_up_proj. */
const fast = (name: string): boolean => /^(?:jax-js|onnxruntime|pytorch)/.test(name);
const noGpuJs = (name: string): boolean => !name.startsWith('gpu.js');
const main = [
  dense('matmul o_proj', { m: 512, k: 3072, n: 3072 }, { also: 'main', halves: true }),
  dense('matmul qkv_proj', { m: 512, k: 3072, n: 9216 }, { halves: true, peers: fast }),
  dense('matmul gate_up_proj', { m: 512, k: 3072, n: 16384 }, { halves: true, peers: fast }),
];

const forms = (['NN', 'TN', 'TT'] as const).map((transpose) =>
  dense('matmul form', { m: 512, k: 3072, n: 3072, transpose }, { peers: fast }),
);
const odd = [
  dense('matmul odd', { m: 511, k: 3071, n: 3001 }, { peers: fast }),
  dense('matmul odd', { m: 511, k: 3071, n: 3001, transpose: 'NN' }, { peers: fast }),
];
const batched = dense('matmul batched', { batch: 32, m: 128, k: 96, n: 128 });

const skinnyLimit = (spec: MatmulSpec): Limit => roofline(flopOf(spec), bytesOf(spec), flopOf(spec), 'read');

/** A product of the adapters: x A^T and t B^T forward, then the gradients of A, B and of the input through A. */
const skinny = (what: string, r: number, shape: Shape): BenchCase =>
  specCase({
    name: `matmul LoRA ${what}`,
    shape: show(shape),
    unit: 'GFLOP/s',
    variants: { [`r ${r}`]: () => specOf(shape) },
    work: flopOf,
    limit: skinnyLimit,
  });
const adapters = (r: number): BenchCase[] => [
  skinny('A', r, { m: 512, k: 3072, n: r }),
  skinny('B', r, { m: 512, k: r, n: 3072 }),
];
const lora = [
  ...adapters(4),
  ...adapters(16),
  skinny('gradient of A', 16, { m: 16, k: 512, n: 3072, transpose: 'TN' }),
  skinny('gradient of B', 16, { m: 3072, k: 512, n: 16, transpose: 'TN' }),
  skinny('gradient of x', 16, { m: 512, k: 16, n: 3072, transpose: 'NN' }),
  ...adapters(64),
];

/** Few rows through weights of 288 MiB in turn, so that they come from memory. */
const few = (m: number, dtype: 'f32' | 'bf16'): BenchCase => {
  const shape = { m, k: 3072, n: 8192, turns: dtype === 'f32' ? 3 : 6 };
  const isOne = m === 1;
  return specCase({
    name: `matmul few rows m ${m}`,
    shape: `${show(shape)}, ${shape.turns} weights in turn`,
    unit: isOne ? 'GB/s' : 'GFLOP/s',
    variants: { [dtype]: () => specOf(shape, dtype) },
    work: isOne ? bytesOf : flopOf,
    limit: (spec) => (isOne ? boundBy('stream') : roofline(flopOf(spec), bytesOf(spec), flopOf(spec))),
    ...(isOne && { also: 'paired' as const }),
    peers: dtype === 'bf16' ? (name) => name === 'pytorch bf16' : isOne ? noGpuJs : fast,
  });
};
const fewRows = [1, 2, 4, 8, 16, 64].flatMap((m) => [few(m, 'f32'), few(m, 'bf16')]);

export const matmulCases: readonly BenchCase[] = [...main, ...forms, ...odd, batched, ...lora, ...fewRows];
