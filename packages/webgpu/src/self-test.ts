/**
 * Compares the kernels with the reference backend on this very adapter. Drivers do compile wrongly (lavapipe of Mesa 25.0.7
 * turned an or with the sign bit into one with bit 30), so ask it before a long run does.
 */
import {
  adamwUpdate,
  type Backend,
  concat,
  dropout,
  gather,
  noGrad,
  RandomKey,
  referenceBackend,
  scatterAdd,
  scope,
  type Tensor,
  tensor,
  writeRows,
} from '@lorikeet/tensor';

export interface SelfTestResult {
  readonly kernel: string;
  readonly passed: boolean;
  /** The largest difference from the reference, relative to 1 or to the value if that is larger; NaN if only one is NaN. */
  readonly worst: number;
  readonly allowed: number;
  /** Set if the kernel failed altogether. */
  readonly error?: string;
}

interface Check {
  readonly kernel: string;
  readonly allowed: number;
  readonly compute: (backend: Backend) => Tensor;
}

/** Values between -2 and 2 in no order. */
const wave = (backend: Backend, ...shape: number[]): Tensor => {
  const size = shape.reduce((product, n) => product * n, 1);
  return tensor(
    Float32Array.from({ length: size }, (_, i) => 2 * Math.sin(1 + 1.7 * i)),
    { backend, shape },
  );
};
const places = (backend: Backend, n: number, below: number, shape: number[] = [n]): Tensor =>
  tensor(
    Int32Array.from({ length: n }, (_, i) => (i * 7) % below),
    { backend, dtype: 'i32', shape },
  );
const hostile = [Number.NaN, Number.POSITIVE_INFINITY, Number.NEGATIVE_INFINITY, 0, 1, -3];

const elementwise = (['exp', 'sin', 'cos', 'tanh', 'sigmoid', 'silu', 'gelu', 'relu', 'abs'] as const).map(
  (op): Check => ({ kernel: op, allowed: 2e-6, compute: (b) => wave(b, 3, 41)[op]() }),
);

