import type { BackendName } from './backends.ts';

/** One thing broken on purpose, and the case that must notice. */
export interface Mutation {
  readonly name: string;
  /** Relative to the repository. */
  readonly file: string;
  /** Text that occurs once in the file. */
  readonly from: string;
  readonly to: string;
  readonly family: string;
  /** The case that must fail. */
  readonly fails: string;
  /** Default: the reference backend. */
  readonly backend?: BackendName;
  /** A limit is loosened: the case must fail to notice a disturbed recording, which is a failure of --sensitivity. */
  readonly sensitivity?: true;
}

const elementwise = 'packages/tensor/src/ops/elementwise.ts';
const normalize = 'packages/tensor/src/ops/normalize.ts';
const attention = 'packages/tensor/src/ops/attention.ts';
const loss = 'packages/tensor/src/ops/loss.ts';
const matmul = 'packages/tensor/src/ops/matmul.ts';
const tolerances = 'conformance/tolerances.ts';

const gradientRules: Mutation[] = [
  {
    name: 'the gradient of tanh forgets the square',
    file: elementwise,
    from: 'grad.mul(scalar(1).sub(out.mul(out)))',
    to: 'grad.mul(scalar(1).sub(out))',
    family: 'ops',
    fails: 'tanh/odd',
  },
  {
    name: 'the gradient of silu loses a term',
    file: elementwise,
    from: 'grad.mul(s.mul(x.mul(scalar(1).sub(s)).add(1)))',
    to: 'grad.mul(s)',
    family: 'ops',
    fails: 'silu/silu 1',
  },
  {
    name: 'the gradient of gelu loses its density',
    file: elementwise,
    from: 'grad.mul(cdf.add(x.mul(density)))',
    to: 'grad.mul(cdf)',
    family: 'ops',
    fails: 'gelu/odd',
  },
  {
    name: 'the gradient of a divisor has the wrong sign',
    file: elementwise,
    from: 'grad.mul(a).div(b.mul(b)).neg()',
    to: 'grad.mul(a).div(b.mul(b))',
    family: 'ops',
    fails: 'div/row',
  },
  {
    name: 'a tie of maximum gives both all of the gradient',
    file: elementwise,
    from: 'select(b.gt(a), grad, select(a.eq(b), grad.mul(0.5), 0)),\n  },\n});\nexport const minimum',
    to: 'select(b.ge(a), grad, 0),\n  },\n});\nexport const minimum',
    family: 'ops',
    fails: 'maximum/tie',
  },
  {
    name: 'the gradient of softmax does not subtract the row',
    file: normalize,
    from: 'o.mul(g.sub(g.mul(o).sum(-1, keep)))',
    to: 'o.mul(g)',
    family: 'ops',
    fails: 'softmax/last',
  },
  {
    name: 'the gradient of rmsNorm forgets what the norm depends on',
    file: normalize,
    from: '.sub(w.mul(s.mul(s).mul(s).mul(g.mul(w).mean(-1, keep))))',
    to: '',
    family: 'ops',
    fails: 'rmsNorm/odd',
  },
  {
    name: 'rmsNorm adds eps outside of the root',
    file: normalize,
    from: 'w.mul(w.mul(w).mean(-1, keep).add(eps).rsqrt())',
    to: 'w.mul(w.mul(w).mean(-1, keep).rsqrt().add(eps))',
    family: 'ops',
    fails: 'rmsNorm/smaller than eps',
  },
  {
    name: 'the gradient of rope turns forward',
    file: 'packages/tensor/src/ops/rope.ts',
    from: '{ inverse: !inverse }',
    to: '{ inverse }',
    family: 'ops',
    fails: 'rope/full',
  },
  {
    name: 'the gradient of the queries forgets the scale',
    file: attention,
    from: '.sub(delta).mul(p).mul(a.scale)',
    to: '.sub(delta).mul(p)',
    family: 'ops',
    fails: 'attention/scale',
  },
  {
    name: 'gradients of grouped keys are not summed over their group',
    file: attention,
    from: 'x.reshape([kv, h / kv, s, e]).sum([1])',
    to: 'x.reshape([kv, h / kv, s, e]).max([1])',
    family: 'ops',
    fails: 'attention/grouped',
  },
  {
    name: 'the gradient of a right factor is a thousandth too large',
    file: matmul,
    from: 'call(a, grad, !transposeA, false)',
    to: 'call(a, grad, !transposeA, false).mul(1.001)',
    family: 'ops',
    fails: 'matmul/odd',
    backend: 'cpu',
  },
  {
    name: 'label smoothing spreads over one token too few',
    file: loss,
    from: 'hit.mul(1 - s).add(s / v)',
    to: 'hit.mul(1 - s).add(s / (v - 1))',
    family: 'ops',
    fails: 'crossEntropy/smoothed',
  },
  {
    name: 'a row to ignore counts in the mean',
    file: loss,
    from: 'sum.div(counts(labels, ignoreIndex).sum().maximum(1))',
    to: 'sum.div(labels.size)',
    family: 'ops',
    fails: 'crossEntropy/mean',
  },
  {
    name: 'the gradient of cumsum runs forward',
    file: 'packages/tensor/src/ops/reduce.ts',
    from: 'reverse: !reverse',
    to: 'reverse',
    family: 'ops',
    fails: 'cumsum/axis 0',
  },
];

