import {
  type Backend,
  type BufferHandle,
  bytesBuffer,
  type Call,
  type DType,
  type Operand,
  runReference,
} from '@lorikeet/tensor';
import { type CpuBuffer, inStore } from './buffer.ts';
import { type Chosen, type CpuOptions, choose } from './features.ts';
import { Fusion } from './fusion.ts';
import type { Kernel } from './kernel.ts';
import { blockKeys, blockQueries } from './kernels/attention-blocks.ts';
import { Elementwise } from './kernels/elementwise-plan.ts';
import { parseTile } from './kernels/micro.ts';
import { blockElements } from './kernels/reduce.ts';
import { makeKernels } from './kernels/registry.ts';
import { LinearMemory, maxStorePages } from './memory.ts';
import { Placement } from './placement.ts';
import { selfTest } from './self-test.ts';
import { Team } from './team.ts';

const none: readonly number[] = [];

/** Whether an operand lies in the store that is not one of those which may. */
function hasFar(operands: readonly (Operand | null)[], mayStay: readonly number[]): boolean {
  for (let i = 0; i < operands.length; i++) {
    const operand = operands[i];
    if (operand && inStore(operand) && !mayStay.includes(i)) return true;
  }
  return false;
}

const dtypes: ReadonlySet<DType> = new Set(['f32', 'f16', 'bf16', 'i32', 'u32', 'u8', 'i8']);

/** The WebAssembly SIMD backend. Calls run when they are issued, on all threads; elementwise ones may wait for their successors. */
export class CpuBackend implements Backend {
  readonly name = 'cpu';
  readonly dtypes = dtypes;
  readonly readsColumnBlocks = true;
  readonly #team: Team;
  readonly #chosen: Chosen;
  readonly #placement: Placement;
  readonly #elementwise: Elementwise;
  readonly #fusion: Fusion;
  readonly #kernels: Map<string, Kernel>;
  #elementwiseOn = true;
  #fuses = true;
  readonly #disabled = new Set<string>();