const checks: readonly Check[] = [
  ...elementwise,
  { kernel: 'log', allowed: 2e-6, compute: (b) => wave(b, 99).abs().add(1e-3).log() },
  { kernel: 'pow', allowed: 4e-6, compute: (b) => wave(b, 9, 1).pow(tensor([-3, -2, 2, 3, 5], { backend: b })) },
  {
    kernel: 'maximum',
    allowed: 0,
    compute: (b) =>
      tensor(hostile, { backend: b })
        .reshape([6, 1])
        .maximum(tensor(hostile, { backend: b })),
  },
  {
    kernel: 'lt',
    allowed: 0,
    compute: (b) =>
      tensor(hostile, { backend: b })
        .reshape([6, 1])
        .lt(tensor(hostile, { backend: b })),
  },
  { kernel: 'ne', allowed: 0, compute: (b) => tensor(hostile, { backend: b }).ne(tensor(hostile, { backend: b })) },
  { kernel: 'cast to f16', allowed: 0, compute: (b) => wave(b, 333).mul(1e-4).cast('f16') },
  { kernel: 'cast to bf16', allowed: 0, compute: (b) => wave(b, 333).cast('bf16') },
  { kernel: 'dropout', allowed: 3e-7, compute: (b) => dropout(wave(b, 777), 0.4, new RandomKey(7, 4000000000)) },
  { kernel: 'adamw', allowed: 2e-6, compute: adamw },
  { kernel: 'matmul', allowed: 2e-5, compute: (b) => wave(b, 37, 70).matmul(wave(b, 70, 45)) },
  {
    kernel: 'matmul, transposed, bf16',
    allowed: 2e-5,
    compute: (b) => wave(b, 70, 37).matmul(wave(b, 45, 70).cast('bf16'), { transposeA: true, transposeB: true }),
  },
  { kernel: 'matmul, batched', allowed: 2e-5, compute: (b) => wave(b, 2, 1, 5, 9).matmul(wave(b, 3, 9, 7)) },
  {
    kernel: 'matmul, second pair',
    allowed: 2e-5,
    compute: (b) => wave(b, 7, 9).matmul(wave(b, 9, 5), { add: [wave(b, 7, 2), wave(b, 2, 5)], bias: wave(b, 5) }),
  },
  { kernel: 'sum', allowed: 2e-5, compute: (b) => wave(b, 3, 5000).sum([1]) },
  { kernel: 'sum of columns', allowed: 2e-5, compute: (b) => wave(b, 5000, 3).sum([0]) },
  { kernel: 'max', allowed: 0, compute: (b) => wave(b, 3, 500).max([1]) },
  { kernel: 'argmax', allowed: 0, compute: (b) => wave(b, 3, 500).argmax(1) },
  { kernel: 'softmax', allowed: 2e-6, compute: (b) => wave(b, 5, 301).softmax() },
  { kernel: 'permute', allowed: 0, compute: (b) => wave(b, 3, 4, 5).cast('bf16').permute([2, 0, 1]) },
  { kernel: 'slice and pad', allowed: 0, compute: (b) => wave(b, 6, 7).cast('f16').slice(1, 2, 5).pad(1, 1, 2) },
  { kernel: 'concat', allowed: 0, compute: (b) => concat([wave(b, 4, 3), wave(b, 4, 2)], 1) },
  { kernel: 'indexSelect', allowed: 0, compute: (b) => wave(b, 9, 5).indexSelect(places(b, 12, 9), 0) },
  { kernel: 'gather', allowed: 0, compute: (b) => gather(wave(b, 4, 9), places(b, 12, 9, [4, 3]), 1) },
  {
    kernel: 'scatterAdd',
    allowed: 2e-6,
    compute: (b) => scatterAdd(wave(b, 4, 9), places(b, 12, 9, [4, 3]), wave(b, 4, 3), 1),
  },
  { kernel: 'writeRows', allowed: 0, compute: rowsWritten },
];

function adamw(backend: Backend): Tensor {
  const [param, grad, m, v] = [0, 1, 2, 3].map((i) => wave(backend, 50).add(i).abs()) as [
    Tensor,
    Tensor,
    Tensor,
    Tensor,
  ];
  const rates = { lr: 0.01, beta1: 0.9, beta2: 0.999, eps: 1e-8, weightDecay: 0.01, weightDecayAfter: 0.02 };
  adamwUpdate.apply({ param, grad, m, v }, { ...rates, gradScale: 1, correction1: 0.1, correction2: 0.03 });
  return concat([param, m, v], 0);
}

function rowsWritten(backend: Backend): Tensor {
  const target = wave(backend, 7, 3).cast('bf16');
  noGrad(() => writeRows(target, wave(backend, 2, 3), 3));
  return target;
}

function worstDifference(got: ArrayLike<number>, want: ArrayLike<number>): number {
  let worst = got.length === want.length ? 0 : Number.NaN;
  for (let i = 0; i < want.length; i++) {
    const [g, w] = [got[i]!, want[i]!];
    if (Object.is(g, w) || g === w) continue;
    const difference = Math.abs(g - w) / Math.max(1, Math.abs(w));
    if (!(difference <= worst)) worst = difference;
    if (Number.isNaN(worst)) return worst;
  }
  return worst;
}

/** Runs every check; a result that is not `passed` names a kernel that must not be trusted on this adapter. */
export async function selfTest(backend: Backend): Promise<SelfTestResult[]> {
  const results: SelfTestResult[] = [];
  for (const { kernel, allowed, compute } of checks) {
    try {
      using got = scope(() => compute(backend));
      using want = scope(() => compute(referenceBackend()));
      const worst = worstDifference(await got.data(), await want.data());
      results.push({ kernel, passed: worst <= allowed, worst, allowed });
    } catch (error) {
      results.push({ kernel, passed: false, worst: Number.NaN, allowed, error: (error as Error).message });
    }
  }
  return results;
}
