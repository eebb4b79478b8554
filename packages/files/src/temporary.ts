import { bytesToHex } from './bytes.ts';
import { joinPath, parentPath } from './paths.ts';

/** The id of this process; undefined in a browser. */
export function processId(): number | undefined {
  return globalThis.process?.pid;
}

/** Names made by this run of the program: they are in use, everything else with our pid is a dead process's. */
const ours = new Set<string>();

/**
 * A fresh path beside `path`, `.tmp-<pid>-<random>` or `.trash-<pid>-<random>`. The kind and the pid tell a later run what
 * it may remove; see `cleanStale`. Call `releaseTemporary` when the path is gone.
 */
export function temporarySibling(path: string, kind: 'tmp' | 'trash'): string {
  const random = bytesToHex(crypto.getRandomValues(new Uint8Array(8)));
  const name = `.${kind}-${processId() ?? 0}-${random}`;
  ours.add(name);
  const parent = parentPath(path);
  return parent === '.' && !path.startsWith('./') ? name : joinPath(parent, name);
}

/** Forgets a name from `temporarySibling`, so that `cleanStale` may take what is left of it. */
export function releaseTemporary(path: string): void {
  ours.delete(path.slice(path.lastIndexOf('/') + 1));
}

/** Whether a process of this id runs on this machine. Always false in a browser, where ids mean nothing. */
export function processAlive(pid: number): boolean {
  if (processId() === undefined || pid <= 0) return false;
  try {
    globalThis.process.kill(pid, 0);
    return true;
  } catch (error) {
    return (error as { code?: string }).code === 'EPERM'; // it lives, under another user
  }
}

/** What a directory entry is to the cleaner: nothing of ours, in use, or left by a dead process. */
export function temporaryState(name: string): { kind: 'tmp' | 'trash'; stale: boolean } | undefined {
  const match = /^\.(tmp|trash)-(\d+)-[0-9a-f]{16}$/.exec(name);
  if (!match) return undefined;
  const pid = Number(match[2]);
  // In a container a new process often has the pid of the dead one, so our own pid proves nothing: the set does.
  const used = pid === (processId() ?? 0) ? ours.has(name) : processAlive(pid);
  return { kind: match[1] as 'tmp' | 'trash', stale: !used };
}
