/** The backend in a headless Chromium, on a page and in a worker: with threads where the page is cross-origin isolated, else alone. */
import { type ChildProcess, spawn } from 'node:child_process';
import { existsSync, mkdtempSync, rmSync } from 'node:fs';
import { createServer, type Server } from 'node:http';
import type { AddressInfo } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { randomKey, tensor, uniform } from '@lorikeet/tensor';
import { build } from 'esbuild';
import { afterEach, describe, expect, it } from 'vitest';
import { cpu } from './index.ts';

const chromium = ['/usr/bin/chromium', '/usr/bin/chromium-browser', '/usr/bin/google-chrome'].find((path) =>
  existsSync(path),
);
const flags = [
  ...['--headless', '--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run'],
  ...['--disable-background-networking', '--disable-component-update', '--disable-sync'],
];

/** The same script on the page and in a worker that the page starts. */
const script = `
import { randomKey, tensor, uniform } from '@lorikeet/tensor';
import { cpu } from './index.ts';
async function compute() {
  const backend = await cpu({ threads: 2 });
  const w = tensor([[1, 2], [3, 4]], { backend, requiresGrad: true });
  const gradients = tensor([[0.5, -1]], { backend }).matmul(w).silu().sum().backward();
  const a = uniform([70, 300], { backend, key: randomKey(1) });
  const facts = backend.describe();
  const values = { gradient: await gradients.of(w).toArray(), product: await a.matmul(a, { transposeB: true }).sum().item() };
  await backend.close();
  return { ...values, threads: facts.threads, isolated: globalThis.crossOriginIsolated };
}
const result = compute().catch((error) => ({ error: String(error.stack ?? error) }));
if (globalThis.document) {
  const worker = new Worker('/script.js', { type: 'module' });
  const there = new Promise((resolve) => {
    worker.onmessage = ({ data }) => resolve(data);
    worker.onerror = ({ message }) => resolve({ error: message });
  });
  fetch('/report', { method: 'POST', body: JSON.stringify([await result, await there]) });
} else postMessage(await result);
`;

/** What the script must find, computed in this process. */
async function here(): Promise<Result> {
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

type Result = Readonly<Record<string, unknown>>;

/** A page whose rules allow WebAssembly and workers of its own, and nothing else. */
function serve(bundle: string, isolated: boolean): { readonly server: Server; readonly report: Promise<Result[]> } {
  const { promise, resolve } = Promise.withResolvers<Result[]>();
  const server = createServer(async (request, response) => {
    if (request.method === 'POST') {
      const parts: Buffer[] = [];
      for await (const part of request) parts.push(part as Buffer);
      response.end();
      resolve(JSON.parse(Buffer.concat(parts).toString('utf8')));
      return;
    }
    const isScript = request.url === '/script.js';
    response.setHeader('content-type', isScript ? 'text/javascript' : 'text/html');
    const rules = "default-src 'self'; script-src 'self' 'wasm-unsafe-eval'; worker-src 'self' blob:";
    response.setHeader('content-security-policy', rules);
    if (isolated) {
      response.setHeader('cross-origin-opener-policy', 'same-origin');
      response.setHeader('cross-origin-embedder-policy', 'require-corp');
    }
    response.end(
      isScript ? bundle : '<!doctype html><title>test</title><script type="module" src="/script.js"></script>',
    );
  });
  return { server, report: promise };
}

describe('in a browser', () => {
  let profile = '';
  let browser: ChildProcess | undefined;
  let server: Server | undefined;
  afterEach(async () => {
    const gone = browser && new Promise((resolve) => browser!.once('exit', resolve));
    browser?.kill('SIGKILL');
    await gone;
    server?.close();
    if (profile) rmSync(profile, { recursive: true, force: true, maxRetries: 5 });
  });

  it.for([
    ['on a plain page: alone', false, 1],
    ['on a cross-origin isolated page: with threads', true, 2],
  ] as const)('%s', { timeout: 180_000 }, async ([, isolated, threads], context) => {
    if (!chromium) return context.skip('skipped: no Chromium is installed (Debian: apt-get install chromium)');
    const { outputFiles } = await build({
      stdin: { contents: script, resolveDir: import.meta.dirname, loader: 'ts' },
      ...{ bundle: true, write: false, minify: true, format: 'esm', target: 'es2022', platform: 'browser' },
    });
    const served = serve(outputFiles[0]!.text, isolated);
    server = served.server;
    await new Promise<void>((resolve) => served.server.listen(0, '127.0.0.1', resolve));
    const { port } = served.server.address() as AddressInfo;
    profile = mkdtempSync(join(tmpdir(), 'lorikeet-browser-'));
    browser = spawn(chromium, [...flags, `--user-data-dir=${profile}`, `http://127.0.0.1:${port}/`], {
      stdio: 'ignore',
    });
    const expected = { ...(await here()), threads, isolated };
    expect(await served.report).toEqual([expected, expected]);
  });
});
