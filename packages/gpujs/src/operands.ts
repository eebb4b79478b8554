/** Operands as gpu.js takes them: flat f32 arrays in row-major order. Moving data is the host's work here. */
import { broadcastStrides, bytesPerElement, decode, encode, type Operand, type Shape, sizeOf } from '@lorikeet/tensor';

/** Memory of this backend. */
export class HostBuffer {
  readonly bytes: Uint8Array;
  freed = false;
  constructor(byteLength: number) {
    this.bytes = new Uint8Array(byteLength);
  }
}

/** The bytes of an operand in row-major order. */
function rowsOf({ buffer, dtype, shape, offset, rowStride }: Operand): Uint8Array {
  const { bytes } = buffer as HostBuffer;
  const width = bytesPerElement[dtype];
  const row = sizeOf(shape, 1) * width;
  const rows = shape[0] ?? 1;
  const out = new Uint8Array(rows * row);
  for (let r = 0; r < rows; r++) {
    const start = (offset + r * rowStride) * width;
    out.set(bytes.subarray(start, start + row), r * row);
  }
  return out;
}

/** All elements of an operand as f32. */
export const load = (operand: Operand): Float32Array => Float32Array.from(decode(rowsOf(operand), operand.dtype));

/** The elements of an operand, repeated along broadcast axes until they fill `target`. */
export function loadBroadcast(operand: Operand, target: Shape): Float32Array {
  const data = load(operand);
  const strides = broadcastStrides(operand.shape, target);
  const out = new Float32Array(sizeOf(target));
  const index = new Array<number>(target.length).fill(0);
  let at = 0;
  for (let i = 0; i < out.length; i++) {
    out[i] = data[at]!;
    for (let axis = target.length - 1; axis >= 0; axis--) {
      index[axis]!++;
      at += strides[axis]!;
      if (index[axis]! < target[axis]!) break;
      at -= strides[axis]! * target[axis]!;
      index[axis] = 0;
    }
  }
  return out;
}

/** Rounds to the operand's dtype and stores. */
export function store(values: Float32Array, { buffer, dtype, shape, offset }: Operand): void {
  const bytes = encode(values.subarray(0, sizeOf(shape)), dtype);
  (buffer as HostBuffer).bytes.set(bytes, offset * bytesPerElement[dtype]);
}
