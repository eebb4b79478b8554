// biome-ignore-all format: rows of a table
import type { BackendName } from './backends.ts';

/** One thing broken on purpose, and the case that must notice. */
export interface Mutation {
  readonly name: string;
  readonly family: string;
  /** Relative to the repository. */
  readonly file: string;
  /** Text that occurs once in the file. */
  readonly from: string;
  readonly to: string;
  /** The case that must fail. */
  readonly fails: string;
  /** Default: the reference backend. */
  readonly backend?: BackendName;
  /** A limit is loosened: the case must no longer notice a disturbed recording, which fails --sensitivity. */
  readonly sensitivity?: true;
}

type Row = readonly [
  name: string,
  from: string,
  to: string,
  fails: string,
  options?: Pick<Mutation, 'backend' | 'sensitivity'>,
];

const breaking = (family: string, file: string, rows: readonly Row[]): Mutation[] =>
  rows.map(([name, from, to, fails, options]) => ({ name, family, file, from, to, fails, ...options }));

const ops: Mutation[] = [
  ...breaking('ops', 'packages/tensor/src/ops/elementwise.ts', [
    ['the gradient of tanh forgets the square', 'grad.mul(scalar(1).sub(out.mul(out)))', 'grad.mul(scalar(1).sub(out))', 'tanh/odd'],
    ['the gradient of silu loses a term', 'grad.mul(s.mul(x.mul(scalar(1).sub(s)).add(1)))', 'grad.mul(s)', 'silu/silu 1'],
    ['the gradient of gelu loses its density', 'grad.mul(cdf.add(x.mul(density)))', 'grad.mul(cdf)', 'gelu/odd'],
    ['the gradient of a divisor has the wrong sign', 'grad.mul(a).div(b.mul(b)).neg()', 'grad.mul(a).div(b.mul(b))', 'div/row'],
    ['a tie of maximum gives both all of the gradient', 'select(b.gt(a), grad, select(a.eq(b), grad.mul(0.5), 0)),\n  },\n});\nexport const minimum', 'select(b.ge(a), grad, 0),\n  },\n});\nexport const minimum', 'maximum/tie'],
  ]),
  ...breaking('ops', 'packages/tensor/src/ops/normalize.ts', [
    ['the gradient of softmax does not subtract the row', 'o.mul(g.sub(g.mul(o).sum(-1, keep)))', 'o.mul(g)', 'softmax/last'],
    ['the gradient of rmsNorm forgets what the norm depends on', '.sub(w.mul(s.mul(s).mul(s).mul(g.mul(w).mean(-1, keep))))', '', 'rmsNorm/odd'],
    ['rmsNorm adds eps outside of the root', 'w.mul(w.mul(w).mean(-1, keep).add(eps).rsqrt())', 'w.mul(w.mul(w).mean(-1, keep).rsqrt().add(eps))', 'rmsNorm/smaller than eps'],
  ]),
  ...breaking('ops', 'packages/tensor/src/ops/rope.ts', [
    ['the gradient of rope turns forward', '{ inverse: !inverse }', '{ inverse }', 'rope/full'],
  ]),
  ...breaking('ops', 'packages/tensor/src/ops/attention.ts', [
    ['the gradient of the queries forgets the scale', '.sub(delta).mul(p).mul(a.scale)', '.sub(delta).mul(p)', 'attention/scale'],
    ['gradients of grouped keys are not summed over their group', 'x.reshape([kv, h / kv, s, e]).sum([1])', 'x.reshape([kv, h / kv, s, e]).max([1])', 'attention/grouped'],
  ]),
  ...breaking('ops', 'packages/tensor/src/ops/matmul.ts', [
    ['the gradient of a right factor is a thousandth too large', 'call(a, grad, !transposeA, false)', 'call(a, grad, !transposeA, false).mul(1.001)', 'matmul/odd', {"backend":"cpu"}],
  ]),
  ...breaking('ops', 'packages/tensor/src/ops/loss.ts', [
    ['label smoothing spreads over one token too few', 'hit.mul(1 - s).add(s / v)', 'hit.mul(1 - s).add(s / (v - 1))', 'crossEntropy/smoothed'],
    ['a row to ignore counts in the mean', 'sum.div(counts(labels, ignoreIndex).sum().maximum(1))', 'sum.div(labels.size)', 'crossEntropy/mean'],
  ]),
  ...breaking('ops', 'packages/tensor/src/ops/reduce.ts', [
    ['the gradient of cumsum runs forward', 'reverse: !reverse', 'reverse', 'cumsum/axis 0'],
  ]),
];

