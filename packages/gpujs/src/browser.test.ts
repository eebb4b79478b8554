/** The kernels as WebGL2 shaders in a headless Chromium: the op suite runs inside a page served from this machine. */
import { type ChildProcess, spawn } from 'node:child_process';
import { existsSync, mkdtempSync, rmSync } from 'node:fs';
import { createServer, type Server } from 'node:http';
import type { AddressInfo } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { build } from 'esbuild';
import { afterAll, describe, expect, it } from 'vitest';

const chromium = ['/usr/bin/chromium', '/usr/bin/chromium-browser', '/usr/bin/google-chrome'].find((path) =>
  existsSync(path),
);
const flags = [
  ...['--headless', '--no-sandbox', '--disable-quic', '--no-first-run', '--disable-background-networking'],
  ...['--disable-component-update', '--disable-sync', '--enable-unsafe-swiftshader'],
];

const script = `
import { opSuite } from '@lorikeet/tensor/testing';
import { gpujs } from './index.ts';
const tests = [];
const stack = [];
const describe = (name, body) => { stack.push(name); body(); stack.pop(); };
const it = (name, body) => { tests.push([[...stack, name].join(' '), body]); };
const expect = (value) => ({
  toEqual(other) {
    if (JSON.stringify(value) !== JSON.stringify(other)) throw new Error('got ' + JSON.stringify(value));
  },
  toThrow(text) {
    try { value(); } catch (error) {
      if (error.message.includes(text)) return;
      throw error;
    }
    throw new Error('was not refused: ' + text);
  },
});
async function run() {
  const backend = await gpujs({ mode: 'webgl2' });
  opSuite({ describe, it, expect }, { backend: async () => backend, tolerance });
  const failed = [];
  for (const [name, body] of tests) {
    try { await body(); } catch (error) { failed.push(name + ': ' + error.message); }
  }
  return { ran: tests.length, failed, facts: backend.describe() };
}
// SwiftShader's sine and cosine are right to 2^-11, as GLSL leaves them free to be.
const tolerance = (op, dtype) => dtype === 'f32' && /^(sin|cos)/.test(op) ? { relative: 0, absolute: 2 ** -11 } : undefined;
run().catch((error) => ({ error: String(error.stack ?? error) }))
  .then((report) => fetch('/report', { method: 'POST', body: JSON.stringify(report) }));
`;

interface Report {
  readonly error?: string;
  readonly ran: number;
  readonly failed: readonly string[];
  readonly facts: Readonly<Record<string, unknown>>;
}

/** Serves a script and resolves with what it posts. */
function serve(bundle: string): { readonly server: Server; readonly report: Promise<Report> } {
  const { promise, resolve } = Promise.withResolvers<Report>();
  const server = createServer(async (request, response) => {
    if (request.method === 'POST') {
      const parts: Buffer[] = [];
      for await (const part of request) parts.push(part as Buffer);
      response.end();
      resolve(JSON.parse(Buffer.concat(parts).toString('utf8')));
      return;
    }
    const isScript = request.url === '/page.js';
    response.setHeader('content-type', isScript ? 'text/javascript' : 'text/html');
    response.end(
      isScript ? bundle : '<!doctype html><title>test</title><script type="module" src="/page.js"></script>',
    );
  });
  return { server, report: promise };
}

describe('in a browser', () => {
  const profile = mkdtempSync(join(tmpdir(), 'lorikeet-browser-'));
  let browser: ChildProcess | undefined;
  let server: Server | undefined;
  afterAll(async () => {
    const gone = browser && new Promise((resolve) => browser!.once('exit', resolve));
    browser?.kill('SIGKILL');
    await gone;
    server?.close();
    rmSync(profile, { recursive: true, force: true, maxRetries: 5 });
  });

  it('passes the op suite on WebGL2', async (context) => {
    if (!chromium) return context.skip('skipped: no Chromium is installed (Debian: apt-get install chromium)');
    const { outputFiles } = await build({
      stdin: { contents: script, resolveDir: import.meta.dirname, loader: 'ts' },
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
    const address = `http://127.0.0.1:${port}/`;
    browser = spawn(chromium, [...flags, `--user-data-dir=${profile}`, address], { stdio: 'ignore' });
    const report = await served.report;
    expect(report.error).toBeUndefined();
    expect(report.failed).toEqual([]);
    expect(report.ran).toBeGreaterThan(200);
    expect(report.facts.compiled).toBeGreaterThan(50);
  }, 240_000);
});
