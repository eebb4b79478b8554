/**
 * The backend in a headless Chromium, on a page and in a worker: with threads where the page is cross-origin isolated, else
 * alone. The suites that every backend passes run there as they do in Node.
 */
import { randomKey, tensor, uniform } from '@lorikeet/tensor';
import { chromium, runInBrowser, withoutChromium } from 'lorikeet-browser-page';
import { describe, expect, it } from 'vitest';
import { cpu } from './index.ts';

/** The same work there and here. */
const script = `
import { randomKey, tensor, uniform } from '@lorikeet/tensor';
import { opSuite, propertySuite } from '@lorikeet/tensor/testing';
import { collectTests } from 'lorikeet-browser-page/framework';
import { cpu } from './index.ts';
export default async function () {
  const backend = await cpu({ threads: 2 });
  const w = tensor([[1, 2], [3, 4]], { backend, requiresGrad: true });
  const gradients = tensor([[0.5, -1]], { backend }).matmul(w).silu().sum().backward();
  const a = uniform([70, 300], { backend, key: randomKey(1) });
  const values = { gradient: await gradients.of(w).toArray(), product: await a.matmul(a, { transposeB: true }).sum().item() };
  const suites = collectTests();
  opSuite(suites, { backend: async () => backend });
  propertySuite(suites, { backend: async () => backend });
  const { ran, failed } = await suites.run();
  const { threads, switchedOff } = backend.describe();
  await backend.close();
  return { values, ran, failed, switchedOff, threads, isolated: globalThis.crossOriginIsolated };
}
`;

/** The first two results of the script, computed in this process. */
async function here(): Promise<Record<string, unknown>> {
  await using backend = await cpu({ threads: 1 });
  const w = tensor(
    [
      [1, 2],
      [3, 4],
    ],
    { backend, requiresGrad: true },
  );
  const gradients = tensor([[0.5, -1]], { backend })
    .matmul(w)
    .silu()
    .sum()
    .backward();
  const a = uniform([70, 300], { backend, key: randomKey(1) });
  return { gradient: await gradients.of(w).toArray(), product: await a.matmul(a, { transposeB: true }).sum().item() };
}

describe('in a browser', () => {
  it.for([
    ['on a plain page', 'page', false, 1],
    ['in a worker of a plain page', 'worker', false, 1],
    ['on a cross-origin isolated page', 'page', true, 2],
    ['in a worker of a cross-origin isolated page', 'worker', true, 2],
  ] as const)('%s the suites pass', { timeout: 240_000 }, async ([, where, isolated, threads], context) => {
    if (!chromium) return context.skip(withoutChromium);
    const report = (await runInBrowser({ script, resolveDir: import.meta.dirname, where, isolated })) as {
      ran: number;
    };
    expect(report).toMatchObject({ values: await here(), failed: [], switchedOff: [], threads, isolated });
    expect(report.ran).toBeGreaterThan(250);
  });
});
