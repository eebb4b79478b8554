import type { Backend, BufferHandle } from './backend.ts';
import { bytesPerElement, type DType, encode } from './dtype.ts';
import { DTypeError, ShapeError } from './errors.ts';
import { Storage } from './memory.ts';
import { normalsOf, permutationOf, type RandomKey } from './random.ts';
import { checkShape, type Shape, showShape, sizeOf } from './shape.ts';
import { Tensor } from './tensor.ts';

export interface CreationOptions {
  readonly backend: Backend;
  /** Default f32. */
  readonly dtype?: DType;
  /** Default false. */
  readonly requiresGrad?: boolean;
}

export type NestedNumbers = number | boolean | ArrayLike<number> | readonly NestedNumbers[];

function checkDType(op: string, dtype: DType, backend: Backend): void {
  if (!backend.dtypes.has(dtype))
    throw new DTypeError(
      `${op}: backend ${backend.name} holds ${[...backend.dtypes].join(', ')}: got ${dtype}. Choose one of these.`,
    );
}

/** A tensor over new memory that `write` fills. */
function written(
  { shape, backend, dtype, requiresGrad = false }: CreationOptions & { readonly shape: Shape; readonly dtype: DType },
  write: (buffer: BufferHandle, byteLength: number) => void,
): Tensor {
  const byteLength = sizeOf(shape) * bytesPerElement[dtype];
  const storage = new Storage(backend, byteLength);
  try {
    if (byteLength > 0) write(storage.buffer, byteLength);
  } catch (error) {
    storage.release();
    throw error;
  }
  const made = new Tensor(storage, { shape, dtype });
  if (requiresGrad) made.requiresGrad = true;
  return made;
}

/** A tensor from raw little-endian bytes (f16 and bf16: their bits). Copies. */
export function fromBytes(bytes: Uint8Array, options: CreationOptions & { readonly shape: Shape }): Tensor {
  const { backend, dtype = 'f32' } = options;
  checkDType('fromBytes', dtype, backend);
  const shape = checkShape('fromBytes', options.shape);
  const expected = sizeOf(shape) * bytesPerElement[dtype];
  if (bytes.byteLength !== expected)
    throw new ShapeError(
      `fromBytes: ${showShape(shape)} ${dtype} needs ${expected} bytes: got ${bytes.byteLength}. Check shape and dtype.`,
    );
  return written({ ...options, shape, dtype }, (buffer) => backend.write(buffer, 0, bytes));
}

function flatten(data: NestedNumbers): { flat: ArrayLike<number>; shape: Shape } {
  if (typeof data === 'number' || typeof data === 'boolean') return { flat: [Number(data)], shape: [] };
  if (ArrayBuffer.isView(data))
    return { flat: data as unknown as ArrayLike<number>, shape: [(data as unknown as ArrayLike<number>).length] };
  const flat: number[] = [];
  const shape: number[] = [];
  const visit = (item: NestedNumbers, depth: number): void => {
    if (typeof item === 'number' || typeof item === 'boolean') {
      if (depth !== shape.length)
        throw new ShapeError(
          `tensor: nested arrays must be rectangular: a number stands at depth ${depth}, others at ${shape.length}.`,
        );
      flat.push(Number(item));
      return;
    }
    if (typeof item !== 'object' || item === null)
      throw new TypeError(
        `tensor: data must be numbers, booleans or lists of them: got ${typeof item === 'object' ? 'null' : typeof item}. Convert it first.`,
      );
    if (shape.length === depth) {
      if (flat.length)
        throw new ShapeError(
          `tensor: nested arrays must be rectangular: a list stands at depth ${depth} beside numbers.`,
        );
      shape.push(item.length);
    } else if (shape[depth] !== item.length)
      throw new ShapeError(
        `tensor: nested arrays must be rectangular: lengths ${shape[depth]} and ${item.length} at depth ${depth}.`,
      );
    for (let i = 0; i < item.length; i++) visit(item[i]!, depth + 1);
  };
  visit(data, 0);
  return { flat, shape };
}