const phi3: Mutation[] = [
  ...breaking('phi3', 'packages/phi3/src/rope-table.ts', [
    ['long factors begin one token late', 'sequenceLength > this.#original', 'sequenceLength > this.#original + 1', 'longrope/generate across the switch'],
    ['frequencies count all features of a head', '(2 * i) / rotaryDim', '(2 * i) / (2 * rotaryDim)', 'partial-rotary-tied/ragged'],
  ]),
  ...breaking('phi3', 'packages/phi3/src/model.ts', [
    ['the window is a token wider', 'q.attention(k, v, { lengths, keyLengths, slidingWindow, scale: e ** -0.5 })', 'q.attention(k, v, { lengths, keyLengths, slidingWindow: slidingWindow && slidingWindow + 1, scale: e ** -0.5 })', 'window/beyond the window, row'],
  ]),
  ...breaking('phi3', 'packages/phi3/src/sampling.ts', [
    ['negative logits are divided by the penalty', 'value < 0 ? value * penalty : value / penalty', 'value / penalty', 'process/repetitionPenalty alone'],
    ['the nucleus is what it should leave out', 'cumulative > 1 - p', 'cumulative > p', 'process/topP alone'],
  ]),
  ...breaking('phi3', 'packages/phi3/src/packed-cache.ts', [
    ['a batch goes on with the keys of a sequence that has ended', 'starts[old]!, this.#held[old]!', 'starts[i]!, this.#held[old]!', 'gqa/generate a batch padded on the left'],
  ]),
];

const lora: Mutation[] = [
  ...breaking('lora', 'packages/lora/src/low-rank.ts', [
    ['rsLoRA divides by the rank', 'useRslora ? Math.sqrt(r) : r', 'r', 'peft all-linear-rslora'],
  ]),
  ...breaking('lora', 'packages/tensor/src/ops/low-rank-matmul.ts', [
    ['no gradient reaches the layers below through the update', 'matmul(c.grad, c.saved.weight!, { add: [gradU(c), c.saved.a!] })', 'matmul(c.grad, c.saved.weight!)', 'peft all-linear-rslora'],
  ]),
];

const tokenizer: Mutation[] = [
  ...breaking('tokenizer', 'packages/tokenizer/src/decoding.ts', [
    ['broken bytes become one U+FFFD a run', '.repeat(bytes.length)', '', 'llama-like/any ids'],
  ]),
  ...breaking('tokenizer', 'packages/tokenizer/src/added-tokens.ts', [
    ['a single word is found inside another', '!token.singleWord || standsAlone(', 'token.singleWord || standsAlone(', 'llama-like/generated texts'],
  ]),
  ...breaking('tokenizer', 'packages/tokenizer/src/chat-templates.ts', [
    ['the template by name ends a turn without its line break', "'<|end|>\\\\n'", "'<|end|>'", 'llama-like/chats, phi3'],
  ]),
  ...breaking('tokenizer', 'packages/tokenizer/src/assistant-mask.ts', [
    ['the white space behind the end of an answer is not learned', 'closing.end + leadingSpace.exec(text.slice(closing.end))![0].length', 'closing.end', 'phi4-like/chats, phi3'],
    ['a token across the border of an answer is not masked in', 'isWhole ? shared : shared + 1', 'shared', 'llama-like/chats, bare'],
  ]),
];

const trainer: Mutation[] = [
  ...breaking('trainer', 'packages/phi3/src/neftune.ts', [
    ['NEFTune divides by the width alone', 'Math.sqrt(rowTokens * shape[1]!)', 'Math.sqrt(shape[1]!)', 'NEFTune', { backend: 'cpu' }],
  ]),
  ...breaking('trainer', 'packages/nn/src/clip-grad-norm.ts', [
    ['clipping starts at half of the norm', 'Math.min(1, maxNorm / (norm + 1e-6))', 'Math.min(1, maxNorm / (2 * norm + 1e-6))', 'plain', { backend: 'cpu' }],
  ]),
  ...breaking('trainer', 'packages/nn/src/schedules.ts', [
    ['warm-up rises a step late', 'step < warmup ? step / Math.max(1, warmup) :', 'step < warmup ? (step - 1) / Math.max(1, warmup) :', 'plain', { backend: 'cpu' }],
  ]),
  ...breaking('trainer', 'packages/nn/src/adamw.ts', [
    ['the second moment is not corrected', 'correction2: Math.sqrt(1 - beta2 ** step)', 'correction2: 1', 'plain', { backend: 'cpu' }],
  ]),
];

const nn: Mutation[] = [
  ...breaking('nn', 'packages/tensor/src/ops/update.ts', [
    ['SGD keeps none of the momentum in a Nesterov step', 'g.add(b.mul(decay))', 'g.add(b)', 'optimizer SGD, nesterov'],
    ['Lion takes its momentum from the wrong rate', 'm.mul(beta2).add(g.mul(enter2))]', 'm.mul(beta1).add(g.mul(enter1))]', 'optimizer Lion'],
  ]),
  ...breaking('nn', 'packages/nn/src/initialize.ts', [
    ['weights of Linear are drawn twice as wide', 'Math.sqrt(6 / ((1 + a * a) * Math.max(1, fanIn(shape))))', 'Math.sqrt(24 / ((1 + a * a) * Math.max(1, fanIn(shape))))', 'initialiser Linear 0'],
  ]),
  ...breaking('nn', 'packages/nn/src/schedules.ts', [
    ['polynomial forgets its end', '(1 - endFactor) * (1 - progress(step, total, warmup)) ** power + endFactor', '(1 - progress(step, total, warmup)) ** power', 'schedule polynomial warmup 17 power 2 endFactor 0.1'],
  ]),
];

