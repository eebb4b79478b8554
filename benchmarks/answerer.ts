/** What a peer's process is asked, apart from how requests arrive: `process-peer.ts` lists them. Runs in a browser too. */
import type { PeerWork, WorkSpec } from './peer.ts';

export interface Request {
  readonly id: number;
  readonly do: 'work' | 'seconds' | 'result' | 'dispose';
  readonly folder: string;
  readonly work: number;
}

export type Answerer = (request: Pick<Request, 'do' | 'work' | 'folder'>) => Promise<unknown>;

/** Keeps works by number. `files` is how specs arrive and outputs leave, `time` how a call is timed. */
export function answerer(
  prepare: (spec: WorkSpec) => Promise<PeerWork | null>,
  files: {
    read(folder: string): WorkSpec | Promise<WorkSpec>;
    write(folder: string, outputs: readonly Float32Array[]): unknown;
  },
  time: (run: () => unknown) => Promise<number>,
): Answerer {
  const works: (PeerWork | null)[] = [];
  return async ({ do: verb, work, folder }) => {
    if (verb === 'work') {
      const made = await prepare(await files.read(folder));
      return made && { work: works.push(made) - 1, part: made.part, roundoff: made.roundoff };
    }
    const made = works[work]!;
    if (verb === 'seconds') return made.seconds ? made.seconds() : time(() => made.run!());
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
