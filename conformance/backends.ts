import { type Backend, referenceBackend } from '@lorikeet/tensor';
import { hostileBackend } from '@lorikeet/tensor/testing';

/** All are compared when none is named. The hostile one computes as the reference does, late and in bad conditions. */
export const backendNames = ['reference', 'hostile', 'cpu', 'webgpu', 'gpujs-cpu', 'gpujs-webasm'] as const;
export type BackendName = (typeof backendNames)[number];

const openers: Readonly<Record<BackendName, () => Promise<Backend>>> = {
  reference: async () => referenceBackend(),
  hostile: async () => hostileBackend(),
  cpu: async () => (await import('@lorikeet/cpu')).cpu(),
  webgpu: async () => (await import('@lorikeet/webgpu')).webgpu(),
  'gpujs-cpu': async () => (await import('@lorikeet/gpujs')).gpujs({ mode: 'cpu' }),
  'gpujs-webasm': async () => (await import('@lorikeet/gpujs')).gpujs({ mode: 'webasm' }),
};

/** A backend, or the reason why this machine has none of that name. */
export type Opened = { readonly backend: Backend } | { readonly reason: string };

/**
 * Opens a backend. Only an adapter for webgpu may be missing: then its reason is returned, every other failure is thrown.
 */
export async function openBackend(name: BackendName): Promise<Opened> {
  try {
    return { backend: await openers[name]() };
  } catch (error) {
    if ((error as Error).name !== 'WebGpuUnavailableError') throw error;
    return { reason: (error as Error).message };
  }
}