/** A tensor from numbers: a number, nested arrays, or a typed array, in row-major order. `shape` gives them another shape of as many elements. */
export function tensor(data: NestedNumbers, options: CreationOptions & { readonly shape?: Shape }): Tensor {
  const { flat, shape } = flatten(data);
  if (options.shape && sizeOf(checkShape('tensor', options.shape)) !== flat.length)
    throw new ShapeError(
      `tensor: shape ${showShape(options.shape)} must hold the data: got ${flat.length} numbers. Change one of them.`,
    );
  return fromBytes(encode(flat, options.dtype ?? 'f32'), { ...options, shape: options.shape ?? shape });
}

/** A tensor filled with one number. */
export function full(shape: Shape, value: number, options: CreationOptions): Tensor {
  const count = sizeOf(checkShape('full', shape));
  return fromBytes(
    encode(value === 0 ? new Uint8Array(0) : new Float64Array(count).fill(value), options.dtype ?? 'f32', count),
    {
      ...options,
      shape,
    },
  );
}

/** Zeros beyond this are written piece by piece: as many bytes need not stand in the host's memory too. */
const pieceBytes = 1 << 26;

/** A tensor of zeros. */
export function zeros(shape: Shape, options: CreationOptions): Tensor {
  const { backend, dtype = 'f32' } = options;
  if (sizeOf(checkShape('zeros', shape)) * bytesPerElement[dtype] <= pieceBytes) return full(shape, 0, options);
  checkDType('zeros', dtype, backend);
  return written({ ...options, shape, dtype }, (buffer, byteLength) => {
    const piece = new Uint8Array(pieceBytes);
    for (let at = 0; at < byteLength; at += pieceBytes)
      backend.write(buffer, at, piece.subarray(0, Math.min(pieceBytes, byteLength - at)));
  });
}
/** A tensor of ones. */
export const ones = (shape: Shape, options: CreationOptions): Tensor => full(shape, 1, options);

/** start, start + step, ... below end (f32 unless said otherwise). */
export function arange(start: number, end: number, options: CreationOptions & { readonly step?: number }): Tensor {
  const step = options.step ?? 1;
  if (!(step !== 0 && Number.isFinite((end - start) / step)))
    throw new RangeError(
      `arange: step must be a finite number other than 0: got ${step} from ${start} to ${end}. All three must be finite.`,
    );
  const count = Math.max(0, Math.ceil((end - start) / step));
  return tensor(
    Float64Array.from({ length: count }, (_, i) => start + i * step),
    options,
  );
}

/** Standard normals scaled to `mean` and `std`; made on the CPU, so equal bits on every backend. */
export function normal(
  shape: Shape,
  options: CreationOptions & { readonly key: RandomKey; readonly mean?: number; readonly std?: number },
): Tensor {
  const { key, mean = 0, std = 1 } = options;
  return tensor(
    normalsOf(sizeOf(checkShape('normal', shape)), key).map((z) => z * std + mean),
    { ...options, shape },
  );
}

/** Uniforms in [low, high) from 24 random bits each. */
export function uniform(
  shape: Shape,
  options: CreationOptions & { readonly key: RandomKey; readonly low?: number; readonly high?: number },
): Tensor {
  const { key, low = 0, high = 1 } = options;
  const count = sizeOf(checkShape('uniform', shape));
  return tensor(
    Float64Array.from({ length: count }, (_, i) => low + (high - low) * key.uniform(i)),
    { ...options, shape },
  );
}

/** 0 .. n-1 in random order, as i32. */
export function permutation(n: number, options: { readonly backend: Backend; readonly key: RandomKey }): Tensor {
  checkShape('permutation', [n]);
  return tensor(permutationOf(n, options.key), { backend: options.backend, dtype: 'i32' });
}
