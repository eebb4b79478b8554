import {
  edgesFor,
  firstNewId,
  type GradientContext,
  GradNode,
  probe,
  type Rule,
  recorded,
  recordingNow,
  walk,
} from './autograd.ts';
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
  const saved = Object.fromEntries(inputs.map((t, i) => [`input${i}`, t]));
  const rerun = (context: GradientContext): (Tensor | null)[] => {
    using made = openScope();
    const again = made.run(() => inputs.map((_, i) => context.saved[`input${i}`]!.detach()));
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
  return result.attach({ node, index: 0 });
}

const unrepeatable = (what: string): Error =>
  new Error(
    `checkpoint: fn must do the same in backward as in the forward: got ${what}. Let it depend on its inputs and on what does not change.`,
  );

function checkRepeated(out: Tensor, grad: Tensor): void {
  if (!sameShape(out.shape, grad.shape))
    throw unrepeatable(`an output of ${showShape(grad.shape)}, then of ${showShape(out.shape)}`);
}
