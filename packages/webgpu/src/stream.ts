import type { Bindings } from './bindings.ts';
import { BufferPool, bufferUsage, type DeviceBuffer } from './buffer-pool.ts';
import { Faults } from './faults.ts';
import { Pipelines, uniformBytes } from './pipelines.ts';
import type { Uniforms } from './uniforms.ts';

/** One kernel to run. */
export interface Dispatch {
  /** For messages. */
  readonly kernel: string;
  /** Everything that shapes the source, but for the bindings. */
  readonly key: string;
  /** WGSL after the declarations of uniforms and bindings; called only when the key is new. */
  readonly source: () => string;
  readonly bindings: Bindings;
  readonly uniforms: Uniforms;
  /** Workgroups in all; they are laid out over x and y (a dimension holds 65,535), so kernels read `linear`. */
  readonly workgroups: number;
  /** Workgroups along z. Default 1. */
  readonly layers?: number;
  /** Rough count of scalar operations: long work is submitted early. */
  readonly work: number;
}

const uniformChunk = 64 * 1024;
const maxWork = 2 ** 30;
const maxWorkgroups = 65535;

/** Records commands into one encoder and submits seldom: when something is read, or the batch has grown large. */
export class Stream {
  readonly device: GPUDevice;
  readonly faults: Faults;
  readonly pool: BufferPool;
  readonly pipelines: Pipelines;
  readonly #uniformWords = new Uint32Array(uniformChunk / 4);
  readonly #uniformBuffer: GPUBuffer;
  readonly #uniformGroup: GPUBindGroup;
  readonly #uniformStep: number;
  #uniformAt = 0;
  #encoder: GPUCommandEncoder | null = null;
  #pass: GPUComputePassEncoder | null = null;
  #work = 0;
  #batch = 1;
  #kernels = new Set<string>();
  dispatches = 0;
  submits = 0;

  constructor(device: GPUDevice, verify: boolean) {
    this.device = device;
    this.faults = new Faults(device);
    this.pool = new BufferPool(device, this.faults);
    this.pipelines = new Pipelines(device, this.faults, verify);
    this.#uniformBuffer = device.createBuffer({
      size: uniformChunk,
      usage: bufferUsage.uniform | bufferUsage.copyTarget,
    });
    this.#uniformGroup = device.createBindGroup({
      layout: this.pipelines.uniformLayout,
      entries: [{ binding: 0, resource: { buffer: this.#uniformBuffer, size: uniformBytes } }],
    });
    this.#uniformStep = device.limits.minUniformBufferOffsetAlignment;
  }

  dispatch({ kernel, key, source, bindings, uniforms, workgroups, layers = 1, work }: Dispatch): void {
    if (workgroups === 0 || layers === 0) return;
    const { access } = bindings;
    const pipeline = this.pipelines.pipeline(kernel, `${key}|${bindings.key}`, access, () =>
      [uniforms.declare(), bindings.declare(), source()].join('\n'),
    );
    const offset = this.#placeUniforms(kernel, uniforms);
    const pass = this.#openPass();
    this.#kernels.add(kernel);
    for (const { pooled } of bindings.buffers) pooled.lastBatch = this.#batch;
    pass.setPipeline(pipeline);
    pass.setBindGroup(0, this.#uniformGroup, [offset]);
    const bound = bindings.buffers.map(({ pooled, boundLength }) => ({ ...pooled, size: boundLength }));
    pass.setBindGroup(1, this.pipelines.bindGroup(access, bound));
    const y = Math.ceil(workgroups / maxWorkgroups);
    pass.dispatchWorkgroups(Math.ceil(workgroups / y), y, Math.min(layers, maxWorkgroups));
    this.dispatches++;
    this.#work += work;
    if (this.#work > maxWork) this.submit();
  }

  /** Copies bytes between buffers; offsets and length in whole words. */
  copy(source: DeviceBuffer, sourceOffset: number, target: GPUBuffer, length: number): void {
    this.#closePass();
    this.#openEncoder().copyBufferToBuffer(source.pooled.gpu, sourceOffset, target, 0, length);
    source.pooled.lastBatch = this.#batch;
  }

  /** Writes words after everything issued so far. The queue writes ahead of commands that wait, so those go first. */
  write(target: DeviceBuffer, byteOffset: number, words: Uint8Array): void {
    if (target.pooled.lastBatch === this.#batch) this.submit();
    this.device.queue.writeBuffer(target.pooled.gpu, byteOffset, words);
  }

  submit(): void {
    if (!this.#encoder) return;
    this.#closePass();
    const encoder = this.#encoder;
    const named = [...this.#kernels].slice(0, 8).join(', ');
    this.faults.watch(
      () => {
        this.device.queue.writeBuffer(this.#uniformBuffer, 0, this.#uniformWords, 0, this.#uniformAt / 4);
        this.device.queue.submit([encoder.finish()]);
      },
      `webgpu: commands (${named || 'copies'}) failed`,
    );
    this.#encoder = null;
    this.#kernels = new Set();
    this.#uniformAt = 0;
    this.#work = 0;
    this.#batch++;
    this.submits++;
    this.pool.trim();
  }

  #placeUniforms(kernel: string, { words }: Uniforms): number {
    if (words.length * 4 > uniformBytes)
      throw new Error(`webgpu: kernel ${kernel} may have ${uniformBytes / 4} run-time numbers: got ${words.length}.`);
    if (this.#uniformAt + uniformBytes > uniformChunk) this.submit();
    const offset = this.#uniformAt;
    this.#uniformWords.set(words, offset / 4);
    this.#uniformAt += Math.max(1, Math.ceil((words.length * 4) / this.#uniformStep)) * this.#uniformStep;
    return offset;
  }
  #openEncoder(): GPUCommandEncoder {
    return (this.#encoder ??= this.device.createCommandEncoder());
  }
  #openPass(): GPUComputePassEncoder {
    return (this.#pass ??= this.#openEncoder().beginComputePass());
  }
  #closePass(): void {
    this.#pass?.end();
    this.#pass = null;
  }
}
