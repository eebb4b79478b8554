/**
 * Prints one hash of the results of every kernel family. Run in processes of their own with different threads and flags
 * (V8's flag is process-wide): the hashes must be equal. Usage: node same-bits.ts THREADS [revectorize]
 */
import {
  attention,
  crossEntropy,
  dequantize4bit,
  embedding,
  layerNorm,
  matmul4bit,
  quantize4bit,
  rmsNorm,
  rope,
  tensor,
} from '@lorikeet/tensor';
import { cpu } from '../index.ts';
import { drawFloats } from './draw.ts';

const [threads = '1', flag] = process.argv.slice(2);
const backend = await cpu({ threads: Number(threads), revectorize: flag === 'revectorize' ? 'auto' : false });
const made = (seed: number, ...shape: number[]) =>
  tensor(
    drawFloats(
      shape.reduce((a, b) => a * b, 1),
      seed,
    ),
    { backend, shape, requiresGrad: true },
  );

const [a, w, u, v, x, norm] = [
  made(1, 150, 300),
  made(2, 260, 300),
  made(3, 150, 16),
  made(4, 260, 16),
  made(5, 200, 3, 40),
  made(6, 40),
];
const [few, alone] = [made(12, 3, 3, 40), made(13, 300, 1, 40)];
/** Half-byte weights of 330 x 192, whole panels and edges, through all their kernels. */
const quantized = () => {
  const given = { quantType: 'nf4', blocksize: 64 } as const;
  const weight = { ...quantize4bit(made(9, 330, 192), given), ...given, shape: [330, 192], dtype: 'bf16' } as const;
  const [many, one] = [made(10, 50, 192), made(11, 1, 192)];
  const product = matmul4bit(many, weight);
  const gradient = product.silu().sum().backward().of(many);
  const int8 = matmul4bit(one, weight, { computeDtype: 'int8' });
  return [weight.packed, weight.absmax, dequantize4bit(weight), product, gradient, matmul4bit(one, weight), int8];
};
/** Norms, sums over columns, and rows read and added at repeated indices. */
const rows = () => {
  const [table, weight, bias] = [made(12, 30, 1100), made(13, 1100), made(14, 1100)];
  const ids = tensor(
    Int32Array.from({ length: 90 }, (_, i) => (i * i) % 23),
    { backend, dtype: 'i32' },
  );
  const normed = layerNorm(embedding(ids, table), weight, bias);
  const gradients = normed.tanh().sum().backward();
  return [normed, normed.sum([0]), normed.argmax(-1), ...[table, weight, bias].map((t) => gradients.of(t))];
};
const results = () => {
  const product = a.matmul(w, { transposeB: true, add: [u, v] });
  const labels = tensor(
    Int32Array.from({ length: 150 }, (_, i) => (i % 7 === 0 ? -100 : i)),
    { backend, dtype: 'i32' },
  );
  const loss = crossEntropy(product.mul(0.1), labels);
  const first = loss.backward();
  const turned = rope(rmsNorm(x, norm, 1e-5), made(7, 200, 20), made(8, 200, 20));
  const attended = attention(turned, turned, x, { lengths: [130, 70], slidingWindow: 90 });
  const second = attended.silu().sum().backward();
  const decoded = attention(few, x, x, { lengths: [1, 2], keyLengths: [150, 50], slidingWindow: 120 });
  // One head: its backward is cut into parts.
  const third = attention(alone, alone, alone, { lengths: [300] })
    .silu()
    .sum()
    .backward();
  return [
    ...quantized(),
    ...rows(),
    product,
    loss,
    attended,
    ...[a, w, u, v].map((t) => first.of(t)),
    ...[x, norm].map((t) => second.of(t)),
    decoded,
    third.of(alone),
  ];
};
let hash = 0xcbf29ce484222325n;
// Several rounds, so that later ones run V8's optimized code: it must not change a bit either.
for (let round = 0; round < 8; round++) {
  for (const t of results()) {
    for (const word of new Uint32Array((await t.bytes()).buffer))
      hash = BigInt.asUintN(64, (hash ^ BigInt(word)) * 0x100000001b3n);
  }
  if (round === 0) console.log(`first ${hash.toString(16)}`);
}
console.log(`all ${hash.toString(16)}`);
await backend.close();
