import { DeviceLostError, OutOfMemoryError } from '@lorikeet/tensor';

/** A kernel that the device refused: WGSL that does not compile, or a command that is not valid. A bug of this package. */
export class KernelError extends Error {
  override name = 'KernelError';
}

const filters = ['validation', 'internal', 'out-of-memory'] as const;

/** Collects what a device reports later than the call that caused it, for the next read or sync to throw. */
export class Faults {
  readonly #device: GPUDevice;
  readonly #pending = new Set<Promise<void>>();
  #first: { readonly error: Error; readonly order: number } | null = null;
  #calls = 0;
  #lost: DeviceLostError | null = null;
  #closed = false;

  constructor(device: GPUDevice) {
    this.#device = device;
    device.lost.then(({ reason, message }) => {
      this.#lost ??= new DeviceLostError(
        this.#closed
          ? 'webgpu: the backend was closed. Make a new one with webgpu().'
          : `webgpu: the device was lost (${reason || 'unknown'}${message ? `: ${message}` : ''}). Make a new backend with webgpu() and load your tensors again.`,
      );
    });
    device.addEventListener('uncapturederror', (event) => {
      event.preventDefault();
      this.report(new KernelError(`webgpu: ${event.error.message}`));
    });
  }

  /**
   * Runs device calls whose errors are to be named by `what`; kernels pass their name. `detail` is asked once something
   * failed, for more to say or for clearing up.
   */
  watch<T>(calls: () => T, what: string, detail?: () => Promise<string>): T {
    for (const filter of filters) this.#device.pushErrorScope(filter);
    const result = calls();
    const popped = filters.map(() => this.#device.popErrorScope());
    const order = this.#calls++;
    const settle = async (): Promise<void> => {
      const found = (await Promise.all(popped)).find((e) => e !== null);
      if (!found) return;
      const outOfMemory = found.constructor.name === 'GPUOutOfMemoryError';
      const more = (await detail?.()) ?? '';
      const text = outOfMemory ? what : `${what}: ${found.message}${more}`;
      this.report(outOfMemory ? new OutOfMemoryError(text) : new KernelError(text), order);
    };
    this.track(settle().catch(() => {}));
    return result;
  }

  /** Makes the next read or sync wait for a check. */
  track(check: Promise<void>): void {
    this.#pending.add(check);
    check.finally(() => this.#pending.delete(check));
  }

  /** Keeps the fault of the earliest call: later ones may only be its consequences. */
  report(error: Error, order = this.#calls): void {
    if (!this.#first || order < this.#first.order) this.#first = { error, order };
  }

  /** Marks the loss that follows as wanted. */
  close(): void {
    this.#closed = true;
  }

  /** Throws if the device is known to be gone. */
  check(): void {
    if (this.#closed)
      throw this.#lost ?? new DeviceLostError('webgpu: the backend was closed. Make a new one with webgpu().');
    if (this.#lost) throw this.#lost;
  }

  /** Waits for every outstanding check; throws the loss of the device, or the first fault since the last call. */
  async settle(): Promise<void> {
    while (this.#pending.size > 0) await Promise.all(this.#pending);
    this.check();
    const fault = this.#first;
    this.#first = null;
    if (fault) throw fault.error;
  }

  /** What a rejected read means: the loss of the device, or a fault, if that is why; else the rejection itself. */
  async explain(rejection: unknown): Promise<unknown> {
    if (
      rejection instanceof Error &&
      [DeviceLostError, KernelError, OutOfMemoryError].some((c) => rejection instanceof c)
    )
      return rejection;
    while (this.#pending.size > 0) await Promise.all(this.#pending);
    const soon = new Promise<void>((resolve) => setTimeout(resolve, 200));
    await Promise.race([this.#device.lost, soon]);
    return this.#lost ?? this.#first?.error ?? rejection;
  }
}
