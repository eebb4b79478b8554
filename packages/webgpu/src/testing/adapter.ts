import { type WebGpuBackend, webgpu } from '../backend.ts';

/** Why there is nothing to test on; null if there is an adapter. With LORIKEET_TEST_WEBGPU=1 that is a failure. */
async function probe(): Promise<string | null> {
  try {
    const backend = await webgpu();
    await backend.close();
    return null;
  } catch (error) {
    if (process.env.LORIKEET_TEST_WEBGPU === '1') throw error;
    return (error as Error).message;
  }
}

export const noAdapter = await probe();

/** A backend that also checks the keys of its kernel cache. */
export const openBackend = (): Promise<WebGpuBackend> => webgpu({ verifyKernels: true });
