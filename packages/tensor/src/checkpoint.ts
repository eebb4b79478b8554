import {
  edgesFor,
  firstNewId,
  type GradientContext,
  GradNode,
  noGrad,
  probe,
  type Rule,
  recorded,
  recordingNow,
  walk,
} from './autograd.ts';
import type { DType } from './dtype.ts';
import { cast } from './ops/layout.ts';
import { restoreRandom, snapshotRandom } from './random-context.ts';
import { assertSync, openScope, scope, track } from './scope.ts';
import { sameShape, showShape } from './shape.ts';
import type { Tensor } from './tensor.ts';

/**
 * fn(...inputs) without keeping its inner values: the backward runs fn a second time (Chen et al. 2016; torch's
 * use_reentrant=False). Dropout repeats its masks. Tensors that fn closes over get gradients too; they must live, as they
 * are, until backward. fn must do the same both times.
 */
export function checkpoint(fn: (...inputs: Tensor[]) => Tensor, ...inputs: Tensor[]): Tensor {
  return checkpointIn(null, fn, ...inputs);
}

/**
 * checkpoint that keeps the f32 inputs through which a gradient flows in `storage` (bf16: half the bytes) and widens them
 * for the second run; null keeps all as they are. Results are those of `fn` on the inputs themselves. Gradients are those
 * of `fn` at the rounded inputs: each element is off by at most half a unit in the last place of `storage` (2^-9 of its
 * size in bf16), and no error is carried from one checkpoint to the next in the forward.
 */
export function checkpointIn(
  storage: 'bf16' | 'f16' | null,
  fn: (...inputs: Tensor[]) => Tensor,
  ...inputs: Tensor[]
): Tensor {
  const random = snapshotRandom();
  // An alias, because fn may return an input or a tensor it closes over; these stay the caller's.
  const forward = (): Tensor =>
    scope(() => {
      const out = fn(...inputs);
      assertSync('checkpoint', out);
      edgesFor([out]);
      return out.alias();
    });
  if (recordingNow() === 'off') return forward();
  const { result, trainable, origins } = probe(forward);
  if (recordingNow() !== 'on' || !trainable) return result;
  const edges = edgesFor(inputs) ?? inputs.map(() => null);
  // Made before and used by fn, as inputs or closed over: what flows to the latter is delivered by edges of its own.
  const closed = [...origins];
  // An input without a gradient stays as it is: it may be shared by many checkpoints (tables), where a copy costs memory.
  const dtypeOf = (t: Tensor, i: number): DType => (storage && edges[i] && t.dtype === 'f32' ? storage : t.dtype);
  const kept = noGrad(() => inputs.map((t, i) => (dtypeOf(t, i) === t.dtype ? t : cast(t, dtypeOf(t, i)))));
  const saved = Object.fromEntries(kept.map((t, i) => [`input${i}`, t]));
  const dtypes = inputs.map((t) => t.dtype);
  const rerun = (context: GradientContext): (Tensor | null)[] => {
    using made = openScope();
    const again = made.run(() => dtypes.map((dtype, i) => restored(context.saved[`input${i}`]!, dtype)));
    for (const [i, t] of again.entries()) if (edges[i]) t.requiresGrad = true;
    const firstId = firstNewId();
    const out = made.run(() => restoreRandom(random, () => recorded(() => fn(...again))));
    checkRepeated(out, context.grads[0]!);
    const { leaves, outside } = walk([out], [context.grads[0]!], firstId);
    // The walk's results belong to nobody: the frame of the visiting node takes them.
    for (const t of [...leaves.values(), ...outside.values()]) track(t);
    const own = again.map((t) => (t.leaf && leaves.get(t.leaf)) ?? null);
    for (const t of again) if (t.leaf) leaves.delete(t.leaf);
    for (const [leaf, t] of leaves) context.addLeaf(leaf, t);
    for (const origin of outside.keys()) if (!origins.has(origin)) throw unrepeatable('a tensor it did not use before');
    return [...own, ...closed.map((origin) => outside.get(origin) ?? null)];
  };
  const shared = (c: GradientContext): (Tensor | null)[] => c.once(() => rerun(c));
  const node = new GradNode({
    op: 'checkpoint',
    edges: [...edges, ...closed],
    inputShapes: [...inputs.map((t) => t.shape), ...closed.map(({ node: n, index }) => n.outputShapes[index]!)],
    outputShapes: [result.shape],
    rules: [...edges, ...closed].map((edge, i): Rule => (edge ? (c) => shared(c)[i]! : null)),
    saved,
    always: (c) => void shared(c),
  });
  for (const [i, t] of kept.entries()) if (t !== inputs[i]) t.dispose();
  return result.attach({ node, index: 0 });
}

/** A kept input in its own dtype, without history. */
const restored = (t: Tensor, dtype: DType): Tensor => (t.dtype === dtype ? t.detach() : noGrad(() => cast(t, dtype)));

const unrepeatable = (what: string): Error =>
  new Error(
    `checkpoint: fn must do the same in backward as in the forward: got ${what}. Let it depend on its inputs and on what does not change.`,
  );

function checkRepeated(out: Tensor, grad: Tensor): void {
  if (!sameShape(out.shape, grad.shape))
    throw unrepeatable(`an output of ${showShape(grad.shape)}, then of ${showShape(out.shape)}`);
}
