/**
 * Runs one kernel family once. With `--no-liftoff` V8 optimizes a function at its first call, and with
 * `--trace-wasm-revectorize` it prints what it paired. Usage: node FLAGS paired.ts FAMILY
 */
import {
  attention,
  dropout,
  fromBytes,
  matmul4bit,
  ops,
  quantize4bit,
  randomKey,
  rmsNorm,
  tensor,
} from '@lorikeet/tensor';
import { CpuBackend } from '../backend.ts';
import { choose } from '../features.ts';
import { LinearMemory } from '../memory.ts';
import { Team } from '../team.ts';
import { drawFloats } from './draw.ts';

// Not cpu(): its self-test would run, and so compile, every family.
const backend = new CpuBackend(
  await Team.start(new LinearMemory({ shared: true }), 1),
  choose({ threads: 1, revectorize: 'auto' }),
);
const x = tensor(drawFloats(128 * 128, 1), { backend, shape: [128, 128] });
const row = tensor(drawFloats(128, 2), { backend, shape: [1, 128] });
const heads = x.reshape([128, 4, 32]);

// Not quantize4bit(x): a family must run its own kernel alone.
const weight = {
  packed: fromBytes(new Uint8Array(64 * 128), { backend, shape: [64 * 128, 1], dtype: 'u8' }),
  absmax: tensor(drawFloats(256, 3, 0.1), { backend }),
  ...({ quantType: 'nf4', blocksize: 64, shape: [128, 128], dtype: 'bf16' } as const),
};

/** The backward alone: the forward is in the same module. */
const attentionGrad = () => {
  const op = ops.find(({ name }) => name === 'attentionGrad')! as unknown as {
    apply(inputs: object, attributes: object): (typeof x)[];
  };
  const lengths = { lengths: [128], keyLengths: [128], slidingWindow: null, scale: 0.1, causal: true };
  const lse = tensor(drawFloats(4 * 128, 4), { backend, shape: [4, 128] });
  return op.apply({ grad: heads, q: heads, k: heads, v: heads, out: heads, lse }, lengths)[0]!;
};
const lastHeads = row.reshape([1, 4, 32]);

const families = {
  elementwise: () => x.swiglu(x),
  rows: () => x.softmax(-1),
  reduction: () => x.sum(),
  columns: () => x.sum([0]),
  norms: () => rmsNorm(x, row.reshape([128]), 1e-5),
  dropout: () => dropout(x, 0.1, randomKey(1)),
  matmul: () => x.matmul(x),
  smallMatmul: () => row.matmul(x, { transposeB: true }),
  fewRows: () => x.reshape([8, 2048]).matmul(x.reshape([8, 2048]), { transposeB: true }),
  quantize4bit: () => quantize4bit(x, { quantType: 'fp4', blocksize: 32 }).packed,
  matmul4bit: () => matmul4bit(x, weight),
  rows4bit: () => matmul4bit(row, weight),
  attention: () => attention(heads, heads, heads, { lengths: [128] }),
  attentionGrad,
  attentionDecode: () => attention(lastHeads, heads, heads, { lengths: [1], keyLengths: [128] }),
};

const family = process.argv[2] as keyof typeof families;
families[family]().dispose();
await backend.close();
