/** Cross-entropy over logits, and fused with the last linear so that full logits never exist. */
import { edgesFor, noGrad, type Rule } from '../autograd.ts';
import { full, tensor, zeros } from '../creation.ts';
import type { DType } from '../dtype.ts';
import { ShapeError } from '../errors.ts';
import { defineOp, record, type Spec } from '../op.ts';
import { scope } from '../scope.ts';
import { showShape } from '../shape.ts';
import type { Tensor } from '../tensor.ts';

export interface CrossEntropyAttributes {
  /** Rows with this label count nothing; PyTorch's default -100. */
  readonly ignoreIndex: number;
  /** Mixes the target with the uniform distribution (Szegedy et al. 2016; torch's label_smoothing). */
  readonly labelSmoothing: number;
}

/** Losses and their gradients are computed in f32, or f64 where the logits are. */
const lossDType = (dtype: DType): DType => (dtype === 'f64' ? 'f64' : 'f32');

/** 1 where the row counts, as f32 [t]. */
const counts = (labels: Tensor, ignoreIndex: number): Tensor => labels.ne(ignoreIndex).cast('f32');

/** Log-probability of each row's label, and of all tokens on average; rows to ignore read token 0 and are masked by the caller. */
function parts(logits: Tensor, labels: Tensor, { ignoreIndex }: CrossEntropyAttributes) {
  const logp = logits.cast(lossDType(logits.dtype)).logSoftmax(-1);
  const safe = labels.eq(ignoreIndex).where(0, labels);
  const picked = logp.gather(safe.reshape([labels.size, 1]), 1).reshape([labels.size]);
  return { logp, picked };
}

/** Loss of each row [t], 0 where ignored: -(1 - s) log p[label] - s mean(log p). */
export const crossEntropyOp = defineOp<'logits' | 'labels', CrossEntropyAttributes>({
  name: 'crossEntropy',
  inputs: ['logits', 'labels'],
  shape: ({ logits, labels }, { labelSmoothing }) => {
    if (
      logits.shape.length !== 2 ||
      labels.shape.length !== 1 ||
      labels.shape[0] !== logits.shape[0] ||
      labels.dtype !== 'i32'
    )
      throw new ShapeError(
        `crossEntropy: logits must be [t, v] and labels [t] i32: got ${showShape(logits.shape)} and ${showShape(labels.shape)} ${labels.dtype}. Use reshape() and cast('i32').`,
      );
    if (!(labelSmoothing >= 0 && labelSmoothing < 1))
      throw new RangeError(`crossEntropy: labelSmoothing must be in [0, 1): got ${labelSmoothing}. Use 0 for none.`);
    return { shape: labels.shape, dtype: lossDType(logits.dtype) };
  },
  compose: ({ logits, labels }, attributes) => {
    const { logp, picked } = parts(logits, labels, attributes);
    const s = attributes.labelSmoothing;
    const smooth = s === 0 ? picked : picked.mul(1 - s).add(logp.mean(-1).mul(s));
    return labels.eq(attributes.ignoreIndex).where(0, smooth.neg());
  },
  gradient: {
    logits: {
      saves: ['logits', 'labels'],
      rule: ({ grad, saved, attributes }) =>
        crossEntropyGradOp.apply({ grad, logits: saved.logits!, labels: saved.labels! }, attributes)[0]!,
    },
  },
  samples: [
    {
      inputs: { logits: { shape: [4, 7] }, labels: { shape: [4], dtype: 'i32', values: [1, -100, 6, 0] } },
      attributes: { ignoreIndex: -100, labelSmoothing: 0 },
    },
    {
      inputs: { logits: { shape: [3, 5] }, labels: { shape: [3], dtype: 'i32', values: [4, 2, -100] } },
      attributes: { ignoreIndex: -100, labelSmoothing: 0.1 },
    },
  ],
  errors: [
    {
      inputs: { logits: { shape: [4, 7] }, labels: { shape: [3], dtype: 'i32' } },
      attributes: { ignoreIndex: -100, labelSmoothing: 0 },
      message: 'labels [t] i32',
    },
  ],
});

/** (softmax(logits) - target) * grad of each row, 0 where ignored. */
export const crossEntropyGradOp = defineOp<'grad' | 'logits' | 'labels', CrossEntropyAttributes>({
  name: 'crossEntropyGrad',
  inputs: ['grad', 'logits', 'labels'],
  shape: ({ grad, logits }) => ({ shape: logits.shape, dtype: grad.dtype }),
  compose: ({ grad, logits, labels }, { ignoreIndex, labelSmoothing: s }) => {
    const [t, v] = logits.shape as [number, number];
    const places = tensor(
      Int32Array.from({ length: v }, (_, i) => i),
      { backend: logits.backend, dtype: 'i32' },
    );
    const hit = labels.reshape([t, 1]).eq(places).cast(grad.dtype);
    const target = s === 0 ? hit : hit.mul(1 - s).add(s / v);
    const slope = logits.cast(lossDType(logits.dtype)).softmax(-1).sub(target);
    // Chosen, not multiplied by 0: a row to ignore may hold NaN.
    return labels
      .eq(ignoreIndex)
      .reshape([t, 1])
      .where(0, slope.mul(grad.reshape([t, 1])));
  },
  samples: [
    {
      inputs: {
        grad: { shape: [4] },
        logits: { shape: [4, 7] },
        labels: { shape: [4], dtype: 'i32', values: [1, -100, 6, 0] },
      },
      attributes: { ignoreIndex: -100, labelSmoothing: 0.1 },
    },
  ],
});

