/**
 * A peer in a process of its own, spoken to in lines of JSON: V8's flags are process-wide, so a library in a stranger's
 * Node, and Python, are measured there. The process first writes `{"version": V, "threads": N}`, then answers each
 * `{"id", "do", ...}` with `{"id", "value"}` or `{"id", "error"}`:
 *   do: work, folder      value: null, or {"work": NUMBER, "part"?: NUMBER, "roundoff"?: NUMBER}
 *   do: seconds, work     value: seconds of one call
 *   do: result, work, folder   value: how many outputs were written, as `work-files.ts` says
 *   do: dispose, work     value: null
 * It ends when its stdin does. What it writes to stderr goes to the terminal.
 */
import { type ChildProcess, spawn } from 'node:child_process';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import type { Peer, PeerWork, WorkSpec } from './peer.ts';
import { readOutputs, writeWork } from './work-files.ts';

interface Answer {
  readonly id: number;
  readonly value?: unknown;
  readonly error?: string;
}

/** A line to a program and its answer. */
export type Ask = (request: { readonly do: string } & Readonly<Record<string, unknown>>) => Promise<unknown>;

const newFolder = (): string => mkdtempSync(join(tmpdir(), 'lorikeet-bench-'));
const remove = (folder: string): void => rmSync(folder, { recursive: true, force: true });

/** The files of the spec that was asked for last: one peer after the other reads them. */
let written: { readonly spec: WorkSpec; readonly folder: string } | undefined;
process.once('exit', () => written && remove(written.folder));

function folderOf(spec: WorkSpec): string {
  if (written?.spec !== spec) {
    if (written) remove(written.folder);
    written = { spec, folder: newFolder() };
    writeWork(written.folder, spec);
  }
  return written.folder;
}

interface Made {
  readonly work: number;
  readonly part?: number;
  readonly roundoff?: number;
}

/** Work behind {@link Ask}. A program has read a spec's files when it answers. */
export async function remoteWork(ask: Ask, spec: WorkSpec): Promise<PeerWork | null> {
  const made = (await ask({ do: 'work', folder: folderOf(spec) })) as Made | null;
  if (made === null) return null;
  const { work, part = 1, roundoff } = made;
  return {
    part,
    ...(roundoff && { roundoff }),
    seconds: async () => (await ask({ do: 'seconds', work })) as number,
    result: async () => {
      const folder = newFolder();
      try {
        return readOutputs(folder, (await ask({ do: 'result', work, folder })) as number);
      } finally {
        remove(folder);
      }
    },
    dispose: () => void ask({ do: 'dispose', work }).catch(() => {}),
  };
}

/** Starts a program and waits for its first line. @throws Error where it ends before */
export async function openProcessPeer(
  name: string,
  command: readonly string[],
  env: Readonly<Record<string, string>> = {},
): Promise<Peer> {
  const child: ChildProcess = spawn(command[0]!, command.slice(1), {
    stdio: ['pipe', 'pipe', 'inherit'],
    env: { ...process.env, ...env },
  });
  const waiting = new Map<number, { resolve(value: unknown): void; reject(error: Error): void }>();
  const hello = Promise.withResolvers<{ version: string; threads: number }>();
  const ended = new Promise<void>((resolve) => child.once('close', () => resolve()));
  const fail = (why: string): void => {
    const error = new Error(`bench: the process of ${name} must live: ${why}.`);
    hello.reject(error);
    for (const { reject } of waiting.values()) reject(error);
    waiting.clear();
  };
  child.once('error', (error) => fail(error.message));
  child.once('close', (code, signal) => fail(`it ended with ${signal ?? code}`));
  let isFirst = true;
  createInterface({ input: child.stdout! }).on('line', (line) => {
    if (!line.startsWith('{')) return;
    const message = JSON.parse(line) as Answer & { version: string; threads: number };
    if (isFirst) hello.resolve(message);
    else {
      const { id, value, error } = message;
      const asker = waiting.get(id);
      waiting.delete(id);
      if (error === undefined) asker?.resolve(value);
      else asker?.reject(new Error(`${name}: ${error}`));
    }
    isFirst = false;
  });
  let last = 0;
  const ask: Ask = (request) =>
    new Promise((resolve, reject) => {
      const id = ++last;
      waiting.set(id, { resolve, reject });
      child.stdin!.write(`${JSON.stringify({ id, ...request })}\n`);
    });
  const { version, threads } = await hello.promise;
  return {
    name,
    version,
    threads,
    work: (spec) => remoteWork(ask, spec),
    close: () => {
      child.stdin!.end();
      return ended;
    },
  };
}
