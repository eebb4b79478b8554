import type { GradNode, Leaf } from './autograd.ts';
import type { Backend, Operand } from './backend.ts';
import { bytesPerElement, type DType, decode, isFloat, type TensorData } from './dtype.ts';
import { UseAfterFreeError } from './errors.ts';
import { unwatch, watch } from './leaks.ts';
import type { Storage } from './memory.ts';
import type { TensorMethods } from './methods.ts';
import { Owned, track, untrack } from './scope.ts';
import { type Shape, showShape, sizeOf } from './shape.ts';

/** How a tensor came to be: the node that made it and which of its outputs it is. */
export interface Origin {
  readonly node: GradNode;
  readonly index: number;
}

interface Layout {
  readonly shape: Shape;
  readonly dtype: DType;
  readonly offset?: number;
  readonly rowStride?: number;
}

// The op methods (add, matmul, ...) are put on the prototype by methods.ts, which needs this class first.
export interface Tensor extends TensorMethods {}

/**
 * An n-dimensional array on a backend. A handle: several may share one storage. Freed by `dispose`, by `using`, or at the
 * end of the scope that made it; use after that is an error.
 */
// biome-ignore lint/suspicious/noUnsafeDeclarationMerging: see above
export class Tensor extends Owned {
  readonly shape: Shape;
  readonly dtype: DType;
  /** First element inside the storage, in elements. */
  readonly offset: number;
  /** Elements between neighbours along axis 0; larger than the row itself for a column block. */
  readonly rowStride: number;
  /** Number of elements. */
  readonly size: number;
  /** False only for a column block. */
  readonly isContiguous: boolean;
  readonly #storage: Storage;
  #freed: string | null = null;
  #leaf: Leaf | null = null;
  #origin: Origin | null = null;
  #operand: Operand | null = null;

  /** For op implementations: takes over one reference of `storage`. Untracked tensors belong to no scope. */
  constructor(storage: Storage, layout: Layout, tracked = true) {
    super();
    const { shape, dtype } = layout;
    const rows = shape.length === 0 ? 1 : shape[0]!;
    const row = sizeOf(shape, 1);
    this.#storage = storage;
    this.shape = shape;
    this.dtype = dtype;
    this.offset = layout.offset ?? 0;
    this.rowStride = layout.rowStride ?? row;
    this.size = rows * row;
    this.isContiguous = rows <= 1 || this.rowStride === row;
    if (tracked) track(this);
    watch(this);
  }

  get backend(): Backend {
    return this.#storage.backend;
  }
  get rank(): number {
    return this.shape.length;
  }
  get isFreed(): boolean {
    return this.#freed !== null;
  }
  /** Whether backward reaches this tensor: it is a trainable leaf or depends on one. */
  get requiresGrad(): boolean {
    return this.#leaf !== null || this.#origin !== null;
  }
  /** Marks or unmarks a leaf (a tensor no op made) as trainable. */
  set requiresGrad(wanted: boolean) {
    if (this.#origin)
      throw new TypeError(
        'requiresGrad: must be set on a leaf: this tensor was made by an op. Use detach() for a leaf.',
      );
    if (wanted && !isFloat(this.dtype))
      throw new TypeError(`requiresGrad: the dtype must be floating: got ${this.dtype}. Use cast('f32') first.`);
    if (wanted !== (this.#leaf !== null)) this.#leaf = wanted ? { shape: this.shape } : null;
  }
  /** The identity under which gradients are collected; shared by aliases. */
  get leaf(): Leaf | null {
    return this.#leaf;
  }
  get origin(): Origin | null {
    return this.#origin;
  }

  /** The storage, for op implementations; throws when freed. */
  storage(op: string): Storage {
    if (this.#freed !== null)
      throw new UseAfterFreeError(
        `${op}: tensor ${showShape(this.shape)} ${this.dtype} must be alive: it was ${this.#freed}.`,
      );
    return this.#storage;
  }
  /** What a kernel sees. */
  operand(op: string): Operand {
    const { buffer } = this.storage(op);
    if (this.#operand === null) {
      const { shape, dtype, offset, rowStride } = this;
      this.#operand = { buffer, dtype, shape, offset, rowStride };
    }
    return this.#operand;
  }
  /** Another handle of the same storage with the same history. */
  alias(): Tensor {
    const copy = new Tensor(this.storage('alias').retain(), this);
    copy.#leaf = this.#leaf;
    copy.#origin = this.#origin;
    copy.#origin?.node.retain();
    return copy;
  }
  /** For op implementations: gives a handle that nobody else holds its place in the graph. */
  attach(origin: Origin): this {
    origin.node.retain();
    this.#origin?.node.release();
    this.#origin = origin;
    this.#leaf = null;
    return this;
  }
  /** Another handle of the same storage without history: no gradient flows through it. */
  detach(): Tensor {
    return new Tensor(this.storage('detach').retain(), this);
  }

  override dispose(reason = 'disposed; dispose it after its last use'): void {
    if (this.#freed !== null) return;
    this.#freed = reason;
    untrack(this);
    unwatch(this);
    this.#storage.release();
    this.#origin?.node.release();
    this.#origin = null;
  }
  [Symbol.dispose](): void {
    this.dispose();
  }

  /** Raw bytes in row-major order, once everything before has run. */
  async bytes(): Promise<Uint8Array> {
    const dense = this.isContiguous ? this : this.contiguous();
    const width = bytesPerElement[this.dtype];
    const pending = this.backend.read(dense.storage('bytes').buffer, dense.offset * width, this.size * width);
    if (dense !== this) dense.dispose();
    return pending;
  }
  /** The elements in row-major order; f16 and bf16 widened to f32. */
  async data(): Promise<TensorData> {
    return decode(await this.bytes(), this.dtype);
  }
  /** The single element of a tensor of size 1. */
  async item(): Promise<number> {
    if (this.size !== 1)
      throw new RangeError(
        `item: tensor must have one element: got ${showShape(this.shape)}. Use data() or toArray().`,
      );
    return (await this.data())[0]!;
  }
  /** Nested arrays of the same shape; a plain number for rank 0. */
  async toArray(): Promise<unknown> {
    const flat = await this.data();
    let at = 0;
    const build = (axis: number): unknown =>
      axis === this.rank ? flat[at++] : Array.from({ length: this.shape[axis]! }, () => build(axis + 1));
    return build(0);
  }
  toString(): string {
    return `Tensor ${showShape(this.shape)} ${this.dtype} on ${this.backend.name}${this.isFreed ? ' (freed)' : ''}`;
  }
}

/** A handle on part of a tensor's storage, without history. */
export function viewOf(t: Tensor, shape: Shape, offset = t.offset, rowStride?: number): Tensor {
  const contiguous = rowStride ?? sizeOf(shape, 1);
  return new Tensor(t.storage('view').retain(), { shape, dtype: t.dtype, offset, rowStride: contiguous });
}

/** A handle without history that no scope owns: what backward keeps. */
export const keptHandle = (t: Tensor, op: string): Tensor => new Tensor(t.storage(op).retain(), t, false);
