import { bytesToHex } from './bytes.ts';
import { FileError, LockError } from './errors.ts';
import type { FileSystem } from './file-system.ts';
import { joinPath } from './paths.ts';
import { processAlive, processId, releaseTemporary, temporarySibling } from './temporary.ts';

/** The name of the lock file in a locked directory. */
export const lockName = '.lock';

/** A held lock. `await using` releases it. */
export interface Lock extends AsyncDisposable {
  /** Said to the user when the lock of a dead process was taken over. */
  readonly notice: string | undefined;
  /** Gives the lock back. A second call does nothing. */
  release(): Promise<void>;
}

interface Owner {
  pid: number;
  host: string;
  token: string;
}

/** Tokens of locks this process holds: in a container a new process often has the pid of the dead one. */
const held = new Set<string>();

function hostName(): string {
  const os = globalThis.process?.getBuiltinModule?.('node:os') as typeof import('node:os') | undefined;
  return os?.hostname() ?? '';
}

async function readOwner(files: FileSystem, path: string): Promise<Owner | 'unreadable' | undefined> {
  try {
    const value = JSON.parse(new TextDecoder().decode(await files.read(path))) as Partial<Owner> | null;
    const { pid, host, token } = value ?? {};
    if (!Number.isSafeInteger(pid) || typeof host !== 'string' || typeof token !== 'string') return 'unreadable';
    return { pid: pid as number, host, token };
  } catch (error) {
    if (error instanceof FileError && error.code === 'ENOENT') return undefined;
    if (error instanceof SyntaxError) return 'unreadable';
    throw error;
  }
}

const isAlive = (owner: Owner, host: string): boolean =>
  owner.host !== host || (owner.pid === processId() ? held.has(owner.token) : processAlive(owner.pid));

function refuse(dir: string, path: string, owner: Owner | 'unreadable', host: string): never {
  if (owner === 'unreadable') {
    throw new LockError(
      path,
      undefined,
      `lock ${dir}: ${path} cannot be read, so its owner is unknown. Delete it if no other run uses the directory.`,
    );
  }
  const where = owner.host === host ? '' : ` on ${owner.host}`;
  throw new LockError(
    path,
    owner.pid,
    `lock ${dir}: must be used by one process: process ${owner.pid}${where} holds it. Wait for it or choose another directory; if it is gone, delete ${path}.`,
  );
}

/** Moves a dead owner's lock file away. Returns false when another process was faster. */
async function takeAway(files: FileSystem, path: string, stale: Owner): Promise<boolean> {
  const trash = temporarySibling(path, 'trash');
  try {
    await files.rename(path, trash);
    const moved = await readOwner(files, trash);
    if (moved === undefined || moved === 'unreadable' || moved.token === stale.token) return true;
    // Between our look and the rename someone else took the lock over: put theirs back.
    await files.createExclusive(path, await files.read(trash));
    return false;
  } catch (error) {
    if (error instanceof FileError && error.code === 'ENOENT') return false;
    throw error;
  } finally {
    await files.remove(trash).catch(() => undefined);
    releaseTemporary(trash);
  }
}

async function lockByFile(files: FileSystem, dir: string, pid: number): Promise<Lock> {
  const path = joinPath(dir, lockName);
  const host = hostName();
  const own: Owner = { pid, host, token: bytesToHex(crypto.getRandomValues(new Uint8Array(16))) };
  let notice: string | undefined;
  for (let attempt = 0; ; attempt++) {
    try {
      await files.createExclusive(path, new TextEncoder().encode(`${JSON.stringify(own)}\n`));
      break;
    } catch (error) {
      if (!(error instanceof FileError && error.code === 'EEXIST')) throw error;
    }
    const owner = await readOwner(files, path);
    if (owner === undefined) continue;
    if (owner === 'unreadable' || attempt >= 3 || isAlive(owner, host)) refuse(dir, path, owner, host);
    if (await takeAway(files, path, owner))
      notice = `took over the lock of ${dir || '.'} from process ${owner.pid}, which is gone`;
  }
  held.add(own.token);
  return lockHandle(notice, async () => {
    held.delete(own.token);
    const owner = await readOwner(files, path);
    if (typeof owner === 'object' && owner.token === own.token) await files.remove(path);
  });
}

function lockHandle(notice: string | undefined, free: () => Promise<void>): Lock {
  let released: Promise<void> | undefined;
  const release = (): Promise<void> => (released ??= free());
  return { notice, release, [Symbol.asyncDispose]: release };
}

/** Between tabs: a Web Lock, which the browser frees when the tab goes. */
export async function lockInBrowser(dir: string, locks: LockManager | undefined): Promise<Lock> {
  if (!locks)
    return lockHandle('this browser has no Web Locks: do not open the same run in two tabs', async () => undefined);
  let free = (): void => undefined;
  const done = new Promise<void>((resolve) => {
    free = resolve;
  });
  const granted = await new Promise<boolean>((resolve, reject) => {
    locks
      .request(`lorikeet:${dir}`, { ifAvailable: true }, (lock) => {
        resolve(lock !== null);
        return lock === null ? undefined : done;
      })
      .catch(reject);
  });
  if (!granted) {
    throw new LockError(
      dir,
      undefined,
      `lock ${dir}: must be used by one tab: another tab holds it. Close it or choose another directory.`,
    );
  }
  return lockHandle(undefined, async () => free());
}

/**
 * Takes the lock of a directory, which must exist. In Node it is the file `.lock` with pid and host; a lock whose process is gone
 * (on this host) is taken over and `notice` says so. In a browser it is a Web Lock.
 *
 * @throws LockError with the holder's pid
 */
export async function acquireLock(files: FileSystem, dir: string): Promise<Lock> {
  const pid = processId();
  return pid === undefined ? lockInBrowser(dir, globalThis.navigator?.locks) : lockByFile(files, dir, pid);
}
