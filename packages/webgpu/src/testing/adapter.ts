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

const noAdapter = await probe();

/** What the helpers need of Vitest. */
export interface Framework {
  describe(name: string, body: () => void): void;
  it(name: string, body: (context: { skip(reason?: string): void }) => void): void;
  afterAll(body: () => Promise<void>): void;
}

/** Tests that need an adapter; without one, a single test is skipped and says why. */
export function describeOnAdapter({ describe, it }: Framework, name: string, body: () => void): void {
  describe(name, () => {
    if (noAdapter === null) body();
    else it('needs a WebGPU adapter', (context) => context.skip(`skipped: ${noAdapter}`));
  });
}

/** A backend that also checks the keys of its kernel cache. */
export const openBackend = (): Promise<WebGpuBackend> => webgpu({ verifyKernels: true });

/** One backend for the tests of a file, closed at its end. */
export function sharedBackend({ afterAll }: Framework): () => Promise<WebGpuBackend> {
  let opened: Promise<WebGpuBackend> | null = null;
  afterAll(async () => {
    await (await opened)?.close();
  });
  return () => (opened ??= openBackend());
}
