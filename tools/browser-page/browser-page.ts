/** Runs a program in a headless Chromium, on a page of this machine or in a worker of that page, and returns what it reports. */
import { spawn } from 'node:child_process';
import { existsSync, mkdtempSync, rmSync } from 'node:fs';
import { createServer, type Server } from 'node:http';
import type { AddressInfo } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { build } from 'esbuild';

/** The Chromium of this machine, or undefined. */
export const chromium: string | undefined = [
  '/usr/bin/chromium',
  '/usr/bin/chromium-browser',
  '/usr/bin/google-chrome',
].find((path) => existsSync(path));

/** What a test says where there is none. */
export const withoutChromium = 'skipped: no Chromium is installed (Debian: apt-get install chromium)';

const quietFlags = [
  ...['--headless', '--no-sandbox', '--disable-quic', '--no-first-run'],
  ...['--disable-background-networking', '--disable-component-update', '--disable-sync'],
];
/** Beside the page's own files: WebAssembly, and workers made from text. */
const rules = "default-src 'self'; script-src 'self' 'wasm-unsafe-eval'; worker-src 'self' blob:";

export interface Program {
  /** TypeScript whose default export is an async function; what it resolves to must survive JSON. */
  readonly script: string;
  /** Folder from which the script's imports are found. */
  readonly resolveDir: string;
  /** Where it runs; a worker is started by the page. Default 'page'. */
  readonly where?: 'page' | 'worker';
  /** Cross-origin isolated: memory can be shared between threads. Default false. */
  readonly isolated?: boolean;
  /** The page may evaluate text as code, as libraries that generate JavaScript need it. Default false. */
  readonly evaluates?: boolean;
  /** Answers what the program posts to paths but `/report`; the path comes with its query. */
  readonly respond?: (path: string, body: Uint8Array<ArrayBuffer>) => Promise<Uint8Array | string>;
  /** More flags of Chromium. */
  readonly flags?: readonly string[];
}

/**
 * @returns what the program's default export resolved to
 * @throws Error with the stack from the browser where it failed
 */
export async function runInBrowser(program: Program): Promise<unknown> {
  if (!chromium) throw new Error(withoutChromium);
  const { server, report } = serve(await bundle(program), program);
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  const { port } = server.address() as AddressInfo;
  const profile = mkdtempSync(join(tmpdir(), 'lorikeet-browser-'));
  const address = `http://127.0.0.1:${port}/${program.where ?? 'page'}`;
  const browser = spawn(chromium, [...quietFlags, ...(program.flags ?? []), `--user-data-dir=${profile}`, address], {
    stdio: 'ignore',
  });
  const gone = new Promise<void>((resolve) => browser.once('exit', () => resolve()));
  try {
    const early = gone.then(() => ({ error: 'Chromium ended before the program reported' }));
    const { error, value } = await Promise.race([report, early as Promise<Report>]);
    if (error !== undefined) throw new Error(error);
    return value;
  } finally {
    browser.kill('SIGKILL');
    await gone;
    server.closeAllConnections();
    server.close();
    rmSync(profile, { recursive: true, force: true, maxRetries: 5 });
  }
}

interface Report {
  readonly error?: string;
  readonly value?: unknown;
}

async function bundle({ script, resolveDir }: Program): Promise<string> {
  const reporting = `
    import program from 'program';
    program().then((value) => ({ value }), (error) => ({ error: String(error?.stack ?? error) }))
      .then((report) => fetch('/report', { method: 'POST', body: JSON.stringify(report) }));`;
  const { outputFiles } = await build({
    stdin: { contents: reporting, resolveDir, loader: 'ts' },
    plugins: [
      {
        name: 'program',
        setup(building) {
          building.onResolve({ filter: /^program$/ }, () => ({ path: 'program', namespace: 'program' }));
          building.onLoad({ filter: /.*/, namespace: 'program' }, () => ({
            contents: script,
            resolveDir,
            loader: 'ts',
          }));
        },
      },
    ],
    ...{ bundle: true, write: false, format: 'esm', target: 'es2022', platform: 'browser' },
  });
  return outputFiles[0]!.text;
}

/** `/page` runs the program itself, `/worker` starts a worker that does. */
function serve(
  code: string,
  { isolated = false, evaluates = false, respond }: Program,
): { readonly server: Server; readonly report: Promise<Report> } {
  const { promise, resolve } = Promise.withResolvers<Report>();
  const scripts: Readonly<Record<string, string>> = {
    '/page.js': code,
    '/worker.js': `new Worker('/page.js', { type: 'module' }).onerror = ({ message }) =>
      fetch('/report', { method: 'POST', body: JSON.stringify({ error: 'the worker failed: ' + message }) });`,
  };
  const server = createServer(async (request, response) => {
    if (request.method === 'POST') {
      const parts: Buffer[] = [];
      for await (const part of request) parts.push(part as Buffer);
      const body = Buffer.concat(parts);
      if (request.url !== '/report' && respond) {
        response.end(await respond(request.url!, body));
        return;
      }
      response.end();
      resolve(JSON.parse(body.toString('utf8')) as Report);
      return;
    }
    const path = request.url ?? '/';
    response.setHeader('content-security-policy', evaluates ? rules.replace("'wasm-", "'unsafe-eval' 'wasm-") : rules);
    if (isolated) {
      response.setHeader('cross-origin-opener-policy', 'same-origin');
      response.setHeader('cross-origin-embedder-policy', 'require-corp');
    }
    const script = scripts[path];
    response.setHeader('content-type', script ? 'text/javascript' : 'text/html');
    response.end(script ?? `<!doctype html><title>test</title><script type="module" src="${path}.js"></script>`);
  });
  return { server, report: promise };
}
