export interface WebGpuOptions {
  readonly powerPreference?: GPUPowerPreference;
  /** Flags for Dawn, the implementation behind the npm package `webgpu`: `['adapter=llvmpipe']`. Node only. */
  readonly dawnFlags?: readonly string[];
  /** Checks at every call that a kernel's cache key tells its program apart. For tests: slow. */
  readonly verifyKernels?: boolean;
}

export interface Acquired {
  /** Kept alive as long as the device: Dawn's instance must not be collected before it. */
  readonly gpu: GPU;
  readonly adapter: GPUAdapter;
  readonly device: GPUDevice;
  readonly host: 'browser' | 'dawn';
}

/** No WebGPU, no adapter or no device, with what to do about it. */
export class WebGpuUnavailableError extends Error {
  override name = 'WebGpuUnavailableError';
}

const driverAdvice =
  'In Node a Vulkan driver must be installed: that of your GPU, or Mesa 25 for the CPU (Debian 12: apt-get install -t bookworm-backports mesa-vulkan-drivers libvulkan1). In a browser see chrome://gpu or about:support.';

async function findGpu(dawnFlags: readonly string[]): Promise<Pick<Acquired, 'gpu' | 'host'>> {
  const inBrowser = (globalThis as { navigator?: { gpu?: GPU } }).navigator?.gpu;
  if (inBrowser) return { gpu: inBrowser, host: 'browser' };
  // Not a literal, so that no bundler for browsers looks for the package.
  const name = 'webgpu';
  let dawn: { create(flags: readonly string[]): GPU };
  try {
    dawn = await import(name);
  } catch (cause) {
    throw new WebGpuUnavailableError(
      `webgpu: needs navigator.gpu (a browser) or the npm package webgpu (Node): found neither. Run: npm install webgpu@0.6.2. ${driverAdvice}`,
      { cause },
    );
  }
  return { gpu: dawn.create([...dawnFlags]), host: 'dawn' };
}

/** Limits beyond WebGPU's defaults that tensors profit from. */
const wantedLimits = ['maxBufferSize', 'maxStorageBufferBindingSize', 'maxStorageBuffersPerShaderStage'] as const;

/** A device with the adapter's largest buffers. @throws WebGpuUnavailableError */
export async function acquire({
  powerPreference = 'high-performance',
  dawnFlags = [],
}: WebGpuOptions): Promise<Acquired> {
  const { gpu, host } = await findGpu(dawnFlags);
  let adapter: GPUAdapter | null = null;
  let why = '';
  try {
    adapter = await gpu.requestAdapter({ powerPreference });
  } catch (error) {
    why = ` (${(error as Error).message.trim()})`;
  }
  if (!adapter) throw new WebGpuUnavailableError(`webgpu: no adapter was found${why}. ${driverAdvice}`);
  const requiredLimits = Object.fromEntries(wantedLimits.map((name) => [name, adapter.limits[name]]));
  try {
    return { gpu, adapter, host, device: await adapter.requestDevice({ requiredLimits, label: 'lorikeet' }) };
  } catch (cause) {
    throw new WebGpuUnavailableError(
      `webgpu: adapter ${adapter.info.description || adapter.info.vendor} gave no device: ${(cause as Error).message}. ${driverAdvice}`,
      { cause },
    );
  }
}