const quantization: Mutation[] = [
  ...breaking('quantization', 'packages/tensor/src/ops/code-4bit.ts', [
    ['NF4 has another outermost quantile', 'Math.fround(0.9677083)', 'Math.fround(0.9677)', 'code nf4'],
    ["FP4's subnormal is an eighth", '[0, 1 / 16, 8, 12, 4, 6, 2, 3]', '[0, 1 / 8, 8, 12, 4, 6, 2, 3]', 'code fp4'],
  ]),
  ...breaking('quantization', 'packages/tensor/src/ops/quantize-4bit.ts', [
    ['a value on a border goes up', 'clamped <= border', 'clamped < border', 'quantize4bit nf4 on its borders'],
    ['the even element lies in the low nibble', 'made.nibbles[i]! * 16 + made.nibbles[i + 1]!', 'made.nibbles[i + 1]! * 16 + made.nibbles[i]!', 'quantize4bit nf4 blocks of 64'],
  ]),
  ...breaking('quantization', 'packages/tensor/src/ops/quantize-8bit.ts', [
    ['the dynamic map loses a decade', '10 ** (i - exponentBits + 1)', '10 ** (i - exponentBits)', 'code dynamic'],
  ]),
  ...breaking('quantization', 'packages/lora/src/quantize/quantize-weight.ts', [
    ['scales are quantized without taking their mean off', 'absmax[i]! - offset', 'absmax[i]!', 'quantize4bit nf4 f32 double [76, 64]'],
  ]),
];

const data: Mutation[] = [
  ...breaking('data', 'packages/trainer/src/data/numpy-generator.ts', [
    ['PCG64 turns by one bit more', 'this.#state >> 122n', 'this.#state >> 121n', 'shuffle 256'],
  ]),
  ...breaking('data', 'packages/trainer/src/rouge/porter-stemmer.ts', [
    ['a double consonant stays at the end of a stem', "'lsz'.includes(stem.at(-1)!) ? stem : stem.slice(0, -1)", 'stem', 'stems'],
  ]),
  ...breaking('data', 'packages/trainer/src/rouge/rouge.ts', [
    ['the harmonic mean of ROUGE is the arithmetic one', '(2 * precision * recall) / (precision + recall)', '(precision + recall) / 2', 'rouge of words'],
  ]),
  ...breaking('data', 'packages/trainer/src/data/pack-examples.ts', [
    ['rows are cut a token early', '[i * maxLength, (i + 1) * maxLength]', '[i * maxLength, (i + 1) * maxLength - 1]', 'pack wrapped 7 rows'],
  ]),
];

const limits: Mutation[] = [
  ...breaking('ops', 'conformance/tolerances.ts', [
    ['f32 may be five percent off', 'const single: Limit = each(1.3e-6, 1e-5);', 'const single: Limit = each(5e-2, 1e-5);', 'sub/same', {"sensitivity":true}],
    ['bf16 may be a tenth off', 'bf16: each(1.6e-2, 1e-5)', 'bf16: each(0.1, 1e-5)', 'exp/bf16', {"sensitivity":true}],
    ['the bound of a product grows a million times', 'scale: roundsProducts(backend) ? 2 : 1', 'scale: 1e6', 'matmul/small', {"sensitivity":true}],
  ]),
  ...breaking('lora', 'conformance/tolerances.ts', [
    ['gradients of models may turn', "case 'gradient':\n      return whole(1e-4, 0.999999);", "case 'gradient':\n      return whole(0.5, 0.8);", 'peft all-linear-rslora', {"sensitivity":true}],
  ]),
];

const runs: Mutation[] = [
  ...breaking('runs', 'packages/phi3/src/loss.ts', [
    ['the last token of a sequence is not learned', 'i < start + length - 1', 'i < start + length - 2', 'run 0', { backend: 'cpu' }],
  ]),
  ...breaking('runs', 'packages/trainer/src/accumulate-window.ts', [
    ['each micro-batch is divided by its own tokens', 'loss(batch, { normalizer })', 'loss(batch, { normalizer: batch.trainedTokens })', 'run 7', { backend: 'cpu' }],
  ]),
  ...breaking('runs', 'packages/tensor/src/ops/update.ts', [
    ['AdamW does not decay', 'x.param.mul(x.keptBefore).sub', 'x.param.sub', 'run 0', { backend: 'cpu' }],
  ]),
];

const gpujs: Mutation[] = [
  ...breaking('gpujs', 'packages/gpujs/src/kernels.ts', [
    ['a softmax is not shifted by its maximum', 'return Math.exp(x[row + place] - top) / total;', 'return Math.exp(x[row + place]) / total;', 'softmax/last', { backend: 'gpujs-cpu' }],
  ]),
];

export const mutations: readonly Mutation[] = [...ops, ...phi3, ...lora, ...tokenizer, ...trainer, ...nn, ...quantization, ...data, ...limits, ...runs, ...gpujs];
