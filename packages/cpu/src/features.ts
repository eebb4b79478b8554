/** What this machine and this host can do, and what the caller or LORIKEET_CPU allows. */
import { ModuleBuilder } from './assembler.ts';
import { f32x4, i64, v128 } from './instructions.ts';
import { defaults, type KernelParameters, readTuning, shipped, type Tuning } from './tuning.ts';

export interface CpuOptions {
  /** Threads, the calling one included. Default: one a core. 1 starts no worker. */
  readonly threads?: number;
  /**
   * 'auto' turns on V8's `--experimental-wasm-revectorize` (x64, Node): about twice as fast. The flag holds for the whole
   * process and V8 calls it experimental, so a library leaves it off.
   * @defaultValue false
   */
  readonly revectorize?: 'auto' | false;
  /**
   * Tensors of at least this many bytes that are written whole go to the 64-bit store, from which products and embeddings
   * read them; other ops copy them to work memory first. Default 1 MiB.
   */
  readonly storeFromBytes?: number;
  /** Upper bound of work memory in bytes, at most 4 GiB. Default 4 GiB. */
  readonly memoryLimitBytes?: number;
  /** KernelParameters of kernels for this machine, as `pnpm bench --tune` writes them. Default: those that come with the package. */
  readonly tuning?: Tuning;
}

/** What was chosen, for `describe()`. */
export interface Chosen {
  readonly threads: number;
  readonly shared: boolean;
  readonly relaxed: boolean;
  readonly revectorize: boolean;
  readonly memoryLimitBytes: number | undefined;
  /** A shared 64-bit memory beside work memory. */
  readonly store: boolean;
  readonly storeFromBytes: number;
  readonly parameters: KernelParameters;
  /** The machine and date of the tuning table in use. */
  readonly tunedFor: string;
}

const switchNames = ['revec', 'norevec', 'norelaxed', 'nomem64'] as const;

/** Parses LORIKEET_CPU: a comma-separated list of revec or norevec, norelaxed, nomem64 and threads=N. */
export function parseSwitches(text: string): { switches: Set<string>; threads: number | undefined } {
  const switches = new Set<string>();
  let threads: number | undefined;
  for (const part of text.split(',').map((p) => p.trim())) {
    if (part === '') continue;
    const count = /^threads=([1-9]\d*)$/.exec(part);
    if (count) threads = Number(count[1]);
    else if ((switchNames as readonly string[]).includes(part)) switches.add(part);
    else throw new RangeError(`LORIKEET_CPU: must list ${switchNames.join(', ')} or threads=N: got ${part}.`);
  }
  return { switches, threads };
}

/** Whether a module with relaxed multiply-add compiles here. */
export function hasRelaxedSimd(): boolean {
  const m = new ModuleBuilder({ shared: false, maximumPages: 1 });
  m.function('probe', [], [], (f) => f.drop(f32x4.relaxedMadd(f32x4.const(1), f32x4.const(2), f32x4.const(3))));
  return WebAssembly.validate(m.build());
}

/** Whether a module with a second, 64-bit shared memory compiles here. */
function hasStore(): boolean {
  const m = new ModuleBuilder({ shared: true, maximumPages: 1, storePages: 1 });
  m.importStore();
  m.function('probe', [], [], (f) => f.drop(v128.load(i64.const(0n))));
  return WebAssembly.validate(m.build());
}

const builtin = <T>(name: string): T | undefined =>
  globalThis.process?.getBuiltinModule?.(name as 'node:os') as T | undefined;

/** Cores this process may use. */
export function coreCount(): number {
  const os = builtin<typeof import('node:os')>('node:os');
  return os ? os.availableParallelism() : (globalThis.navigator?.hardwareConcurrency ?? 1);
}

/** Workers that share memory: in Node always, in a page only when it is cross-origin isolated. */
function canShare(): boolean {
  if (typeof SharedArrayBuffer === 'undefined') return false;
  if (builtin('node:worker_threads')) return true;
  return typeof Worker !== 'undefined' && globalThis.crossOriginIsolated === true;
}

/** Sets V8's flag. It must be on before a kernel first runs, in every thread of the process. */
function revectorizeOn(): boolean {
  const v8 = builtin<typeof import('node:v8')>('node:v8');
  if (!v8 || globalThis.process?.arch !== 'x64') return false;
  v8.setFlagsFromString('--experimental-wasm-revectorize');
  return true;
}

export function choose(options: CpuOptions): Chosen {
  const { switches, threads: forced } = parseSwitches(globalThis.process?.env?.LORIKEET_CPU ?? '');
  const threads = forced ?? options.threads ?? coreCount();
  if (!Number.isInteger(threads) || threads < 1 || threads > 256)
    throw new RangeError(`cpu: threads must be an integer in 1 .. 256: got ${threads}.`);
  const limit = options.memoryLimitBytes;
  if (limit !== undefined && !(limit >= 2 ** 23 && limit <= 2 ** 32))
    throw new RangeError(`cpu: memoryLimitBytes must be in ${2 ** 23} .. ${2 ** 32}: got ${limit}.`);
  const tuning = options.tuning && readTuning(options.tuning);
  const shared = canShare();
  const wantsPairs = options.revectorize === 'auto' || switches.has('revec');
  return {
    threads: shared ? threads : 1,
    shared,
    relaxed: !switches.has('norelaxed') && hasRelaxedSimd(),
    revectorize: wantsPairs && !switches.has('norevec') && revectorizeOn(),
    memoryLimitBytes: limit,
    store: shared && !switches.has('nomem64') && hasStore(),
    storeFromBytes: options.storeFromBytes ?? 2 ** 20,
    parameters: { ...defaults, ...tuning?.parameters },
    tunedFor: tuning ? `${tuning.hardware}, ${tuning.date}` : `${shipped.hardware}, ${shipped.date}`,
  };
}
