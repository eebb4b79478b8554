import { opSuite } from '@lorikeet/tensor/testing';
import { afterAll, describe, expect, it } from 'vitest';
import { type GpuJsBackend, gpujs } from './index.ts';

for (const mode of ['cpu', 'webasm'] as const) {
  let opened: Promise<GpuJsBackend> | undefined;
  describe(`gpu.js as ${mode}`, () => {
    afterAll(async () => (await opened)?.close());
    opSuite({ describe, it, expect }, { backend: () => (opened ??= gpujs({ mode })) });
  });
}