  constructor(team: Team, chosen: Chosen) {
    this.#team = team;
    this.#chosen = chosen;
    this.#placement = new Placement(team.memory, team.store, chosen.storeFromBytes);
    this.#elementwise = new Elementwise(team, chosen);
    this.#fusion = new Fusion({
      run: (call) => this.#compute(call, undefined),
      tryRun: (call) => this.#elementwiseOn && this.#elementwise.run(call),
      release: (buffer) => this.#placement.free(buffer),
    });
    team.memory.beforeGrowing = () => this.#fusion.flush();
    this.#kernels = makeKernels(
      { team, features: chosen, parameters: chosen.parameters, elementwise: this.#elementwise },
      parseTile(chosen.parameters[chosen.revectorize ? 'matmul.pairedTile' : 'matmul.plainTile']),
    );
  }

  allocate(byteLength: number): BufferHandle {
    return this.#placement.allocate(byteLength);
  }

  free(buffer: BufferHandle): void {
    if ((buffer as CpuBuffer).waiting) this.#fusion.free(buffer as CpuBuffer);
    else this.#placement.free(buffer as CpuBuffer);
  }

  pageOut(buffer: BufferHandle): void {
    this.#fusion.flush();
    this.#placement.pageOut(buffer as CpuBuffer);
  }

  write(buffer: BufferHandle, byteOffset: number, bytes: Uint8Array): void {
    if ((buffer as CpuBuffer).waiting) this.#fusion.flush();
    this.#placement.write(buffer as CpuBuffer, byteOffset, bytes);
  }

  async read(buffer: BufferHandle, byteOffset: number, byteLength: number): Promise<Uint8Array> {
    this.#team.check();
    this.#fusion.flush();
    return this.#placement.bytesOf(buffer as CpuBuffer).slice(byteOffset, byteOffset + byteLength);
  }

  supports(call: Call): boolean {
    if (call.program || call.op.reference) return true;
    return this.#kernelFor(call) !== undefined;
  }

  run(call: Call): void {
    this.#team.check();
    if (this.#fuses && this.#fusion.take(call)) return;
    const kernel = call.program ? undefined : this.#kernelFor(call);
    const stays = kernel?.readsStore ?? none;
    if (hasFar(call.inputs, stays) || hasFar(call.outputs, none)) this.#runNear(call, kernel, stays);
    else this.#compute(call, kernel);
  }

  /** Runs a call whose operands partly lie in the store, where its kernel cannot read or write them. */
  #runNear(call: Call, kernel: Kernel | undefined, stays: readonly number[]): void {
    const isFar = (operand: Operand | null, i: number) => operand !== null && inStore(operand) && !stays.includes(i);
    const written = new Set<object>(call.outputs.map(({ buffer }) => buffer));
    const near = call.inputs.filter((operand, i): operand is Operand => isFar(operand, i));
    const { operands, release } = this.#placement.forWork([...near, ...call.outputs], written);
    try {
      const inputs = call.inputs.map((operand) =>
        operand && near.includes(operand) ? operands[near.indexOf(operand)]! : operand,
      );
      this.#compute({ ...call, inputs }, kernel);
    } finally {
      release();
    }
  }

  #compute(call: Call, kernel: Kernel | undefined): void {
    if (kernel) {
      kernel.run(call);
      return;
    }
    if (call.program && this.#elementwiseOn && this.#elementwise.run(call)) return;
    const onBytes = (operand: Operand): Operand => ({
      ...operand,
      buffer: bytesBuffer(this.#placement.bytesOf(operand.buffer as CpuBuffer)),
    });
    runReference({ ...call, inputs: call.inputs.map((x) => x && onBytes(x)), outputs: call.outputs.map(onBytes) });
  }

  async sync(): Promise<void> {
    this.#team.check();
    this.#fusion.flush();
  }

  close(): Promise<void> {
    return this.#team.close();
  }

  /** For `await using`. */
  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }

  describe(): Record<string, unknown> {
    this.#fusion.flush();
    const { threads, relaxed, revectorize, shared, parameters } = this.#chosen;
    const { memory, store } = this.#team;
    return {
      name: this.name,
      threads,
      sharedMemory: shared,
      relaxedSimd: relaxed,
      determinism: `k ${parameters['matmul.blockK']}, dots to ${parameters['dots.rows']}, row blocks ${blockElements}, attention ${blockQueries}x${blockKeys}, ${globalThis.process?.arch ?? 'browser'}`,
      revectorize,
      matmulTile: parameters[revectorize ? 'matmul.pairedTile' : 'matmul.plainTile'],
      tuning: this.#chosen.tunedFor,
      workMemoryLimitBytes: memory.limitBytes,
      liveBytes: memory.liveBytes,
      peakBytes: memory.peakBytes,
      storeLimitBytes: store?.limitBytes ?? 0,
      storeBytes: store?.liveBytes ?? 0,
      kernels: this.kernelNames,
      elementwiseKernels: this.#elementwise.kernelCount,
      fusedChains: this.#fusion.programCount,
      switchedOff: [...this.#disabled],
    };
  }

  /** Leaves a kernel family out from now on; its calls run as the reference or as compositions. 'fusion': each call runs alone. */
  disable(name: string): void {
    this.#fusion.flush();
    this.#disabled.add(name);
    if (name === 'elementwise') this.#elementwiseOn = false;
    if (name === 'fusion') this.#fuses = false;
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
}

/**
 * The CPU backend: WebAssembly SIMD assembled at run time and one long-lived worker thread a core. Importing starts
 * nothing; `await backend.close()` lets the process end at once, and forgetting it does not keep the process alive.
 */
export async function cpu(options: CpuOptions = {}): Promise<CpuBackend> {
  const chosen = choose(options);
  const store = chosen.store ? openStore() : undefined;
  const memory = new LinearMemory({
    shared: chosen.shared,
    limitBytes: chosen.memoryLimitBytes,
    ...(store && { storePages: store.shape.maximumPages }),
  });
  const team = await Team.start(memory, chosen.threads, store);
  const backend = new CpuBackend(team, chosen);
  for (const name of await selfTest(backend, backend.kernelNames)) backend.disable(name);
  return backend;
}

/** The 64-bit store; undefined where its address space cannot be reserved. */
function openStore(): LinearMemory | undefined {
  try {
    return new LinearMemory({ shared: true, wide: true, limitBytes: maxStorePages * 65536 });
  } catch {
    return undefined;
  }
}
