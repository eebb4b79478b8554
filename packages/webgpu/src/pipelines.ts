import type { Faults } from './faults.ts';

/** Bytes of uniforms that a dispatch may use. */
export const uniformBytes = 1024;
const computeStage = 4;
const cachedBindGroups = 4096;

/** Compiled kernels by key, layouts by access pattern, bind groups by buffers. */
export class Pipelines {
  readonly #device: GPUDevice;
  readonly #faults: Faults;
  readonly #verify: boolean;
  readonly #pipelines = new Map<string, GPUComputePipeline>();
  readonly #sources = new Map<string, string>();
  readonly #layouts = new Map<string, GPUBindGroupLayout>();
  readonly #groups = new Map<string, GPUBindGroup>();
  readonly uniformLayout: GPUBindGroupLayout;

  /** `verify` makes every call produce its source and compare: a key that says too little is then an error. */
  constructor(device: GPUDevice, faults: Faults, verify: boolean) {
    this.#device = device;
    this.#faults = faults;
    this.#verify = verify;
    this.uniformLayout = device.createBindGroupLayout({
      entries: [
        {
          binding: 0,
          visibility: computeStage,
          buffer: { type: 'uniform', hasDynamicOffset: true, minBindingSize: uniformBytes },
        },
      ],
    });
  }

  get count(): number {
    return this.#pipelines.size;
  }

  /** The pipeline of a kernel; `access` has one letter a storage binding (r or w). */
  pipeline(kernel: string, key: string, access: string, source: () => string): GPUComputePipeline {
    const known = this.#pipelines.get(key);
    if (known && !this.#verify) return known;
    const code = source();
    if (known) {
      if (this.#sources.get(key) !== code) throw new Error(`webgpu: kernel key ${key} names two programs.`);
      return known;
    }
    if (this.#verify) this.#sources.set(key, code);
    const device = this.#device;
    let shader: GPUShaderModule | null = null;
    const made = this.#faults.watch(
      () => {
        shader = device.createShaderModule({ label: kernel, code });
        const layout = device.createPipelineLayout({ bindGroupLayouts: [this.uniformLayout, this.#layout(access)] });
        return device.createComputePipeline({ label: kernel, layout, compute: { module: shader, entryPoint: 'main' } });
      },
      `webgpu: kernel ${kernel} does not compile`,
      async () => {
        const { messages } = await shader!.getCompilationInfo();
        return messages.map((m) => `\n${m.lineNum}:${m.linePos} ${m.message}`).join('');
      },
    );
    this.#pipelines.set(key, made);
    return made;
  }

  bindGroup(
    access: string,
    buffers: readonly { readonly id: number; readonly gpu: GPUBuffer; readonly size: number }[],
  ): GPUBindGroup {
    const key = `${access}/${buffers.map((b) => `${b.id}.${b.size}`).join('/')}`;
    const known = this.#groups.get(key);
    if (known) return known;
    if (this.#groups.size >= cachedBindGroups) this.#groups.clear();
    const made = this.#device.createBindGroup({
      layout: this.#layout(access),
      entries: buffers.map(({ gpu, size }, binding) => ({ binding, resource: { buffer: gpu, size } })),
    });
    this.#groups.set(key, made);
    return made;
  }

  #layout(access: string): GPUBindGroupLayout {
    let layout = this.#layouts.get(access);
    if (!layout) {
      layout = this.#device.createBindGroupLayout({
        entries: [...access].map((letter, binding) => ({
          binding,
          visibility: computeStage,
          buffer: { type: letter === 'w' ? 'storage' : 'read-only-storage' },
        })),
      });
      this.#layouts.set(access, layout);
    }
    return layout;
  }
}
