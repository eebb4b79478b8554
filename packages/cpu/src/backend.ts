import {
  type Backend,
  type BufferHandle,
  bytesBuffer,
  type Call,
  type DType,
  type Operand,
  runReference,
} from '@lorikeet/tensor';
import { CpuBuffer } from './buffer.ts';
import { type Chosen, type CpuOptions, choose } from './features.ts';
import type { Kernel } from './kernel.ts';
import { Elementwise } from './kernels/elementwise-plan.ts';
import { pairedTile, plainTile } from './kernels/micro.ts';
import { makeKernels } from './kernels/registry.ts';
import { WorkMemory } from './memory.ts';
import { selfTest } from './self-test.ts';
import { Team } from './team.ts';

const dtypes: ReadonlySet<DType> = new Set(['f32', 'f16', 'bf16', 'i32', 'u32', 'u8', 'i8']);

/** The WebAssembly SIMD backend. Calls run when they are issued, on all threads. */
export class CpuBackend implements Backend {
  readonly name = 'cpu';
  readonly dtypes = dtypes;
  readonly #team: Team;
  readonly #chosen: Chosen;
  readonly #elementwise: Elementwise;
  readonly #kernels: Map<string, Kernel>;
  #elementwiseOn = true;
  readonly #disabled = new Set<string>();

  constructor(team: Team, chosen: Chosen) {
    this.#team = team;
    this.#chosen = chosen;
    this.#elementwise = new Elementwise(team, chosen);
    this.#kernels = makeKernels(
      { team, features: chosen, elementwise: this.#elementwise },
      chosen.revectorize ? pairedTile : plainTile,
    );
  }

  allocate(byteLength: number): BufferHandle {
    return new CpuBuffer(this.#team.memory.allocate(byteLength), byteLength);
  }

  free(buffer: BufferHandle): void {
    const known = buffer as CpuBuffer;
    if (known.freed) throw new Error('cpu: a buffer must be freed once: it was freed before.');
    known.freed = true;
    this.#team.memory.release(known.address);
  }

  write(buffer: BufferHandle, byteOffset: number, bytes: Uint8Array): void {
    this.#team.memory.bytes.set(bytes, (buffer as CpuBuffer).address + byteOffset);
  }

  async read(buffer: BufferHandle, byteOffset: number, byteLength: number): Promise<Uint8Array> {
    this.#team.check();
    const start = (buffer as CpuBuffer).address + byteOffset;
    return this.#team.memory.bytes.slice(start, start + byteLength);
  }

  supports(call: Call): boolean {
    if (call.program || call.op.reference) return true;
    return this.#kernelFor(call) !== undefined;
  }

  run(call: Call): void {
    this.#team.check();
    if (call.program) {
      if (this.#elementwiseOn && this.#elementwise.run(call)) return;
    } else {
      const kernel = this.#kernelFor(call);
      if (kernel) {
        kernel.run(call);
        return;
      }
    }
    const onBytes = (operand: Operand): Operand => ({ ...operand, buffer: this.#bytesOf(operand.buffer as CpuBuffer) });
    runReference({ ...call, inputs: call.inputs.map((x) => x && onBytes(x)), outputs: call.outputs.map(onBytes) });
  }

  async sync(): Promise<void> {
    this.#team.check();
  }

  close(): Promise<void> {
    return this.#team.close();
  }

  describe(): Record<string, unknown> {
    const { threads, relaxed, revectorize, shared } = this.#chosen;
    const { memory } = this.#team;
    return {
      name: this.name,
      threads,
      sharedMemory: shared,
      relaxedSimd: relaxed,
      revectorize,
      matmulTile: revectorize ? '6x16' : '4x8',
      workMemoryLimitBytes: memory.limitBytes,
      liveBytes: memory.liveBytes,
      peakBytes: memory.peakBytes,
      kernels: this.kernelNames,
      elementwiseKernels: this.#elementwise.kernelCount,
      switchedOff: [...this.#disabled],
    };
  }

  /** Leaves a kernel family out from now on; its calls run as the reference or as compositions. */
  disable(name: string): void {
    this.#disabled.add(name);
    if (name === 'elementwise') this.#elementwiseOn = false;
  }

  get kernelNames(): string[] {
    return [...this.#kernels.keys()].filter((name) => !this.#disabled.has(name));
  }

  /** The thread team, for tests. */
  get team(): Team {
    return this.#team;
  }

  #kernelFor(call: Call): Kernel | undefined {
    if (this.#disabled.has(call.op.name)) return undefined;
    const kernel = this.#kernels.get(call.op.name);
    return kernel?.fits(call) ? kernel : undefined;
  }

  #bytesOf({ address, byteLength }: CpuBuffer): BufferHandle {
    return bytesBuffer(this.#team.memory.bytes.subarray(address, address + byteLength));
  }
}

/**
 * The CPU backend: WebAssembly SIMD assembled at run time and one long-lived worker thread a core. Importing starts
 * nothing; `await backend.close()` lets the process end at once, and forgetting it does not keep the process alive.
 */
export async function cpu(options: CpuOptions = {}): Promise<CpuBackend> {
  const chosen = choose(options);
  const memory = new WorkMemory({ shared: chosen.shared, limitBytes: chosen.memoryLimitBytes });
  const team = await Team.start(memory, chosen.threads);
  const backend = new CpuBackend(team, chosen);
  for (const name of await selfTest(backend, backend.kernelNames)) backend.disable(name);
  return backend;
}
