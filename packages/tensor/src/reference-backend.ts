import type { Backend, BufferHandle, Call, Dense, Operand } from './backend.ts';
import { bytesPerElement, type DType, decode, encodeInto, isFloat, viewAs } from './dtype.ts';
import { type Evaluator, evaluator } from './evaluate.ts';
import { broadcastStrides, sizeOf } from './shape.ts';

class Bytes {
  readonly bytes: Uint8Array;
  constructor(byteLength: number) {
    this.bytes = new Uint8Array(byteLength);
  }
}

/** The bytes of an operand in row-major order: a view when contiguous, else a gathered copy. */
function rowsOf({ buffer, dtype, shape, offset, rowStride }: Operand): Uint8Array {
  const { bytes } = buffer as Bytes;
  const width = bytesPerElement[dtype];
  const row = sizeOf(shape, 1) * width;
  const rows = shape[0] ?? 1;
  const start = offset * width;
  if (rows <= 1 || rowStride * width === row) return bytes.subarray(start, start + rows * row);
  const out = new Uint8Array(rows * row);
  for (let r = 0; r < rows; r++)
    out.set(bytes.subarray(start + r * rowStride * width, start + r * rowStride * width + row), r * row);
  return out;
}

const load = (operand: Operand): Dense => ({
  shape: operand.shape,
  dtype: operand.dtype,
  data: Float64Array.from(decode(rowsOf(operand), operand.dtype)),
});

function store({ data }: Dense, { buffer, dtype, offset, shape }: Operand): void {
  const { bytes } = buffer as Bytes;
  const width = bytesPerElement[dtype];
  encodeInto(data, viewAs(bytes.subarray(offset * width, (offset + sizeOf(shape)) * width), dtype), dtype);
}

const evaluators = new Map<string, Evaluator>();

function runProgram({ program, parameters = [], inputs, outputs }: Call): void {
  const dense = inputs.map((x) => load(x!));
  const shape = outputs[0]!.shape;
  const integer = dense.every((d) => !isFloat(d.dtype)) && !isFloat(outputs[0]!.dtype);
  const key = `${program!.name}/${integer}`;
  let evaluate = evaluators.get(key);
  if (!evaluate) evaluators.set(key, (evaluate = evaluator(program!, integer)));
  const strides = dense.map((d) => broadcastStrides(d.shape, shape));
  const results = outputs.map((o) => ({ shape, dtype: o.dtype, data: new Float64Array(sizeOf(shape)) }));
  const index = new Array<number>(shape.length).fill(0);
  const at = dense.map(() => 0);
  const x = new Array<number>(dense.length);
  for (let i = 0; i < sizeOf(shape); i++) {
    for (let k = 0; k < dense.length; k++) x[k] = dense[k]!.data[at[k]!]!;
    const values = evaluate(x, parameters, i);
    for (let k = 0; k < values.length; k++) results[k]!.data[i] = values[k]!;
    for (let axis = shape.length - 1; axis >= 0; axis--) {
      index[axis]!++;
      for (let k = 0; k < at.length; k++) at[k]! += strides[k]![axis]!;
      if (index[axis]! < shape[axis]!) break;
      for (let k = 0; k < at.length; k++) at[k]! -= strides[k]![axis]! * shape[axis]!;
      index[axis] = 0;
    }
  }
  results.forEach((r, i) => store(r, outputs[i]!));
}

/** Runs any call with the op's own reference, in f64; floats are rounded once, on store. */
export function runReference(call: Call): void {
  if (call.program) {
    runProgram(call);
    return;
  }
  if (!call.op.reference) throw new TypeError(`${call.op.name}: has neither a kernel here nor a reference.`);
  const outputs = call.outputs.map((o) => ({
    shape: o.shape,
    dtype: o.dtype,
    data: new Float64Array(sizeOf(o.shape)),
  }));
  call.op.reference(
    call.inputs.map((x) => x && load(x)),
    outputs,
    call.attributes,
  );
  outputs.forEach((dense, i) => store(dense, call.outputs[i]!));
}

/** Views a piece of any byte memory as a buffer that `runReference` understands. */
export function bytesBuffer(bytes: Uint8Array): BufferHandle {
  const made = Object.create(Bytes.prototype) as { bytes: Uint8Array };
  made.bytes = bytes;
  return made;
}

const dtypes: ReadonlySet<DType> = new Set(['f32', 'f16', 'bf16', 'i32', 'u32', 'u8', 'i8', 'f64']);

/** The backend that is obviously right: plain loops in f64, one thread. Slow; what every other backend is checked against. */
export function referenceBackend(): Backend {
  return {
    name: 'reference',
    dtypes,
    allocate: (byteLength) => new Bytes(byteLength),
    free: () => {},
    write: (buffer, byteOffset, bytes) => (buffer as Bytes).bytes.set(bytes, byteOffset),
    read: async (buffer, byteOffset, byteLength) => (buffer as Bytes).bytes.slice(byteOffset, byteOffset + byteLength),
    supports: ({ op, program }) => Boolean(program ?? op.reference),
    run: runReference,
    sync: async () => {},
    close: async () => {},
    describe: () => ({ name: 'reference', arithmetic: 'f64', threads: 1 }),
  };
}
