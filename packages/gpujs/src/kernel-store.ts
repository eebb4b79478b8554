/** gpu.js as this package uses it: kernels given as source text, compiled once and run at any size. */
import * as library from 'gpu.js';

/** What a kernel function takes: flat arrays and numbers. */
export type Argument = Float32Array | number;

interface GpuKernel {
  (...values: Argument[]): Float32Array;
  setOutput(size: readonly [number]): unknown;
}

interface Gpu {
  createKernel(source: string, options: object): GpuKernel;
  destroy(): Promise<void> | void;
}

type GpuClass = new (options: { readonly mode: string }) => Gpu;

/** Node sees the CommonJS module's exports, a bundler for browsers the class itself. */
function gpuClass(): GpuClass {
  const found = library as unknown as { GPU?: GpuClass; default?: { GPU?: GpuClass } & GpuClass };
  return found.GPU ?? found.default?.GPU ?? (found.default as GpuClass);
}

/** More turns than any loop here takes; GLSL wants a bound. */
const loopMaxIterations = 1 << 24;
const nothing = new Float32Array(1);

/** Compiles each kernel at its first use. */
export class KernelStore {
  readonly #gpu: Gpu;
  readonly #kernels = new Map<string, GpuKernel>();

  constructor(mode: string) {
    this.#gpu = new (gpuClass())({ mode });
  }

  get count(): number {
    return this.#kernels.size;
  }

  /**
   * `count` results, one a thread. `source` is a function of the arguments whose `this.thread.x` is the place of its
   * result; equal names mean equal sources.
   */
  run(name: string, source: () => string, count: number, values: readonly Argument[]): Float32Array {
    if (count === 0) return new Float32Array(0);
    let kernel = this.#kernels.get(name);
    if (!kernel) {
      const options = { output: [count], dynamicOutput: true, dynamicArguments: true, loopMaxIterations };
      this.#kernels.set(name, (kernel = this.#gpu.createKernel(source(), options)));
    } else kernel.setOutput([count]);
    // An array of no elements has no type for gpu.js; nothing reads this one.
    const result = kernel(...values.map((v) => (typeof v !== 'number' && v.length === 0 ? nothing : v)));
    if (result.length < count)
      throw new Error(`gpujs: kernel ${name} must give ${count} results: got ${result.length}. Report this.`);
    return result;
  }

  async close(): Promise<void> {
    this.#kernels.clear();
    await this.#gpu.destroy();
  }
}
