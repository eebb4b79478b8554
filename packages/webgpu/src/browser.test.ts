/** The backend in a headless Chromium: its self-test, and a step of training, inside a page served from this machine. */
import { chromium, runInBrowser, withoutChromium } from 'lorikeet-browser-page';
import { expect, it } from 'vitest';
import type { SelfTestResult } from './self-test.ts';

const script = `
import { tensor, scope } from '@lorikeet/tensor';
import { selfTest, webgpu } from './index.ts';
export default async function () {
  const backend = await webgpu();
  const results = await selfTest(backend);
  const w = tensor([[1, 2], [3, 4]], { backend, requiresGrad: true });
  const gradients = scope(() => tensor([[0.5, 1]], { backend }).matmul(w).relu().sum().backward());
  const report = { results, gradient: await gradients.of(w).toArray(), facts: backend.describe() };
  await backend.close();
  return report;
}
`;

interface Report {
  readonly results: SelfTestResult[];
  readonly gradient: number[][];
  readonly facts: Record<string, unknown>;
}

it('passes its self-test and differentiates in a browser', async (context) => {
  if (!chromium) return context.skip(withoutChromium);
  const flags = ['--enable-unsafe-webgpu', '--use-webgpu-adapter=swiftshader'];
  const report = (await runInBrowser({ script, resolveDir: import.meta.dirname, flags })) as Report;
  expect(report.facts.host).toBe('browser');
  expect(report.results.filter((r) => !r.passed)).toEqual([]);
  expect(report.results.length).toBeGreaterThan(20);
  expect(report.gradient).toEqual([
    [0.5, 0.5],
    [1, 1],
  ]);
}, 120_000);
