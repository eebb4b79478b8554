import { full } from './creation.ts';
import { ShapeError } from './errors.ts';
import { assertSync, Owned, openScope, track, untrack, untracked } from './scope.ts';
import { type Shape, sameShape, showShape } from './shape.ts';
import { keptHandle, type Origin, type Tensor } from './tensor.ts';
import { sumTo } from './unbroadcast.ts';

/** A trainable tensor's identity. */
export interface Leaf {
  readonly shape: Shape;
}

/** Where a gradient goes next: to the node that made an input, or to a leaf. Null: the input needs none. */
export type Edge = Origin | { readonly leaf: Leaf } | null;

/** What a gradient rule sees: output gradients (undefined where nothing arrived) and what the op saved, by name. */
export interface GradientContext {
  readonly grads: readonly (Tensor | undefined)[];
  readonly saved: Readonly<Record<string, Tensor>>;
  /** Computes a value shared by several inputs' rules once per visit. */
  once<T>(compute: () => T): T;
  /** Gradients of leaves found inside (checkpoint): added to the walk's result. */
  addLeaf(leaf: Leaf, gradient: Tensor): void;
}

/** One gradient rule an input; null where the input needs none. A rule gives null where nothing flows. */
export type Rule = ((context: GradientContext) => Tensor | null) | null;

/** What an op hands over to be recorded. */
export interface NodeParts {
  readonly op: string;
  readonly edges: readonly Edge[];
  readonly inputShapes: readonly Shape[];
  readonly outputShapes: readonly Shape[];
  readonly rules: readonly Rule[];
  /** What the rules read, by name; the node keeps handles of its own. */
  readonly saved: Record<string, Tensor>;
  /** Runs at every visit, even if no input needs a gradient (checkpoint: gradients of leaves inside). */
  readonly always?: (context: GradientContext) => void;
}

let nextId = 0;

/** One recorded op. Lives while an output handle or a later node names it; then frees what it saved. */
export class GradNode {
  readonly id = nextId++;
  readonly op: string;
  readonly outputShapes: readonly Shape[];
  readonly edges: readonly Edge[];
  readonly #inputShapes: readonly Shape[];
  readonly #rules: readonly Rule[];
  readonly #always: NodeParts['always'];
  #saved: Record<string, Tensor> | null;
  /** Versions of what is saved, in the record's order. */
  readonly #versions: number[] = [];
  #owners = 0;