const models: Mutation[] = [
  {
    name: 'long factors begin one token late',
    file: 'packages/phi3/src/rope-table.ts',
    from: 'sequenceLength > this.#original',
    to: 'sequenceLength > this.#original + 1',
    family: 'phi3',
    fails: 'longrope/generate across the switch',
  },
  {
    name: 'frequencies count all features of a head',
    file: 'packages/phi3/src/rope-table.ts',
    from: '(2 * i) / rotaryDim',
    to: '(2 * i) / (2 * rotaryDim)',
    family: 'phi3',
    fails: 'partial-rotary-tied/three sequences, row',
  },
  {
    name: 'the window is a token wider',
    file: 'packages/phi3/src/model.ts',
    from: 'q.attention(k, v, { lengths, keyLengths, slidingWindow, scale: e ** -0.5 })',
    to: 'q.attention(k, v, { lengths, keyLengths, slidingWindow: slidingWindow && slidingWindow + 1, scale: e ** -0.5 })',
    family: 'phi3',
    fails: 'window/beyond the window, row',
  },
  {
    name: 'negative logits are divided by the penalty',
    file: 'packages/phi3/src/sampling.ts',
    from: 'value < 0 ? value * penalty : value / penalty',
    to: 'value / penalty',
    family: 'phi3',
    fails: 'process/repetitionPenalty alone',
  },
  {
    name: 'rsLoRA divides by the rank',
    file: 'packages/lora/src/low-rank.ts',
    from: 'useRslora ? Math.sqrt(r) : r',
    to: 'r',
    family: 'lora',
    fails: 'peft all-linear-rslora',
  },
];

const texts: Mutation[] = [
  {
    name: 'a token across the border of an answer is not masked in',
    file: 'packages/tokenizer/src/assistant-mask.ts',
    from: 'isWhole ? shared : shared + 1',
    to: 'shared',
    family: 'tokenizer',
    fails: 'llama-like/chats, phi3',
  },
];

const training: Mutation[] = [
  {
    name: 'NEFTune divides by the width alone',
    file: 'packages/phi3/src/neftune.ts',
    from: 'Math.sqrt(rowTokens * shape[1]!)',
    to: 'Math.sqrt(shape[1]!)',
    family: 'trainer',
    fails: 'NEFTune',
  },
  {
    name: 'clipping starts at half of the norm',
    file: 'packages/nn/src/clip-grad-norm.ts',
    from: 'Math.min(1, maxNorm / (norm + 1e-6))',
    to: 'Math.min(1, maxNorm / (2 * norm + 1e-6))',
    family: 'trainer',
    fails: 'plain',
  },
  {
    name: 'warm-up rises a step late',
    file: 'packages/nn/src/schedules.ts',
    from: 'step < warmup ? step / Math.max(1, warmup) :',
    to: 'step < warmup ? (step - 1) / Math.max(1, warmup) :',
    family: 'trainer',
    fails: 'plain',
  },
  {
    name: 'the second moment is not corrected',
    file: 'packages/nn/src/adamw.ts',
    from: 'correction2: Math.sqrt(1 - beta2 ** step)',
    to: 'correction2: 1',
    family: 'trainer',
    fails: 'plain',
  },
];

const limits: Mutation[] = [
  {
    name: 'f32 may be five percent off',
    file: tolerances,
    from: 'const single: Limit = each(1.3e-6, 1e-5);',
    to: 'const single: Limit = each(5e-2, 1e-5);',
    family: 'ops',
    fails: 'sub/same',
    sensitivity: true,
  },
  {
    name: 'bf16 may be a tenth off',
    file: tolerances,
    from: 'bf16: each(1.6e-2, 1e-5)',
    to: 'bf16: each(0.1, 1e-5)',
    family: 'ops',
    fails: 'exp/bf16',
    sensitivity: true,
  },
  {
    name: 'the bound of a product grows a million times',
    file: tolerances,
    from: "scale: backend === 'cpu' || isGpu(backend) ? 2 : 1",
    to: 'scale: 1e6',
    family: 'ops',
    fails: 'matmul/small',
    sensitivity: true,
  },
  {
    name: 'gradients of models may turn',
    file: tolerances,
    from: "case 'gradient':\n      return whole(1e-4, 0.999999);",
    to: "case 'gradient':\n      return whole(0.5, 0.8);",
    family: 'lora',
    fails: 'peft all-linear-rslora',
    sensitivity: true,
  },
];

export const mutations: readonly Mutation[] = [...gradientRules, ...models, ...texts, ...training, ...limits];
