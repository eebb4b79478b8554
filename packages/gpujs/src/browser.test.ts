/** The kernels as WebGL2 shaders in a headless Chromium: the op suite runs inside a page served from this machine. */
import { chromium, runInBrowser, withoutChromium } from 'lorikeet-browser-page';
import { expect, it } from 'vitest';

const script = `
import { opSuite } from '@lorikeet/tensor/testing';
import { collectTests } from 'lorikeet-browser-page/framework';
import { gpujs } from './index.ts';
// SwiftShader's sine and cosine are right to 2^-11, as GLSL leaves them free to be.
const tolerance = (op, dtype) => dtype === 'f32' && /^(sin|cos)/.test(op) ? { relative: 0, absolute: 2 ** -11 } : undefined;
export default async function () {
  const backend = await gpujs({ mode: 'webgl2' });
  const suite = collectTests();
  opSuite(suite, { backend: async () => backend, tolerance });
  return { ...await suite.run(), facts: backend.describe() };
}
`;

interface Report {
  readonly ran: number;
  readonly failed: readonly string[];
  readonly facts: Readonly<Record<string, unknown>>;
}

it('passes the op suite on WebGL2 in a browser', async (context) => {
  if (!chromium) return context.skip(withoutChromium);
  const flags = ['--enable-unsafe-swiftshader'];
  const program = { script, resolveDir: import.meta.dirname, flags, evaluates: true };
  const report = (await runInBrowser(program)) as Report;
  expect(report.failed).toEqual([]);
  expect(report.ran).toBeGreaterThan(200);
  expect(report.facts.compiled).toBeGreaterThan(50);
}, 240_000);
