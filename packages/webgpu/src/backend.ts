import type { Backend, BufferHandle, Call, DType } from '@lorikeet/tensor';
import { type Acquired, acquire, type WebGpuOptions } from './acquire.ts';
import { bufferUsage, type DeviceBuffer } from './buffer-pool.ts';
import { copyBytes } from './kernels/moves.ts';
import { kernelNames, kernelOf } from './kernels/registry.ts';
import { Stream } from './stream.ts';

const dtypes: ReadonlySet<DType> = new Set(['f32', 'f16', 'bf16', 'i32', 'u32', 'u8', 'i8']);
const mapModeRead = 1;
const wordsOf = (bytes: number): number => Math.ceil(bytes / 4) * 4;

/** A backend on one WebGPU device. Calls are encoded when they are made and run when something is read. */
export class WebGpuBackend implements Backend {
  readonly name = 'webgpu';
  readonly dtypes = dtypes;
  /** The device itself, for interoperation. Destroying it loses every tensor. */
  readonly device: GPUDevice;
  readonly #acquired: Acquired;
  readonly #stream: Stream;

  constructor(acquired: Acquired, options: WebGpuOptions) {
    this.#acquired = acquired;
    this.device = acquired.device;
    this.#stream = new Stream(acquired.device, options.verifyKernels ?? false);
  }

  allocate(byteLength: number): BufferHandle {
    this.#stream.faults.check();
    return this.#stream.pool.take(byteLength);
  }

  free(buffer: BufferHandle): void {
    this.#stream.pool.give(buffer as DeviceBuffer);
  }

  write(buffer: BufferHandle, byteOffset: number, bytes: Uint8Array): void {
    this.#stream.faults.check();
    const target = buffer as DeviceBuffer;
    this.#checkRange('write', target, byteOffset, bytes.byteLength);
    const reachesEnd = byteOffset + bytes.byteLength === target.byteLength;
    if (byteOffset % 4 === 0 && (bytes.byteLength % 4 === 0 || reachesEnd)) {
      this.#stream.write(target, byteOffset, padded(bytes));
      return;
    }
    const part = this.#stream.pool.take(wordsOf(bytes.byteLength));
    this.#stream.write(part, 0, padded(bytes));
    const shape = [bytes.byteLength];
    const row = { dtype: 'u8', shape, rowStride: 1 } as const;
    copyBytes(this.#stream, { ...row, buffer: part, offset: 0 }, { ...row, buffer: target, offset: byteOffset });
    this.#stream.pool.give(part);
  }

  async read(buffer: BufferHandle, byteOffset: number, byteLength: number): Promise<Uint8Array> {
    const { faults } = this.#stream;
    faults.check();
    const source = buffer as DeviceBuffer;
    this.#checkRange('read', source, byteOffset, byteLength);
    if (byteLength === 0) {
      await this.sync();
      return new Uint8Array(0);
    }
    const start = Math.floor(byteOffset / 4) * 4;
    const length = wordsOf(byteOffset + byteLength) - start;
    const staging = faults.watch(
      () => this.device.createBuffer({ size: length, usage: bufferUsage.mapRead | bufferUsage.copyTarget }),
      `read: no memory to bring ${length} bytes back from the device`,
    );
    this.#stream.copy(source, start, staging, length);
    this.#stream.submit();
    try {
      await staging.mapAsync(mapModeRead);
      await faults.settle();
      return new Uint8Array(staging.getMappedRange()).slice(byteOffset - start, byteOffset - start + byteLength);
    } catch (rejection) {
      throw await faults.explain(rejection);
    } finally {
      staging.destroy();
    }
  }

  supports(call: Call): boolean {
    return kernelOf(call) !== undefined;
  }

  run(call: Call): void {
    this.#stream.faults.check();
    const kernel = kernelOf(call);
    if (!kernel) throw new TypeError(`${call.op.name}: the webgpu backend has no kernel for it.`);
    kernel(this.#stream, call);
  }

  async sync(): Promise<void> {
    const { faults } = this.#stream;
    faults.check();
    this.#stream.submit();
    try {
      await this.device.queue.onSubmittedWorkDone();
      await faults.settle();
    } catch (rejection) {
      throw await faults.explain(rejection);
    }
  }

  async close(): Promise<void> {
    this.#stream.faults.close();
    this.device.destroy();
    await this.device.lost;
  }

  describe(): Record<string, unknown> {
    const { info, features } = this.#acquired.adapter;
    const { limits } = this.device;
    return {
      name: this.name,
      host: this.#acquired.host,
      vendor: info.vendor,
      architecture: info.architecture,
      description: info.description,
      fallback: info.isFallbackAdapter,
      features: [...features].filter((f) => ['shader-f16', 'subgroups', 'timestamp-query'].includes(f)),
      maxTensorBytes: Math.min(limits.maxStorageBufferBindingSize, limits.maxBufferSize),
      kernels: ['elementwise', ...kernelNames],
      pipelines: this.#stream.pipelines.count,
      dispatches: this.#stream.dispatches,
      submits: this.#stream.submits,
      ...this.#stream.pool.use,
    };
  }

  #checkRange(op: string, { byteLength }: DeviceBuffer, byteOffset: number, length: number): void {
    if (byteOffset < 0 || byteOffset + length > byteLength)
      throw new RangeError(
        `${op}: bytes ${byteOffset} .. ${byteOffset + length} must lie in a buffer of ${byteLength}.`,
      );
  }
}

/** The bytes, filled up with zeros to whole words. */
function padded(bytes: Uint8Array): Uint8Array {
  if (bytes.byteLength % 4 === 0) return bytes;
  const words = new Uint8Array(wordsOf(bytes.byteLength));
  words.set(bytes);
  return words;
}

/**
 * A backend on WebGPU: `navigator.gpu` in a browser, the optional npm package `webgpu` (Dawn) in Node. Throws
 * WebGpuUnavailableError, which says what to install, if there is no adapter.
 */
export async function webgpu(options: WebGpuOptions = {}): Promise<WebGpuBackend> {
  return new WebGpuBackend(await acquire(options), options);
}
