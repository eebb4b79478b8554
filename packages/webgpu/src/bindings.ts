import type { Operand } from '@lorikeet/tensor';
import type { DeviceBuffer } from './buffer-pool.ts';

/**
 * The buffers of one dispatch, each bound once: WebGPU forbids a writable binding to share its buffer with another, so an
 * operand that is updated in place, or two operands in one buffer, go through one binding.
 */
export class Bindings {
  readonly #buffers: DeviceBuffer[] = [];
  readonly #writes: boolean[] = [];
  #pattern = '';

  /** Binds an operand's buffer and returns the name of the binding. */
  read(operand: Operand): string {
    return this.#add(operand.buffer as DeviceBuffer, false);
  }
  write(operand: Operand): string {
    return this.#add(operand.buffer as DeviceBuffer, true);
  }
  get buffers(): readonly DeviceBuffer[] {
    return this.#buffers;
  }
  /** One letter a binding: r or w. Pipelines with equal access share a layout. */
  get access(): string {
    return this.#writes.map((w) => (w ? 'w' : 'r')).join('');
  }
  /** Which operand lies in which binding: part of a kernel's identity. */
  get key(): string {
    return `${this.#pattern}:${this.access}`;
  }
  declare(): string {
    return this.#writes
      .map((w, i) => `@group(1) @binding(${i}) var<storage, ${w ? 'read_write' : 'read'}> b${i}: array<u32>;`)
      .join('\n');
  }
  #add(buffer: DeviceBuffer, writes: boolean): string {
    let at = this.#buffers.indexOf(buffer);
    if (at < 0) at = this.#buffers.push(buffer) - 1;
    this.#writes[at] = (this.#writes[at] ?? false) || writes;
    this.#pattern += at;
    return `b${at}`;
  }
}
