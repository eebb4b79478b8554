import { tensor } from '../creation.ts';
import { ShapeError } from '../errors.ts';
import { defineOp, type Spec } from '../op.ts';
import { showShape } from '../shape.ts';
import type { Tensor } from '../tensor.ts';

export interface AttentionAttributes {
  /** Query tokens of each sequence in the padding-free batch; they sum to t. */
  readonly lengths: readonly number[];
  /** Key tokens of each sequence (default: lengths). Longer than lengths when keys come from a cache: the queries are the last tokens. */
  readonly keyLengths: readonly number[];
  /** Each query sees this many keys at most, itself included; null: all before it. */
  readonly slidingWindow: number | null;
  /** Multiplies q . k; default e^-0.5. */
  readonly scale: number;
  /** False: every query sees every key of its sequence. */
  readonly causal: boolean;
}

const total = (lengths: readonly number[]): number => lengths.reduce((s, n) => s + n, 0);

function check(q: Spec, k: Spec, v: Spec, a: AttentionAttributes): [t: number, h: number, e: number] {
  const show = `q ${showShape(q.shape)}, k ${showShape(k.shape)}, v ${showShape(v.shape)}`;
  const [t, h, e] = q.shape as [number, number, number];
  if (q.shape.length !== 3 || k.shape.length !== 3 || showShape(k.shape) !== showShape(v.shape) || k.shape[2] !== e)
    throw new ShapeError(
      `attention: q must be [t, h, e], k and v [s, kv, e]: got ${show}. Use reshape() to split heads.`,
    );
  if (h % k.shape[1]! !== 0)
    throw new ShapeError(
      `attention: query heads must be a multiple of key-value heads: got ${h} and ${k.shape[1]}. Check the model's head counts.`,
    );
  if (total(a.lengths) !== t || total(a.keyLengths) !== k.shape[0] || a.lengths.length !== a.keyLengths.length)
    throw new ShapeError(
      `attention: lengths must sum to ${t} and keyLengths to ${k.shape[0]}, one a sequence: got [${a.lengths}] and [${a.keyLengths}]. Pass the batch's lengths.`,
    );
  if (a.causal && a.lengths.some((n, i) => n > a.keyLengths[i]!))
    throw new ShapeError(
      `attention: a sequence needs at least as many keys as queries: got lengths [${a.lengths}], keyLengths [${a.keyLengths}]. Queries are a sequence's last tokens.`,
    );
  if (a.slidingWindow !== null && !(Number.isInteger(a.slidingWindow) && a.slidingWindow > 0))
    throw new RangeError(
      `attention: slidingWindow must be null or an integer of at least 1: got ${a.slidingWindow}. Use null for no window.`,
    );
  return [t, h, e];
}

/** Calls visit(query, firstKey, endKey) for every query token: the keys it may see are a range. */
export function eachVisibleRange(
  a: AttentionAttributes,
  visit: (query: number, first: number, end: number) => void,
): void {
  let [q, k] = [0, 0];
  a.lengths.forEach((n, i) => {
    const m = a.keyLengths[i]!;
    for (let j = 0; j < n; j++) {
      const end = a.causal ? m - n + j + 1 : m;
      const first = a.slidingWindow === null ? 0 : Math.max(0, end - a.slidingWindow);
      visit(q + j, k + first, k + end);
    }
    q += n;
    k += m;
  });
}

function maskOf(q: Tensor, s: number, a: AttentionAttributes): Tensor {
  const [t] = q.shape as [number];
  const visible = new Uint8Array(t * s);
  eachVisibleRange(a, (query, first, end) => visible.fill(1, query * s + first, query * s + end));
  return tensor(visible, { backend: q.backend, dtype: 'u8', shape: [1, t, s] });
}

/** [s, kv, e] -> [h, s, e], each key-value head repeated for its group of query heads. */
function spread(k: Tensor, h: number): Tensor {
  const [s, kv, e] = k.shape as [number, number, number];
  const heads = k.permute([1, 0, 2]);
  if (kv === h) return heads;
  return heads
    .reshape([kv, 1, s, e])
    .expand([kv, h / kv, s, e])
    .reshape([h, s, e]);
}

/** The transpose of `spread`: groups summed, back to [s, kv, e]. */
function gatherGroups(x: Tensor, kv: number): Tensor {
  const [h, s, e] = x.shape as [number, number, number];
  const summed = kv === h ? x : x.reshape([kv, h / kv, s, e]).sum([1]);
  return summed.permute([1, 0, 2]);
}

// A finite mask: WGSL may assume that infinities do not occur.
const masked = -1e30;

function scoresOf(q: Tensor, k: Tensor, a: AttentionAttributes): Tensor {
  const scores = q.permute([1, 0, 2]).matmul(spread(k, q.shape[1]!), { transposeB: true }).mul(a.scale);
  return maskOf(q, k.shape[0]!, a).where(scores, masked);
}

const sample = (
  t: number,
  h: number,
  kv: number,
  e: number,
  attributes: Partial<AttentionAttributes> & { lengths: number[] },
) => {
  const keyLengths = attributes.keyLengths ?? attributes.lengths;
  const s = total(keyLengths);
  return {
    inputs: { q: { shape: [t, h, e] }, k: { shape: [s, kv, e] }, v: { shape: [s, kv, e] } },
    attributes: { slidingWindow: null, scale: e ** -0.5, causal: true, ...attributes, keyLengths },
  };
};

