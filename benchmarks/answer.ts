/** The other end of `process-peer.ts`, for peers written in JavaScript: answers lines of stdin until it ends. */
import { createInterface } from 'node:readline';
import { sample } from './measure.ts';
import type { PeerWork, WorkSpec } from './peer.ts';
import { readWork, writeOutputs } from './work-files.ts';

interface Request {
  readonly id: number;
  readonly do: 'work' | 'seconds' | 'result' | 'dispose';
  readonly folder: string;
  readonly work: number;
}

type Answerer = (request: Pick<Request, 'do' | 'work' | 'folder'>) => Promise<unknown>;

/** What work, seconds, result and dispose mean, apart from how they arrive. */
export function answerer(
  prepare: (spec: WorkSpec) => Promise<PeerWork | null>,
  files: {
    read(folder: string): WorkSpec | Promise<WorkSpec>;
    write(folder: string, outputs: readonly Float32Array[]): unknown;
  },
): Answerer {
  const works: (PeerWork | null)[] = [];
  return async ({ do: verb, work, folder }) => {
    if (verb === 'work') {
      const made = await prepare(await files.read(folder));
      return made && { work: works.push(made) - 1, part: made.part };
    }
    const made = works[work]!;
    if (verb === 'seconds') return made.seconds ? made.seconds() : sample(() => made.run!());
    if (verb === 'result') {
      const outputs = await made.result();
      await files.write(folder, outputs);
      return outputs.length;
    }
    made.dispose();
    works[work] = null;
    return null;
  };
}

/** Speaks the protocol on stdin and stdout, which must carry nothing else that begins a line with a brace. */
export async function answer(
  facts: { readonly version: string; readonly threads: number },
  prepare: (spec: WorkSpec) => Promise<PeerWork | null>,
): Promise<void> {
  const reply = answerer(prepare, { read: readWork, write: writeOutputs });
  const send = (message: object): void => void process.stdout.write(`${JSON.stringify(message)}\n`);
  send(facts);
  for await (const line of createInterface({ input: process.stdin })) {
    const request = JSON.parse(line) as Request;
    const { id } = request;
    try {
      send({ id, value: await reply(request) });
    } catch (error) {
      send({ id, error: error instanceof Error ? error.message : String(error) });
    }
  }
}
