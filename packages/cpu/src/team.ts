/**
 * The thread team: long-lived workers over one shared memory, the calling thread included. Work is cut into chunks by
 * shape alone and a chunk's result does not depend on who computes it, so any number of threads gives the same bits.
 */
import type { ModuleBuilder } from './assembler.ts';
import { coreCount } from './features.ts';
import type { LinearMemory } from './memory.ts';
import { control, runResult, teamModule } from './team-module.ts';
import { workerSource } from './worker-source.ts';

/** Scratch of one thread: packed panels, edge tiles, rows in work. */
export const scratchBytes = 2 * 1024 * 1024;
const spinMicroseconds = 100;

/** A worker died or stopped answering; the message says which and why. Every later job is refused. */
export class TeamError extends Error {
  override name = 'TeamError';
}

/** A task function in every thread's table. */
export interface Task {
  readonly slot: number;
}

/** The argument block of the next job, as integers and as floats. */
interface ArgumentBlock {
  readonly words: Uint32Array;
  readonly floats: Float32Array;
}

interface WorkerHandle {
  readonly name: string;
  readonly ready: Promise<void>;
  readonly exited: Promise<void>;
  /** Keeps the process alive until the worker has ended. */
  hold(): void;
  terminate(): void;
}

interface LoopExports {
  run(slot: number, args: number, chunks: number, scratch: number, modules: number, mayBlock: number): number;
  alone(slot: number, args: number, chunks: number, scratch: number): void;
}

type Install = (count: number, scratch: number) => void;

/** The team whose workers may spin; of several in one thread it is the last that worked. */
let spinning: Team | undefined;

const bytesOf = (text: Uint8Array) => new TextDecoder().decode(text.slice(0, text.indexOf(0)));

export class Team {
  readonly memory: LinearMemory;
  /** Large tensors that kernels only read; absent where 64-bit memories are. */
  readonly store: LinearMemory | undefined;
  readonly threads: number;
  readonly #exports: LoopExports;
  readonly #install: Install;
  readonly #scratch: number;
  readonly #mayBlock: number;
  #workers: WorkerHandle[] = [];
  /** Turns that a worker spins before it waits. */
  #spins = 1;
  #slots = 0;
  #modules = 0;
  #failure: TeamError | undefined;
  #closing = false;
  #block: ArgumentBlock | undefined;

