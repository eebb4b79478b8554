import {
  type Backend,
  type BufferHandle,
  bytesBuffer,
  type Call,
  type DType,
  isFloat,
  type Operand,
  OutOfMemoryError,
  runReference,
  sizeOf,
  threefry2x32,
} from '@lorikeet/tensor';
import { type Argument, KernelStore } from './kernel-store.ts';
import { type Kernel, kernels } from './kernels.ts';
import { type Lowered, lower } from './lower.ts';
import { HostBuffer, loadBroadcast, store } from './operands.ts';

/** How gpu.js runs its kernels: as JavaScript, as WebAssembly, or as shaders of WebGL2 (browsers). */
export const gpujsModes = ['cpu', 'webasm', 'webgl2'] as const;
export type GpuJsMode = (typeof gpujsModes)[number];

export interface GpuJsOptions {
  /** @defaultValue 'cpu' */
  readonly mode?: GpuJsMode;
}

const dtypes: ReadonlySet<DType> = new Set(['f32', 'f16', 'bf16', 'i32', 'u32', 'u8', 'i8']);

/**
 * Ops as gpu.js kernels. Floats are computed there; integers, and ops that only move data, by the op's reference on the
 * host, because gpu.js computes in f32. Calls run when they are issued.
 */
export class GpuJsBackend implements Backend {
  readonly name: string;
  readonly dtypes = dtypes;
  readonly readsColumnBlocks = true;
  readonly #mode: GpuJsMode;
  readonly #kernels: KernelStore;
  readonly #lowered = new Map<string, Lowered>();

  constructor(mode: GpuJsMode) {
    this.#mode = mode;
    this.name = `gpujs-${mode}`;
    this.#kernels = new KernelStore(mode);
  }

  allocate(byteLength: number): BufferHandle {
    try {
      return new HostBuffer(byteLength);
    } catch (cause) {
      throw new OutOfMemoryError(`gpujs: a tensor must fit an ArrayBuffer: got ${byteLength} bytes. Split it.`, {
        cause,
      });
    }
  }

  free(buffer: BufferHandle): void {
    const host = buffer as HostBuffer;
    if (host.freed) throw new Error('gpujs: a buffer must be freed once: it was freed before.');
    host.freed = true;
  }

  write(buffer: BufferHandle, byteOffset: number, bytes: Uint8Array): void {
    (buffer as HostBuffer).bytes.set(bytes, byteOffset);
  }

  async read(buffer: BufferHandle, byteOffset: number, byteLength: number): Promise<Uint8Array> {
    return (buffer as HostBuffer).bytes.slice(byteOffset, byteOffset + byteLength);
  }

  supports(call: Call): boolean {
    return Boolean(call.program ?? call.op.reference ?? this.#kernelFor(call));
  }

  run(call: Call): void {
    if (call.program && !isInteger(call)) {
      this.#elementwise(call);
      return;
    }
    const kernel = call.program ? undefined : this.#kernelFor(call);
    if (kernel) kernel.run(call, this.#kernels);
    else runReference(onHost(call));
  }

  async sync(): Promise<void> {}

  close(): Promise<void> {
    return this.#kernels.close();
  }

  /** For `await using`. */
  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }

  /** Ops with a kernel of their own, elementwise ones apart. */
  get kernelNames(): string[] {
    return [...kernels.keys()];
  }

  describe(): Record<string, unknown> {
    const compiled = this.#kernels.count;
    return { name: this.name, mode: this.#mode, kernels: ['elementwise', ...this.kernelNames], compiled };
  }

  #kernelFor(call: Call): Kernel | undefined {
    const kernel = kernels.get(call.op.name);
    return kernel?.fits(call) ? kernel : undefined;
  }

  #elementwise({ program, parameters = [], inputs, outputs }: Call): void {
    const { shape } = outputs[0]!;
    const count = sizeOf(shape);
    const values = inputs.map((x) => loadBroadcast(x!, shape));
    // All before any is stored: an update reads what its other outputs overwrite.
    const results = outputs.map((_, i) => {
      const name = `${program!.name}#${i}`;
      let lowered = this.#lowered.get(name);
      if (!lowered) this.#lowered.set(name, (lowered = lower(program!, i)));
      const { source, constants, uniforms } = lowered;
      const drawn = uniforms.map(([k0, k1]) => uniformsOf(parameters[k0]!, parameters[k1]!, count));
      const given: Argument[] = [...values, ...parameters, ...constants, ...drawn];
      return this.#kernels.run(name, () => source, count, given).slice(0, count);
    });
    for (const [i, result] of results.entries()) store(result, outputs[i]!);
  }
}

const isInteger = ({ inputs, outputs }: Call): boolean =>
  inputs.every((x) => !isFloat(x!.dtype)) && !isFloat(outputs[0]!.dtype);

/** What `ScalarNode` calls a uniform, for every place of an output. */
const uniformsOf = (k0: number, k1: number, count: number): Float32Array =>
  Float32Array.from({ length: count }, (_, i) => (threefry2x32(k0, k1, i, 0)[0] >>> 8) / 2 ** 24);

/** The same call over buffers that `runReference` reads. */
function onHost(call: Call): Call {
  const place = (operand: Operand): Operand => ({
    ...operand,
    buffer: bytesBuffer((operand.buffer as HostBuffer).bytes),
  });
  return { ...call, inputs: call.inputs.map((x) => x && place(x)), outputs: call.outputs.map(place) };
}

/** A backend whose kernels gpu.js compiles. @throws TypeError for another mode; gpu.js's own error where the mode cannot run */
export async function gpujs({ mode = 'cpu' }: GpuJsOptions = {}): Promise<GpuJsBackend> {
  if (!gpujsModes.includes(mode))
    throw new TypeError(`gpujs: mode must be one of ${gpujsModes.join(', ')}: got ${mode}.`);
  return new GpuJsBackend(mode);
}