export interface ScaledCrossEntropyAttributes extends CrossEntropyAttributes {
  /** Multiplies the gradient, not the loss. */
  readonly scale: number;
}

/** Loss of each row [t] and the gradient of `scale` times their sum [t, v], whose exponentials are then computed once. */
export const crossEntropyWithGradOp = defineOp<'logits' | 'labels', ScaledCrossEntropyAttributes>({
  name: 'crossEntropyWithGrad',
  inputs: ['logits', 'labels'],
  shape: ({ logits, labels }, attributes) => [
    crossEntropyOp.options.shape({ logits, labels }, attributes) as Spec,
    { shape: logits.shape, dtype: lossDType(logits.dtype) },
  ],
  compose: ({ logits, labels }, { scale, ...attributes }) => {
    const grad = full(labels.shape, scale, { backend: logits.backend, dtype: lossDType(logits.dtype) });
    return [
      crossEntropyOp.apply({ logits, labels }, attributes)[0]!,
      crossEntropyGradOp.apply({ grad, logits, labels }, attributes)[0]!,
    ];
  },
  samples: [0, 0.1].map((labelSmoothing) => ({
    inputs: {
      logits: { shape: [4, 7], differentiable: false },
      labels: { shape: [4], dtype: 'i32', values: [1, -100, 6, 0] },
    },
    attributes: { ignoreIndex: -100, labelSmoothing, scale: 0.25 },
  })),
});

export interface CrossEntropyOptions extends Partial<CrossEntropyAttributes> {
  /** 'mean' divides by the number of rows that count (torch's mean). Default 'mean'. */
  readonly reduction?: 'none' | 'sum' | 'mean';
}

/** Cross-entropy of logits [t, v] against labels [t] (i32): a scalar, or [t] with reduction 'none'. All rows ignored: mean gives NaN in PyTorch, 0 here. */
export function crossEntropy(logits: Tensor, labels: Tensor, options: CrossEntropyOptions = {}): Tensor {
  const { ignoreIndex = -100, labelSmoothing = 0, reduction = 'mean' } = options;
  return scope(() => {
    const rows = crossEntropyOp.apply({ logits, labels }, { ignoreIndex, labelSmoothing })[0]!;
    if (reduction === 'none') return rows;
    const sum = rows.sum();
    return reduction === 'sum' ? sum : sum.div(counts(labels, ignoreIndex).sum().maximum(1));
  });
}

export interface LinearCrossEntropyOptions extends Partial<CrossEntropyAttributes> {
  /** The sum of losses is divided by this (default: the number of rows that count). Accumulation passes the window's count. */
  readonly normalizer?: number;
  /** Rows of logits that exist at a time. Default 256. */
  readonly chunkRows?: number;
}

/**
 * crossEntropy(hidden @ weight^T, labels) without the full logits: rows that count are gathered, their logits made chunk
 * by chunk, and the gradients computed in the same pass (as Liger Kernel's fused linear cross-entropy does), so nothing
 * of size [t, v] is kept. hidden [t, d], weight [v, d] (any floats; computed in f32), labels on the host and already shifted.
 * Returns the scalar loss in f32: 0 where no row counts.
 */
