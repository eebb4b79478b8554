import type { DType } from './dtype.ts';
import type { ElementwiseProgram } from './expression.ts';
import type { Shape } from './shape.ts';

/** A backend's own name for a piece of its memory; nobody else looks inside. */
export type BufferHandle = object;

/**
 * A tensor as a kernel sees it. Elements are contiguous but for one freedom: the step from one index of axis 0 to the
 * next is `rowStride` elements (a column block of a wider matrix, such as q inside fused qkv). `offset` is in elements.
 */
export interface Operand {
  readonly buffer: BufferHandle;
  readonly dtype: DType;
  readonly shape: Shape;
  readonly offset: number;
  readonly rowStride: number;
}

/** Values of an op that are not tensors. Numbers in them may change from step to step; kernels must not be compiled per value. */
export type Attributes = Readonly<Record<string, unknown>>;

/** One op to compute. `inputs` may hold null for optional inputs that were not given. */
export interface Call {
  readonly op: KernelOp;
  readonly inputs: readonly (Operand | null)[];
  readonly outputs: readonly Operand[];
  readonly attributes: Attributes;
  /** Set for elementwise ops: what to compute, with the run-time numbers. Inputs broadcast to outputs[0].shape. */
  readonly program?: ElementwiseProgram;
  readonly parameters?: readonly number[];
}

/** A dense operand of a reference: row-major, contiguous, widened to f64 (exact for every dtype). */
export interface Dense {
  readonly shape: Shape;
  readonly dtype: DType;
  readonly data: Float64Array;
}

/** The part of an op that a backend may use. */
export interface KernelOp {
  readonly name: string;
  /** The obviously right version, in plain loops. Absent where `compose` defines the op. */
  readonly reference?: (inputs: (Dense | null)[], outputs: Dense[], attributes: Attributes) => void;
}

/**
 * Who computes. Calls act as if executed in the order issued, whenever they really run: a buffer may be freed while a
 * call that names it is pending. Only `read` and `sync` are awaited; an asynchronous fault rejects the next of them.
 */
export interface Backend {
  readonly name: string;
  /** Dtypes that tensors may have here. */
  readonly dtypes: ReadonlySet<DType>;
  /** Elementwise inputs may be column blocks; else they are made dense first. */
  readonly readsColumnBlocks?: boolean;
  /** Memory for a new tensor, contents unspecified. Throws OutOfMemoryError with what was asked and what is live. */
  allocate(byteLength: number): BufferHandle;
  free(buffer: BufferHandle): void;
  /** Moves a buffer that rests for a while out of the memory that kernels write; it comes back by itself when it is used. */
  pageOut?(buffer: BufferHandle): void;
  /** Copies bytes in; the caller may reuse `bytes` at once. */
  write(buffer: BufferHandle, byteOffset: number, bytes: Uint8Array): void;
  /** Copies bytes out after all earlier calls have run. */
  read(buffer: BufferHandle, byteOffset: number, byteLength: number): Promise<Uint8Array>;
  /** Whether a kernel (or a reference run in place) exists for this call; if not, the op is composed of others. */
  supports(call: Call): boolean;
  run(call: Call): void;
  /** Resolves when everything issued so far has run. */
  sync(): Promise<void>;
  /** Releases threads, devices and memory; the process can end. Tensors of this backend are dead afterwards. */
  close(): Promise<void>;
  /** Facts for people: device, threads, chosen kernels. */
  describe(): Record<string, unknown>;
}
