/** Runs in a worker of an isolated page of Chromium: asks the program that opened it what to do, until told to end. */
import { cpu } from '@lorikeet/cpu';
import { answerer, type Request } from '../answerer.ts';
import { ourWork } from '../ours/work.ts';
import { arrayNames, parseWork } from '../parse-work.ts';
import type { WorkSpec } from '../peer.ts';
import { timed } from '../timed.ts';

const post = (path: string, body: BodyInit): Promise<Response> => fetch(path, { method: 'POST', body });

async function read(folder: string): Promise<WorkSpec> {
  const text = await (await post('/file', `${folder}/spec.json`)).text();
  const arrays = new Map<string, ArrayBuffer>();
  for (const name of arrayNames(text)) arrays.set(name, await (await post('/file', `${folder}/${name}`)).arrayBuffer());
  return parseWork(text, (name) => arrays.get(name)!);
}

async function write(folder: string, outputs: readonly Float32Array[]): Promise<void> {
  for (const [i, values] of outputs.entries())
    await post(
      `/output?${folder}/${i}.out`,
      new Uint8Array(values.buffer as ArrayBuffer, values.byteOffset, values.byteLength),
    );
}

/** Answers until the program closes the host. */
export async function answerFromPage(threads: number): Promise<void> {
  const backend = await cpu({ threads });
  const reply = answerer(async (spec) => ourWork(spec, backend), { read, write }, timed);
  const version = /Chrom\w*\/[\d.]+/.exec(navigator.userAgent)?.[0] ?? navigator.userAgent;
  let last: object = { version, threads: backend.describe().threads };
  for (;;) {
    const request = (await (await post('/turn', JSON.stringify(last))).json()) as Request | null;
    if (request === null) break;
    try {
      last = { id: request.id, value: (await reply(request)) ?? null };
    } catch (error) {
      last = { id: request.id, error: error instanceof Error ? error.message : String(error) };
    }
  }
  await backend.close();
}
