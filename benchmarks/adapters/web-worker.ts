/** `Worker` as browsers have it, over Node's threads, for libraries that start their threads from the text of a blob. */
import { Worker as NodeThread } from 'node:worker_threads';

const prelude = `
const { parentPort } = require('node:worker_threads');
globalThis.self = globalThis;
globalThis.postMessage = (message) => parentPort.postMessage(message);
parentPort.on('message', (data) => self.onmessage({ data }));
`;

class BlobWorker {
  onmessage: ((event: { data: unknown }) => void) | null = null;
  onerror: ((error: Error) => void) | null = null;
  readonly #thread: Promise<NodeThread>;

  constructor(text: Promise<string>) {
    this.#thread = text.then((source) => {
      const thread = new NodeThread(prelude + source, { eval: true });
      thread.unref();
      thread.on('message', (data) => this.onmessage?.({ data }));
      thread.on('error', (error) => this.onerror?.(error as Error));
      return thread;
    });
  }

  postMessage(message: unknown): void {
    void this.#thread.then((thread) => thread.postMessage(message));
  }
}

/** Puts `Worker` and a `navigator` of that many threads in place. */
export function shimWorkers(threads: number): void {
  const texts = new Map<string, Promise<string>>();
  const makeUrl = URL.createObjectURL.bind(URL);
  URL.createObjectURL = (blob) => {
    const url = makeUrl(blob as Parameters<typeof makeUrl>[0]);
    texts.set(url, (blob as Blob).text());
    return url;
  };
  const fromUrl = (url: string | URL): BlobWorker => {
    const text = texts.get(String(url));
    if (text === undefined) throw new TypeError(`bench: a Worker must come from a blob: got ${url}.`);
    return new BlobWorker(text);
  };
  const construct = (_: unknown, [url]: unknown[]): BlobWorker => fromUrl(url as string);
  Object.assign(globalThis, { Worker: new Proxy(BlobWorker, { construct }) });
  Object.defineProperty(globalThis, 'navigator', { value: { hardwareConcurrency: threads }, configurable: true });
}
