import { edgesFor, GradNode, type Leaf, probe, type Rule, recorded, recordingNow, walk } from './autograd.ts';
import { zeros } from './creation.ts';
import { ShapeError } from './errors.ts';
import { restoreRandom, snapshotRandom } from './random-context.ts';
import { openScope, scope, track } from './scope.ts';
import { type Shape, sameShape, showShape } from './shape.ts';
import type { Tensor } from './tensor.ts';

/**
 * fn(...inputs) without keeping its inner values: the backward runs fn a second time (Chen et al. 2016; torch's
 * use_reentrant=False). Dropout repeats its masks. Tensors that fn closes over get gradients too.
 */
export function checkpoint(fn: (...inputs: Tensor[]) => Tensor, ...inputs: Tensor[]): Tensor {
  const random = snapshotRandom();
  // An alias, because fn may return an input or a tensor it closes over; these stay the caller's.
  const forward = (): Tensor => scope(() => fn(...inputs).alias());
  if (recordingNow() === 'off') return forward();
  const { result, trainable } = probe(forward);
  if (recordingNow() !== 'on' || !trainable) return result;
  const edges = edgesFor(inputs) ?? inputs.map(() => null);
  const saved = Object.fromEntries(inputs.map((t, i) => [`input${i}`, t]));
  const rerun = (
    grad: Tensor,
    values: Readonly<Record<string, Tensor>>,
    addLeaf: (leaf: Leaf, g: Tensor) => void,
  ): (Tensor | null)[] => {
    using made = openScope();
    const again = made.run(() => inputs.map((_, i) => values[`input${i}`]!.detach()));
    again.forEach((t, i) => {
      if (edges[i]) t.requiresGrad = true;
    });
    const out = made.run(() => restoreRandom(random, () => recorded(() => fn(...again))));
    if (!sameShape(out.shape, grad.shape))
      throw new ShapeError(
        `checkpoint: fn must give the same shape in the forward and in backward: got ${showShape(grad.shape)}, then ${showShape(out.shape)}. Let it depend on its inputs alone.`,
      );
    const leaves = walk([out], [grad]);
    // The walk's results belong to nobody: the frame of the visiting node takes them.
    for (const t of leaves.values()) track(t);
    const own = again.map((t) => (t.leaf && leaves.get(t.leaf)) ?? null);
    for (const t of again) if (t.leaf) leaves.delete(t.leaf);
    for (const [leaf, t] of leaves) addLeaf(leaf, t);
    return own;
  };
  const shared = (c: Parameters<NonNullable<Rule>>[0]): (Tensor | null)[] =>
    c.once(() => rerun(c.grads[0]!, c.saved, c.addLeaf));
  const node = new GradNode({
    op: 'checkpoint',
    edges,
    inputShapes: inputs.map((t) => t.shape),
    outputShapes: [result.shape],
    rules: inputs.map((_, i): Rule => (edges[i] ? (c) => shared(c)[i] ?? zerosLike(inputs[i]!, c) : null)),
    saved,
    always: (c) => void shared(c),
  });
  return result.attach({ node, index: 0 });
}

const zerosLike = (t: { readonly shape: Shape }, { grads }: Parameters<NonNullable<Rule>>[0]): Tensor =>
  zeros(t.shape, { backend: grads[0]!.backend, dtype: grads[0]!.dtype });