export function linearCrossEntropy(
  hidden: Tensor,
  weight: Tensor,
  labels: Int32Array | readonly number[],
  options: LinearCrossEntropyOptions = {},
): Tensor {
  const { ignoreIndex = -100, labelSmoothing = 0, chunkRows = 256 } = options;
  const op = 'linearCrossEntropy';
  if (
    hidden.rank !== 2 ||
    weight.rank !== 2 ||
    hidden.shape[1] !== weight.shape[1] ||
    labels.length !== hidden.shape[0]
  )
    throw new ShapeError(
      `${op}: hidden must be [t, d], weight [v, d], labels [t]: got ${showShape(hidden.shape)}, ${showShape(weight.shape)}, [${labels.length}]. Give one label a row of hidden.`,
    );
  if (!(Number.isInteger(chunkRows) && chunkRows > 0))
    throw new RangeError(`${op}: chunkRows must be an integer of at least 1: got ${chunkRows}. Leave it out for 256.`);
  if (options.normalizer !== undefined && !(options.normalizer > 0 && Number.isFinite(options.normalizer)))
    throw new RangeError(
      `${op}: normalizer must be a finite number above 0: got ${options.normalizer}. Leave it out to divide by the rows that count.`,
    );
  const rows: number[] = [];
  for (let i = 0; i < labels.length; i++) {
    const label = labels[i]!;
    if (label === ignoreIndex) continue;
    if (!(Number.isInteger(label) && label >= 0 && label < weight.shape[0]!))
      throw new RangeError(
        `${op}: labels must be ${ignoreIndex} or in 0 .. ${weight.shape[0]! - 1}: got ${label} at row ${i}. Do tokenizer and model belong together?`,
      );
    rows.push(i);
  }
  const normalizer = options.normalizer ?? Math.max(1, rows.length);
  const edges = edgesFor([hidden, weight]);
  const wants = { hidden: Boolean(edges?.[0]), weight: Boolean(edges?.[1]) };
  const attributes = { ignoreIndex, labelSmoothing };
  const { loss, saved } = noGrad(() =>
    chunkedLoss(hidden, weight, labels, rows, { normalizer, chunkRows, attributes, wants }),
  );
  if (!edges) return loss;
  const rules: Rule[] = ['hidden', 'weight'].map((name, i) =>
    edges[i] ? ({ grads, saved: s }) => s[name]!.mul(grads[0]!) : null,
  );
  const made = record({ op, edges, inputShapes: [hidden.shape, weight.shape], outputShapes: [[]], rules, saved }, [
    loss,
  ])[0]!;
  for (const t of Object.values(saved)) t.dispose();
  return made;
}

interface ChunkPlan {
  readonly normalizer: number;
  readonly chunkRows: number;
  readonly attributes: CrossEntropyAttributes;
  readonly wants: { readonly hidden: boolean; readonly weight: boolean };
}

function chunkedLoss(
  hidden: Tensor,
  weight: Tensor,
  labels: ArrayLike<number>,
  rows: readonly number[],
  plan: ChunkPlan,
) {
  const { backend } = hidden;
  const dtype = lossDType(hidden.dtype);
  return scope(() => {
    let loss = zeros([], { backend, dtype });
    let gradWeight: Tensor | null = plan.wants.weight ? zeros(weight.shape, { backend, dtype }) : null;
    const gradRows: Tensor[] = [];
    for (let start = 0; start < rows.length; start += plan.chunkRows) {
      const chunk = rows.slice(start, start + plan.chunkRows);
      const next = scope(() => {
        // In f32, so that logits of half-precision operands are not rounded before the loss.
        const h = hidden.indexSelect(tensor(chunk, { backend, dtype: 'i32' }), 0).cast(dtype);
        const y = tensor(
          chunk.map((r) => labels[r]!),
          { backend, dtype: 'i32' },
        );
        const logits = h.matmul(weight, { transposeB: true });
        const scale = 1 / plan.normalizer;
        const sumOf = (rows: Tensor): Tensor => rows.sum().mul(scale).add(loss);
        if (!plan.wants.hidden && !plan.wants.weight)
          return { total: sumOf(crossEntropyOp.apply({ logits, labels: y }, plan.attributes)[0]!) };
        const [rows, g] = crossEntropyWithGradOp.apply({ logits, labels: y }, { ...plan.attributes, scale }) as [
          Tensor,
          Tensor,
        ];
        const total = sumOf(rows);
        return {
          total,
          hidden: plan.wants.hidden ? g.matmul(weight) : null,
          weight: gradWeight && g.matmul(h, { transposeA: true }).add(gradWeight),
        };
      });
      loss.dispose();
      loss = next.total;
      if (next.hidden) gradRows.push(next.hidden);
      if (next.weight) {
        gradWeight?.dispose();
        gradWeight = next.weight;
      }
    }
    const saved: Record<string, Tensor> = {};
    if (plan.wants.hidden) saved.hidden = spreadRows(gradRows, rows, hidden, dtype);
    if (gradWeight) saved.weight = gradWeight;
    return { loss, saved };
  });
}

/** Gradients of the rows that count, at their places among zeros: [t, d]. */
function spreadRows(parts: readonly Tensor[], rows: readonly number[], hidden: Tensor, dtype: DType): Tensor {
  const { backend } = hidden;
  const [t, d] = hidden.shape as [number, number];
  if (parts.length === 0) return zeros([t, d], { backend, dtype });
  const all = parts[0]!.concat(parts.slice(1), 0);
  if (rows.length === t) return all;
  // Row r of the result is row places[r] of the joined rows, or the zero row behind them.
  const places = new Int32Array(t).fill(rows.length);
  rows.forEach((r, i) => {
    places[r] = i;
  });
  return all.pad(0, 0, 1).indexSelect(tensor(places, { backend, dtype: 'i32' }), 0);
}