  private constructor(memory: LinearMemory, threads: number, store: LinearMemory | undefined) {
    this.memory = memory;
    this.store = store;
    this.threads = threads;
    this.#scratch = this.#newScratch();
    const table = new WebAssembly.Table({ element: 'anyfunc', initial: control.slots });
    this.#install = makeInstaller(memory.memory, store?.memory, table);
    const loop = new WebAssembly.Module(teamModule(memory.shape));
    const imports = { e: { memory: memory.memory, table, install: this.#install } };
    this.#exports = new WebAssembly.Instance(loop, imports).exports as unknown as LoopExports;
    this.#mayBlock = typeof document === 'undefined' ? 1 : 0;
    this.#loop = loop;
  }

  readonly #loop: WebAssembly.Module;

  /** Starts `threads - 1` workers and waits until each runs. */
  static async start(memory: LinearMemory, threads: number, store?: LinearMemory): Promise<Team> {
    const team = new Team(memory, memory.shape.shared ? threads : 1, store);
    if (team.threads === 1) return team;
    // More spinning threads than cores would keep each other from working.
    team.#spins = threads > coreCount() ? 1 : spinsFor(spinMicroseconds);
    team.#spin(false);
    for (let number = 1; number < team.threads; number++) team.#workers.push(team.#startWorker(number));
    await Promise.all(team.#workers.map((worker) => worker.ready));
    return team;
  }

  /** Puts a module's exported functions into every thread's table, lazily there; gives each export's task by name. */
  install(module: ModuleBuilder): Record<string, Task> {
    const bytes = module.build();
    if (this.#modules >= control.maxModules)
      throw new Error(`cpu: at most ${control.maxModules} kernel modules: one more asked. Reuse expressions.`);
    const compiled = WebAssembly.Module.exports(new WebAssembly.Module(bytes));
    if (this.#slots + compiled.length > control.slots)
      throw new Error(`cpu: at most ${control.slots} kernels: ${compiled.length} more asked. Reuse expressions.`);
    const address = this.memory.allocate(bytes.length);
    this.memory.bytes.set(bytes, address);
    const words = new Uint32Array(this.memory.memory.buffer);
    words.set([address, bytes.length, this.#slots], control.modules / 4 + this.#modules * 4);
    const tasks: Record<string, Task> = {};
    for (const [i, { name }] of compiled.entries()) tasks[name] = { slot: this.#slots + i };
    this.#slots += compiled.length;
    this.#modules++;
    this.#install(this.#modules, this.#scratch);
    return tasks;
  }

  /**
   * Runs chunks 0 .. chunks-1 of a task and returns when all are done. `words` become the argument block: integers and
   * addresses as they are, floats through `floatWord`. Throws TeamError where a worker died.
   */
  run(task: Task, words: readonly number[], chunks: number): void {
    const block = this.argumentBlock.words;
    if (words.length > block.length)
      throw new RangeError(`cpu: an argument block must fit ${argumentBytes} bytes: got ${words.length * 4}.`);
    for (let i = 0; i < words.length; i++) block[i] = words[i]!;
    this.start(task, chunks);
  }

  /** `run` for a caller that has written the argument block itself. */
  start(task: Task, chunks: number): void {
    if (this.#failure) throw this.#failure;
    if (this.#closing) throw new TeamError('cpu: the backend must be open: it was closed.');
    if (chunks <= 0) return;
    if (this.threads === 1 || chunks === 1) {
      this.#exports.alone(task.slot, control.arguments, chunks, this.#scratch);
      return;
    }
    if (spinning !== this) this.#takeCores();
    let result: number = runResult.failed;
    try {
      result = this.#exports.run(task.slot, control.arguments, chunks, this.#scratch, this.#modules, this.#mayBlock);
    } catch (error) {
      this.#failure = new TeamError(`cpu: a kernel stopped: ${String(error)}. The backend cannot be used any more.`);
      throw this.#failure;
    }
    if (result !== runResult.ok) throw this.#fail(result);
  }

  /** The workers of the team that ran before stop spinning: two teams would be more threads than cores. */
  #takeCores(): void {
    if (spinning) spinning.#spin(false);
    spinning = this;
    this.#spin(true);
  }

  #spin(on: boolean): void {
    Atomics.store(new Int32Array(this.memory.memory.buffer), control.spins / 4, on ? this.#spins : 1);
  }

  /** Where `start` finds its arguments; ask for it at each call, because memory that grows makes new views. */
  get argumentBlock(): ArgumentBlock {
    const { buffer } = this.memory.bytes;
    if (this.#block?.words.buffer !== buffer)
      this.#block = {
        words: new Uint32Array(buffer, control.arguments, argumentBytes / 4),
        floats: new Float32Array(buffer, control.arguments, argumentBytes / 4),
      };
    return this.#block;
  }

  /** Throws where the team cannot work any more. */
  check(): void {
    if (this.#failure) throw this.#failure;
  }

  /** Lets the workers end and waits for them. Later jobs are refused. */
  async close(): Promise<void> {
    if (this.#closing) return;
    this.#closing = true;
    if (spinning === this) spinning = undefined;
    if (this.#workers.length === 0) return;
    for (const worker of this.#workers) worker.hold();
    const words = new Int32Array(this.memory.memory.buffer);
    Atomics.store(words, control.stop / 4, 1);
    Atomics.add(words, control.sequence / 4, 1);
    Atomics.notify(words, control.sequence / 4);
    if (this.#failure) for (const worker of this.#workers) worker.terminate();
    await Promise.all(this.#workers.map((worker) => worker.exited));
  }

  /** The platform's worker objects, for tests that end one. */
  get workers(): readonly { readonly name: string; terminate(): void }[] {
    return this.#workers;
  }

  #newScratch(): number {
    const address = this.memory.allocate(scratchBytes + 64) + 64;
    new Int32Array(this.memory.memory.buffer)[(address - 64) / 4] = 0;
    return address;
  }

  #startWorker(number: number): WorkerHandle {
    const name = `worker ${number} of the cpu team`;
    const data = {
      memory: this.memory.memory,
      store: this.store?.memory,
      loop: this.#loop,
      scratch: this.#newScratch(),
      number,
      control,
    };
    const died = (why: string) => {
      if (this.#closing) return;
      this.#failure ??= new TeamError(`cpu: every worker must live: ${name} ${why}. Make a new backend.`);
    };
    return startPlatformWorker(name, data, died);
  }

  #fail(result: number): TeamError {
    const bytes = this.memory.bytes;
    const number = new Int32Array(bytes.buffer)[control.failed / 4];
    const why =
      result === runResult.failed
        ? `worker ${number} stopped: ${bytesOf(bytes.slice(control.failureText, control.failureText + 256))}`
        : 'a worker finished no chunk for 30 s';
    this.#failure = new TeamError(`cpu: every worker must live: ${why}. Make a new backend.`);
    return this.#failure;
  }
}

const argumentBytes = 16 * 1024;

/** The bits of a float as a word of an argument block. */
export function floatWord(value: number): number {
  floatView[0] = value;
  return wordView[0]!;
}

const floatView = new Float32Array(1);
const wordView = new Uint32Array(floatView.buffer);

function makeInstaller(
  memory: WebAssembly.Memory,
  store: WebAssembly.Memory | undefined,
  table: WebAssembly.Table,
): Install {
  let installed = 0;
  return (count, scratch) => {
    for (; installed < count; installed++) {
      const words = new Uint32Array(memory.buffer);
      const at = control.modules / 4 + installed * 4;
      const [address, length, firstSlot] = [words[at]!, words[at + 1]!, words[at + 2]!];
      const module = new WebAssembly.Module(new Uint8Array(memory.buffer, address, length).slice());
      const exported = new WebAssembly.Instance(module, { e: { memory, table, ...(store && { store }) } }).exports;
      for (const [i, { name }] of WebAssembly.Module.exports(module).entries())
        table.set(firstSlot + i, exported[name]);
    }
    new Int32Array(memory.buffer)[(scratch - 64) / 4] = installed;
  };
}

/** How many turns of an atomic-load loop last so long on this machine. */
function spinsFor(microseconds: number): number {
  const words = new Int32Array(new SharedArrayBuffer(4));
  const turns = 200_000;
  let best = Number.POSITIVE_INFINITY;
  for (let round = 0; round < 3; round++) {
    const start = performance.now();
    for (let i = 0; i < turns; i++) Atomics.load(words, 0);
    best = Math.min(best, performance.now() - start);
  }
  // The loop in WebAssembly is about as fast as optimized JavaScript's.
  return Math.max(1000, Math.min(1_000_000, Math.round((turns * microseconds) / 1000 / Math.max(best, 0.01))));
}

type Died = (why: string) => void;

function startPlatformWorker(name: string, data: object, died: Died): WorkerHandle {
  const threads = globalThis.process?.getBuiltinModule?.('node:worker_threads');
  return threads ? startNodeWorker(threads, name, data, died) : startWebWorker(name, data, died);
}

function startNodeWorker(
  threads: typeof import('node:worker_threads'),
  name: string,
  data: object,
  died: Died,
): WorkerHandle {
  const worker = new threads.Worker(workerSource, { eval: true, workerData: data, execArgv: [], name });
  const exited = new Promise<void>((resolve) => {
    worker.on('exit', (code) => {
      died(`ended with code ${code}`);
      resolve();
    });
  });
  const ready = new Promise<void>((resolve, reject) => {
    worker.once('message', () => {
      worker.unref();
      resolve();
    });
    worker.on('error', (error) => {
      died(`failed: ${error.message}`);
      reject(new TeamError(`cpu: every worker must start: ${name} failed: ${error.message}.`));
    });
  });
  ready.catch(() => {});
  return { name, ready, exited, hold: () => worker.ref(), terminate: () => void worker.terminate() };
}

function startWebWorker(name: string, data: object, died: Died): WorkerHandle {
  const url = URL.createObjectURL(new Blob([workerSource], { type: 'text/javascript' }));
  const worker = new Worker(url, { name });
  const ready = new Promise<void>((resolve, reject) => {
    worker.onmessage = () => resolve();
    worker.onerror = (event) => {
      died(`failed: ${event.message}`);
      reject(new TeamError(`cpu: every worker must start: ${name} failed: ${event.message}.`));
    };
  }).finally(() => URL.revokeObjectURL(url));
  ready.catch(() => {});
  worker.postMessage(data);
  return { name, ready, exited: Promise.resolve(), hold: () => {}, terminate: () => worker.terminate() };
}
