/** Ourselves in a headless Chromium: the engine in a worker of a cross-origin isolated page, as it ships, without V8's flags. */
import { readFileSync, writeFileSync } from 'node:fs';
import { chromium, runInBrowser, withoutChromium } from 'lorikeet-browser-page';
import type { Peer } from '../peer.ts';
import { type Ask, remoteWork } from '../process-peer.ts';

interface Answer {
  readonly id?: number;
  readonly value?: unknown;
  readonly error?: string;
  readonly version?: string;
  readonly threads?: number;
}

/** Requests and answers pass each other here: a page asks what to do with what it did last. */
class Turns {
  readonly hello = Promise.withResolvers<Answer>();
  #next = Promise.withResolvers<string>();
  #waiting = new Map<number, { resolve(value: unknown): void; reject(error: Error): void }>();
  #last = 0;

  readonly ask: Ask = (request) =>
    new Promise((resolve, reject) => {
      const id = ++this.#last;
      this.#waiting.set(id, { resolve, reject });
      this.#next.resolve(JSON.stringify({ id, ...request }));
    });

  end(): void {
    this.#next.resolve('null');
  }

  fail(error: Error): void {
    this.hello.reject(error);
    for (const { reject } of this.#waiting.values()) reject(error);
    this.#waiting.clear();
  }

  async turn(answer: Answer): Promise<string> {
    if (answer.id === undefined) this.hello.resolve(answer);
    else {
      const { id, value, error } = answer;
      const asker = this.#waiting.get(id);
      this.#waiting.delete(id);
      if (error === undefined) asker?.resolve(value);
      else asker?.reject(new Error(`Chromium: ${error}`));
    }
    const text = await this.#next.promise;
    this.#next = Promise.withResolvers<string>();
    return text;
  }
}

/** Null, with the reason printed, where there is no Chromium. */
export async function openChromium(threads: number): Promise<Peer | null> {
  if (!chromium) {
    console.log(`Chromium is left out, ${withoutChromium}`);
    return null;
  }
  const turns = new Turns();
  // One request at a time: the page is asked again when it has answered.
  let queue: Promise<unknown> = Promise.resolve();
  const ask: Ask = (request) => {
    const asked = queue.then(() => turns.ask(request));
    queue = asked.catch(() => {});
    return asked;
  };
  const ended = runInBrowser({
    script: `import { answerFromPage } from './page.ts'; export default () => answerFromPage(${threads});`,
    resolveDir: import.meta.dirname,
    where: 'worker',
    isolated: true,
    respond: async (path, body) => {
      if (path === '/turn') return turns.turn(JSON.parse(new TextDecoder().decode(body)));
      if (path === '/file') return readFileSync(new TextDecoder().decode(body));
      writeFileSync(decodeURI(path.slice('/output?'.length)), body);
      return '';
    },
  });
  ended.catch((error: Error) => turns.fail(error));
  const { version = '', threads: count = 1 } = await turns.hello.promise;
  return {
    name: 'chromium',
    version,
    threads: count,
    work: (spec) => remoteWork(ask, spec),
    close: async () => {
      await queue;
      turns.end();
      await ended;
    },
  };
}
