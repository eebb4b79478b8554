import { fileError } from './errors.ts';
import type { FileSystem, FileWriter } from './file-system.ts';

/**
 * What happens at the chosen call. `short`: half of the bytes are written (or read) and then EIO;
 * `crash`: the call and all later ones throw `CrashError`, as if the process had died there.
 */
export type Fault = 'ENOSPC' | 'EIO' | 'EACCES' | 'EMFILE' | 'short' | 'crash';

/** Which call fails, and how. */
export interface FaultPlan {
  /** 1 is the first call counted; 0 or undefined: none fails, calls are only counted. */
  failAt?: number;
  /** What the call then does. */
  fault?: Fault;
  /** Also fail every later call (a disk that stays full). Crashes always do. @defaultValue false */
  persistent?: boolean;
  /** Which calls count. @defaultValue all */
  counts?: (operation: string, path: string) => boolean;
}

/** The process is thought dead from here on: code under test must not catch this and go on. */
export class CrashError extends Error {
  override name = 'CrashError';
}

/** A file system that fails on demand. */
export interface FaultyFiles extends FileSystem {
  /** Calls counted so far, writers' calls included. */
  readonly calls: number;
  /** `operation path` of each counted call, oldest first. */
  readonly log: readonly string[];
}

class Gate {
  calls = 0;
  readonly log: string[] = [];
  readonly plan: FaultPlan;
  constructor(plan: FaultPlan) {
    this.plan = plan;
  }

  /** Counts a call and says what shall happen to it. */
  next(operation: string, path: string): Fault | 'dead' | undefined {
    const { failAt = 0, fault = 'EIO', persistent = false, counts } = this.plan;
    if (fault === 'crash' && failAt > 0 && this.calls >= failAt) return 'dead';
    if (counts && !counts(operation, path)) return undefined;
    this.calls++;
    this.log.push(`${operation} ${path}`);
    if (failAt <= 0 || this.calls < failAt) return undefined;
    return this.calls === failAt || persistent ? fault : undefined;
  }

  async pass<T>(operation: string, path: string, run: () => Promise<T>, half?: () => Promise<unknown>): Promise<T> {
    const fault = this.next(operation, path);
    if (fault === undefined) return run();
    if ((fault === 'short' || fault === 'crash') && half) await half();
    if (fault === 'crash' || fault === 'dead')
      throw new CrashError(`crash injected at call ${this.plan.failAt}: ${operation} ${path}`);
    throw fileError(fault === 'short' ? 'EIO' : fault, operation, path, new Error(`injected at call ${this.calls}`));
  }
}

const firstHalf = (bytes: Uint8Array): Uint8Array => bytes.subarray(0, bytes.length >> 1);

function faultyWriter(gate: Gate, inner: FileWriter, path: string): FileWriter {
  return {
    write: (chunk) =>
      gate.pass(
        'write',
        path,
        () => inner.write(chunk),
        () => inner.write(firstHalf(chunk)),
      ),
    sync: () => gate.pass('sync', path, () => inner.sync()),
    close: () => gate.pass('close', path, () => inner.close()),
    // Cleaning up never throws; a dead process does not clean up.
    abort: () => gate.pass('abort', path, () => inner.abort()).catch(() => undefined),
  };
}

/**
 * Wraps a file system, counts its calls and lets the n-th fail. For power loss, wrap `memoryFiles({ simulatePowerLoss: true })`,
 * plan a `crash`, and look at `inner.afterPowerLoss(random)`.
 */
export function faultyFiles(inner: FileSystem, plan: FaultPlan): FaultyFiles {
  const gate = new Gate(plan);
  const read = <T>(operation: string, path: string, run: () => Promise<T>): Promise<T> =>
    gate.pass(operation, path, run);
  return {
    get calls() {
      return gate.calls;
    },
    log: gate.log,
    renamesDirectories: inner.renamesDirectories,
    read: (path) => read('read', path, () => inner.read(path)),
    readRange: (path, offset, length) => read('read', path, () => inner.readRange(path, offset, length)),
    size: (path) => read('size', path, () => inner.size(path)),
    kind: (path) => read('stat', path, () => inner.kind(path)),
    exists: (path) => read('stat', path, () => inner.exists(path)),
    list: (dir) => read('list', dir, () => inner.list(dir)),
    makeDirectory: (dir) => gate.pass('make directory', dir, () => inner.makeDirectory(dir)),
    remove: (path) => gate.pass('remove', path, () => inner.remove(path)),
    rename: (from, to) => gate.pass('rename', from, () => inner.rename(from, to)),
    append: (path, bytes) =>
      gate.pass(
        'append',
        path,
        () => inner.append(path, bytes),
        () => inner.append(path, firstHalf(bytes)),
      ),
    createExclusive: (path, bytes) => gate.pass('create', path, () => inner.createExclusive(path, bytes)),
    openWrite: (path) => gate.pass('open', path, async () => faultyWriter(gate, await inner.openWrite(path), path)),
    syncFile: (path) => gate.pass('sync', path, () => inner.syncFile(path)),
    syncDirectory: (dir) => gate.pass('sync directory', dir, () => inner.syncDirectory(dir)),
    freeBytes: (path) => read('free bytes', path ?? '.', () => inner.freeBytes(path)),
  };
}
