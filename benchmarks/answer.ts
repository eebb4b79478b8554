/** The other end of `process-peer.ts`, for peers written in JavaScript: answers lines of stdin until it ends. */
import { createInterface } from 'node:readline';
import { answerer, type Request } from './answerer.ts';
import { sample } from './measure.ts';
import type { PeerWork, WorkSpec } from './peer.ts';
import { readWork, writeOutputs } from './work-files.ts';

/** Speaks the protocol on stdin and stdout, which must carry nothing else that begins a line with a brace. */
export async function answer(
  facts: { readonly version: string; readonly threads: number },
  prepare: (spec: WorkSpec) => Promise<PeerWork | null>,
): Promise<void> {
  const reply = answerer(prepare, { read: readWork, write: writeOutputs }, sample);
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