/**
 * Scaled dot-product attention over padding-free sequences: softmax(q k^T * scale) v, causal, within each sequence, with
 * grouped key-value heads and an optional sliding window (Phi-3: kv_idx > q_idx - window). Output 1 is the log-sum-exp
 * [h, t] that the backward needs.
 */
export const attentionOp = defineOp<'q' | 'k' | 'v', AttentionAttributes>({
  name: 'attention',
  inputs: ['q', 'k', 'v'],
  columnBlocks: ['q', 'k', 'v'],
  shape: ({ q, k, v }, a) => {
    const [t, h] = check(q, k, v, a);
    return [
      { shape: q.shape, dtype: q.dtype },
      { shape: [h, t], dtype: q.dtype === 'f64' ? 'f64' : 'f32' },
    ];
  },
  compose: ({ q, k, v }, a) => {
    const scores = scoresOf(q, k, a);
    const top = scores.max(-1, { keepDims: true });
    const e = scores.sub(top).exp();
    const denominator = e.sum(-1, { keepDims: true });
    const out = e.div(denominator).matmul(spread(v, q.shape[1]!)).permute([1, 0, 2]);
    return [out, top.add(denominator.log()).reshape([q.shape[1]!, q.shape[0]!])];
  },
  gradient: {
    q: { saves: ['q', 'k', 'v', 'out0', 'out1'], rule: (c) => gradients(c)[0]! },
    k: { saves: ['q', 'k', 'v', 'out0', 'out1'], rule: (c) => gradients(c)[1]! },
    v: { saves: ['q', 'k', 'v', 'out0', 'out1'], rule: (c) => gradients(c)[2]! },
  },
  samples: [
    sample(5, 2, 2, 4, { lengths: [5] }),
    sample(7, 4, 2, 6, { lengths: [3, 1, 3] }),
    sample(6, 2, 1, 8, { lengths: [6], slidingWindow: 3 }),
    sample(2, 2, 2, 4, { lengths: [1, 1], keyLengths: [4, 2] }),
    sample(4, 2, 2, 4, { lengths: [4], causal: false }),
  ],
  errors: [
    { ...sample(5, 2, 2, 4, { lengths: [4] }), message: 'lengths must sum' },
    { ...sample(5, 3, 2, 4, { lengths: [5] }), message: 'multiple of key-value heads' },
    { ...sample(5, 2, 2, 4, { lengths: [5], slidingWindow: 0 }), message: 'slidingWindow' },
  ],
});

const gradients = ({
  once,
  grad,
  saved,
  attributes,
}: {
  once<T>(f: () => T): T;
  grad: Tensor;
  saved: Readonly<Record<string, Tensor>>;
  attributes: AttentionAttributes;
}): Tensor[] =>
  once(() => {
    const { q, k, v, out0, out1 } = saved;
    return attentionGradOp.apply({ grad, q: q!, k: k!, v: v!, out: out0!, lse: out1! }, attributes);
  });

/** dq, dk, dv with p = exp(scores - lse): dv = p^T g, ds = p * (g v^T - sum(g * out)) * scale, dq = ds k, dk = ds^T q. */
export const attentionGradOp = defineOp<'grad' | 'q' | 'k' | 'v' | 'out' | 'lse', AttentionAttributes>({
  name: 'attentionGrad',
  inputs: ['grad', 'q', 'k', 'v', 'out', 'lse'],
  columnBlocks: ['q', 'k', 'v'],
  shape: ({ grad, q, k, v }) => [q, k, v].map(({ shape }) => ({ shape, dtype: grad.dtype })),
  compose: ({ grad, q, k, v, out, lse }, a) => {
    const [t, h] = q.shape as [number, number];
    const kv = k.shape[1]!;
    const p = scoresOf(q, k, a)
      .sub(lse.reshape([h, t, 1]))
      .exp();
    const g = grad.permute([1, 0, 2]);
    const delta = grad.mul(out).sum(-1).transpose(0, 1).reshape([h, t, 1]);
    const ds = g.matmul(spread(v, h), { transposeB: true }).sub(delta).mul(p).mul(a.scale);
    const dq = ds.matmul(spread(k, h)).permute([1, 0, 2]);
    const dk = ds.matmul(q.permute([1, 0, 2]), { transposeA: true });
    const dv = p.matmul(g, { transposeA: true });
    return [dq, gatherGroups(dk, kv), gatherGroups(dv, kv)];
  },
  samples: [
    {
      inputs: {
        ...{ grad: { shape: [5, 4, 6] }, q: { shape: [5, 4, 6] }, k: { shape: [5, 2, 6] }, v: { shape: [5, 2, 6] } },
        ...{ out: { shape: [5, 4, 6] }, lse: { shape: [4, 5], low: 1, high: 3 } },
      },
      attributes: sample(5, 4, 2, 6, { lengths: [2, 3], slidingWindow: 2 }).attributes,
    },
  ],
});

export interface AttentionOptions extends Partial<Omit<AttentionAttributes, 'lengths'>> {
  readonly lengths: readonly number[];
}

/** q [t, h, e], k and v [s, kv, e] -> [t, h, e]; see AttentionAttributes. Causal by default. */
export function attention(q: Tensor, k: Tensor, v: Tensor, options: AttentionOptions): Tensor {
  const { lengths, keyLengths = lengths, slidingWindow = null, scale = q.shape[2]! ** -0.5, causal = true } = options;
  const [out, lse] = attentionOp.apply({ q, k, v }, { lengths, keyLengths, slidingWindow, scale, causal });
  lse!.dispose();
  return out!;
}