  constructor(parts: NodeParts) {
    this.op = parts.op;
    this.edges = parts.edges;
    this.outputShapes = parts.outputShapes;
    this.#inputShapes = parts.inputShapes;
    this.#rules = parts.rules;
    this.#always = parts.always;
    const saved: Record<string, Tensor> = {};
    for (const name in parts.saved) {
      const tensor = keptHandle(parts.saved[name]!, parts.op);
      saved[name] = tensor;
      this.#versions.push(tensor.storage(parts.op).version);
    }
    this.#saved = saved;
    for (const edge of this.edges) if (edge && 'node' in edge) edge.node.retain();
  }
  retain(): void {
    this.#owners++;
  }
  /** Iterative, because chains can be thousands of nodes long. */
  release(): void {
    const pending: GradNode[] = [this];
    for (let node = pending.pop(); node; node = pending.pop()) {
      if (--node.#owners > 0) continue;
      node.freeSaved();
      for (const edge of node.edges) if (edge && 'node' in edge) pending.push(edge.node);
    }
  }
  freeSaved(): void {
    const saved = this.#saved;
    this.#saved = null;
    for (const name in saved) saved[name]!.dispose('freed with its graph');
  }
  /** The gradients of the inputs that need one, un-broadcast to the inputs' shapes. */
  run(grads: readonly (Tensor | undefined)[], addLeaf: GradientContext['addLeaf']): (Tensor | null)[] {
    const saved = this.#saved;
    if (!saved)
      throw new Error(
        `backward: the graph of ${this.op} was already used or freed. Run the forward again, or sum the losses first.`,
      );
    let at = 0;
    for (const name in saved) {
      const storage = saved[name]!.storage(this.op);
      if (storage.version !== this.#versions[at++])
        throw new Error(
          `backward: ${name} saved by ${this.op} must be unchanged: ${storage.writer} wrote it in place since. Run backward before ${storage.writer}, or give ${this.op} a copy.`,
        );
    }
    let shared: { value: unknown } | null = null;
    const once = <T>(compute: () => T): T => {
      shared ??= { value: compute() };
      return shared.value as T;
    };
    const context: GradientContext = { grads, saved, once, addLeaf };
    this.#always?.(context);
    const results: (Tensor | null)[] = [];
    for (let i = 0; i < this.#rules.length; i++) {
      const gradient = this.edges[i] ? this.#rules[i]?.(context) : null;
      results.push(gradient ? sumTo(gradient, this.#inputShapes[i]!, this.op) : null);
    }
    return results;
  }
}

/** 'probing' records nothing but notes what would have been recorded: the first forward of `checkpoint`. */
type Recording = 'on' | 'off' | 'probing';
let recording: Recording = 'on';
/** What the probe under way would have recorded: tensors made by earlier ops, and whether there was anything at all. */
let probed = { trainable: false, origins: new Set<Origin>() };

/** How ops record now. */
export const recordingNow = (): Recording => recording;

function withRecording<T>(mode: Recording, fn: () => T): T {
  const before = recording;
  recording = mode;
  try {
    return fn();
  } finally {
    recording = before;
  }
}

/** Runs a synchronous `fn` without recording: nothing in it can be differentiated, nothing is saved. */
export function noGrad<T>(fn: () => T): T {
  return withRecording('off', () => {
    const result = fn();
    assertSync('noGrad', result);
    return result;
  });
}

/** Runs `fn` unrecorded and tells whether it would have recorded anything, and which earlier ops it builds on. */
export function probe<T>(fn: () => T): { result: T; trainable: boolean; origins: ReadonlySet<Origin> } {
  const outer = probed;
  const own = { trainable: false, origins: new Set<Origin>() };
  probed = own;
  try {
    return { result: withRecording('probing', fn), ...own };
  } finally {
    outer.trainable ||= own.trainable;
    for (const origin of own.origins) outer.origins.add(origin);
    probed = outer;
  }
}

/** Nodes recorded from now on have ids from here on. */
export const firstNewId = (): number => nextId;

export const recorded = <T>(fn: () => T): T => withRecording('on', fn);

/** The result of backward: a gradient for every trainable leaf that was reached. */
export class Gradients extends Owned {
  readonly #byLeaf: Map<Leaf, Tensor>;
  constructor(byLeaf: Map<Leaf, Tensor>) {
    super();
    this.#byLeaf = byLeaf;
    track(this);
  }
  /** Whether the walk reached this leaf. */
  has(t: Tensor): boolean {
    return t.leaf !== null && this.#byLeaf.has(t.leaf);
  }
  /** The gradient of a leaf; f32 for leaves stored in f16 or bf16. */
  of(t: Tensor): Tensor {
    const found = t.leaf && this.#byLeaf.get(t.leaf);
    if (!found)
      throw new Error(
        t.leaf
          ? `Gradients.of: tensor ${showShape(t.shape)} was not reached by this backward. Does the loss depend on it?`
          : `Gradients.of: tensor ${showShape(t.shape)} must be a leaf with requiresGrad. Set requiresGrad before the forward.`,
      );
    return found;
  }
  /** Adds another walk's gradients, which are used up: how micro-batches become one step. */
  accumulate(other: Gradients): this {
    if (other === this)
      throw new TypeError(
        'Gradients.accumulate: other must be another walk: got the same gradients. Pass the new ones.',
      );
    untracked(() =>
      noGrad(() => {
        for (const [leaf, g] of other.#byLeaf) this.#byLeaf.set(leaf, accumulate(this.#byLeaf.get(leaf), g));
      }),
    );
    other.#byLeaf.clear();
    return this;
  }
  /** All gradients by leaf identity (`tensor.leaf`). */
  entries(): Iterable<[Leaf, Tensor]> {
    return this.#byLeaf.entries();
  }
  /** Frees every gradient. */
  override dispose(reason?: string): void {
    untrack(this);
    for (const t of this.#byLeaf.values()) t.dispose(reason);
  }
  [Symbol.dispose](): void {
    this.dispose();
  }
}

const edgeOf = (t: Tensor): Edge => t.origin ?? (t.leaf ? { leaf: t.leaf } : null);

const isTrainable = (t: Tensor | null): boolean => t?.requiresGrad === true;

/** The edges of an op's inputs, or null if the op need not be recorded. */
export function edgesFor(inputs: readonly (Tensor | null)[]): Edge[] | null {
  if (recording === 'off' || !inputs.some(isTrainable)) return null;
  const edges: Edge[] = [];
  for (const t of inputs) edges.push(t ? edgeOf(t) : null);
  if (recording === 'on') return edges;
  probed.trainable = true;
  for (const edge of edges) if (edge && 'node' in edge) probed.origins.add(edge);
  return null;
}

/** Adds into a slot, owning what it holds. */
function accumulate(slot: Tensor | undefined, more: Tensor): Tensor {
  if (!slot) return more;
  try {
    return slot.add(more);
  } finally {
    slot.dispose();
    more.dispose();
  }
}

/** Where a walk ended: at leaves, and at outputs of nodes older than it may enter. */
export interface Reached {
  readonly leaves: Map<Leaf, Tensor>;
  readonly outside: Map<Origin, Tensor>;
}

/** Differentiates from `outputs` with the given seeds (owned by the caller) down to leaves and to nodes before `firstId`. */
export function walk(outputs: readonly Tensor[], seeds: readonly Tensor[], firstId = 0): Reached {
  const leaves = new Map<Leaf, Tensor>();
  const outside = new Map<Origin, Tensor>();
  const arrived = new Map<GradNode, (Tensor | undefined)[]>();
  const addLeaf = (leaf: Leaf, gradient: Tensor): void => {
    leaves.set(leaf, accumulate(leaves.get(leaf), gradient));
  };
  const deliver = (edge: Edge, gradient: Tensor): void => {
    if (!edge) {
      gradient.dispose();
      return;
    }
    if ('leaf' in edge) {
      addLeaf(edge.leaf, gradient);
      return;
    }
    if (edge.node.id < firstId) {
      outside.set(edge, accumulate(outside.get(edge), gradient));
      return;
    }
    const slots = arrived.get(edge.node) ?? new Array<Tensor | undefined>(edge.node.outputShapes.length);
    slots[edge.index] = accumulate(slots[edge.index], gradient);
    arrived.set(edge.node, slots);
  };
  const run = (): void => {
    outputs.forEach((t, i) => deliver(edgeOf(t), seeds[i]!.alias()));
    for (const node of reachable(outputs, firstId)) {
      const grads = arrived.get(node);
      arrived.delete(node);
      if (grads) visit(node, grads, deliver, addLeaf);
    }
  };
  try {
    untracked(() => noGrad(run));
  } catch (error) {
    // No scope owns what is on its way.
    for (const t of [...leaves.values(), ...outside.values(), ...[...arrived.values()].flat()]) t?.dispose();
    throw error;
  }
  return { leaves, outside };
}

/** Runs one node's rules; what they make beside their results is freed at once. */
function visit(
  node: GradNode,
  grads: (Tensor | undefined)[],
  deliver: (edge: Edge, gradient: Tensor) => void,
  addLeaf: GradientContext['addLeaf'],
): void {
  using made = openScope();
  // A rule may return a tensor that is not its own (the incoming gradient, or one result for two inputs): hand out an alias.
  const take = (t: Tensor): Tensor => (made.keep(t) ? t : untracked(() => t.alias()));
  try {
    const results = made.run(() => node.run(grads, (leaf, g) => untracked(() => addLeaf(leaf, take(g)))));
    node.freeSaved();
    for (let i = 0; i < results.length; i++) if (results[i]) deliver(node.edges[i]!, take(results[i]!));
  } finally {
    for (const g of grads) g?.dispose();
  }
}

/** Every node below the outputs, latest first: ids rise with recording order, so that is a topological order. */
function reachable(outputs: readonly Tensor[], firstId: number): GradNode[] {
  const seen = new Set<GradNode>();
  const pending = outputs.flatMap((t) => (t.origin ? [t.origin.node] : []));
  for (let node = pending.pop(); node; node = pending.pop()) {
    if (node.id < firstId || seen.has(node)) continue;
    seen.add(node);
    for (const edge of node.edges) if (edge && 'node' in edge) pending.push(edge.node);
  }
  return [...seen].sort((a, b) => b.id - a.id);
}

/** d(loss)/d(leaf) for every trainable leaf. The loss is a scalar, or `seed` gives the gradient of a tensor of any shape. */
export function backward(loss: Tensor, seed?: Tensor): Gradients {
  if (!loss.requiresGrad)
    throw new Error(
      'backward: the tensor must depend on a leaf with requiresGrad. Set requiresGrad = true on what you train, outside noGrad.',
    );
  if (!seed && loss.size !== 1)
    throw new ShapeError(
      `backward: the loss must have one element: got ${showShape(loss.shape)}. Reduce it with sum() or mean(), or pass a seed.`,
    );
  if (seed && !sameShape(seed.shape, loss.shape))
    throw new ShapeError(
      `backward: the seed must have the tensor's shape: got ${showShape(seed.shape)} for ${showShape(loss.shape)}.`,
    );
  const start =
    seed ??
    untracked(() => full(loss.shape, 1, { backend: loss.backend, dtype: loss.dtype === 'f64' ? 'f64' : 'f32' }));
  try {
    return new Gradients(walk([loss], [start]).leaves);
  } finally {
    if (!seed) start.dispose();
  }
}
