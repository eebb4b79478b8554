/** The backend in a headless Chromium: its self-test, and a step of training, inside a page served from this machine. */
import { type ChildProcess, spawn } from 'node:child_process';
import { existsSync, mkdtempSync, rmSync } from 'node:fs';
import { createServer, type Server } from 'node:http';
import type { AddressInfo } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { build } from 'esbuild';
import { afterAll, describe, expect, it } from 'vitest';
import type { SelfTestResult } from './self-test.ts';

const chromium = ['/usr/bin/chromium', '/usr/bin/chromium-browser', '/usr/bin/google-chrome'].find((path) =>
  existsSync(path),
);
const flags = [
  ...['--headless', '--no-sandbox', '--disable-quic', '--no-first-run', '--disable-background-networking'],
  ...['--disable-component-update', '--disable-sync', '--enable-unsafe-webgpu', '--use-webgpu-adapter=swiftshader'],
];

const page = `
import { tensor, scope } from '@lorikeet/tensor';
import { selfTest, webgpu } from './index.ts';
async function run() {
  const backend = await webgpu();
  const results = await selfTest(backend);
  const w = tensor([[1, 2], [3, 4]], { backend, requiresGrad: true });
  const gradients = scope(() => tensor([[0.5, 1]], { backend }).matmul(w).relu().sum().backward());
  const report = { results, gradient: await gradients.of(w).toArray(), facts: backend.describe() };
  await backend.close();
  return report;
}
run().catch((error) => ({ error: String(error.stack ?? error) }))
  .then((report) => fetch('/report', { method: 'POST', body: JSON.stringify(report) }));
`;

interface Report {
  readonly error?: string;
  readonly results: SelfTestResult[];
  readonly gradient: number[][];
  readonly facts: Record<string, unknown>;
}

/** Serves the page and resolves with what it posts. */
function serve(script: string): { readonly server: Server; readonly report: Promise<Report> } {
  let deliver: (report: Report) => void;
  const report = new Promise<Report>((resolve) => {
    deliver = resolve;
  });
  const server = createServer(async (request, response) => {
    if (request.method === 'POST') {
      const parts: Buffer[] = [];
      for await (const part of request) parts.push(part as Buffer);
      response.end();
      deliver(JSON.parse(Buffer.concat(parts).toString('utf8')) as Report);
      return;
    }
    const isScript = request.url === '/page.js';
    response.setHeader('content-type', isScript ? 'text/javascript' : 'text/html');
    response.end(
      isScript ? script : '<!doctype html><title>test</title><script type="module" src="/page.js"></script>',
    );
  });
  return { server, report };
}

describe('in a browser', () => {
  const profile = mkdtempSync(join(tmpdir(), 'lorikeet-browser-'));
  let browser: ChildProcess | null = null;
  let server: Server | null = null;
  afterAll(async () => {
    const gone = browser && new Promise((resolve) => browser!.once('exit', resolve));
    browser?.kill('SIGKILL');
    await gone;
    server?.close();
    rmSync(profile, { recursive: true, force: true, maxRetries: 5 });
  });

  it('passes its self-test and differentiates', async (context) => {
    if (!chromium) return context.skip('skipped: no Chromium is installed (Debian: apt-get install chromium)');
    const { outputFiles } = await build({
      stdin: { contents: page, resolveDir: import.meta.dirname, loader: 'ts' },
      bundle: true,
      write: false,
      format: 'esm',
      target: 'es2022',
      platform: 'browser',
    });
    const served = serve(outputFiles[0]!.text);
    server = served.server;
    await new Promise<void>((resolve) => served.server.listen(0, '127.0.0.1', resolve));
    const { port } = served.server.address() as AddressInfo;
    browser = spawn(chromium, [...flags, `--user-data-dir=${profile}`, `http://127.0.0.1:${port}/`], {
      stdio: 'ignore',
    });
    const report = await served.report;
    expect(report.error).toBeUndefined();
    expect(report.facts.host).toBe('browser');
    expect(report.results.filter((r) => !r.passed)).toEqual([]);
    expect(report.results.length).toBeGreaterThan(20);
    expect(report.gradient).toEqual([
      [0.5, 0.5],
      [1, 1],
    ]);
  }, 120_000);
});
