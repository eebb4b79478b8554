import type { CpuBackend } from '@lorikeet/cpu';
import type { Contender } from './measure.ts';
import type { Peer } from './peer.ts';

/**
 * What the machine limits work by, as probed: multiply-adds in registers, copying 24 MiB to 24 MiB, reading 48 MiB, and
 * streaming 288 MiB, more than caches of one's own hold.
 */
export type Resource = 'multiply-add' | 'copy' | 'read' | 'stream';

/** FLOP/s, and bytes/s where a copied byte counts as read and as written. */
export type Limits = Readonly<Record<Resource, number>>;

/** The largest rate of work a second that the resources allow. Limits of one `name` and thread count hold for each other's rows. */
export interface Limit {
  readonly name: string;
  readonly needs: readonly Resource[];
  rate(limits: Limits): number;
}

/** Work bound by one resource whose unit it is counted in. */
export const boundBy = (resource: Resource): Limit => ({
  name: resource,
  needs: [resource],
  rate: (limits) => limits[resource],
});

/** `flop` operations a call that must read `bytes`: the slower of the two decides. `counted` is what the case counts as work. */
export const roofline = (flop: number, bytes: number, counted: number, memory: Resource = 'stream'): Limit => ({
  name: `roofline ${flop}/${bytes}`,
  needs: ['multiply-add', memory],
  rate: (limits) => counted / Math.max(flop / limits['multiply-add'], bytes / limits[memory]),
});

/** What every case may use. */
export interface BenchContext {
  /** The CPU backend on one thread and on all, and by thread count as `--threads` asks. */
  readonly one: CpuBackend;
  readonly many: CpuBackend;
  readonly backends: ReadonlyMap<number, CpuBackend>;
  readonly peers: readonly Peer[];
  /** Ourselves in other hosts: a library in a stranger's Node, and Chromium. */
  readonly hosts: readonly Peer[];
  /** Called after the case was measured. */
  defer(free: () => void): void;
}

/** A contender is a row of the results where it is ours, a column where it is another's; ourselves in another host are both. */
export interface BenchContender extends Contender {
  readonly row?: {
    /** Default: the case's name. */
    readonly name?: string;
    readonly threads: number;
    readonly limit?: Limit;
    /** Other rows of the case as columns of this one: column name to row name. */
    readonly versus?: Readonly<Record<string, string>>;
  };
  readonly peer?: {
    readonly name: string;
    readonly version: string;
    /** It stands in rows of at least so many threads, unless one of its name has more. */
    readonly threads: number;
    /** It stands in rows of as many threads alone. */
    readonly sameThreads?: boolean;
    /** Names of the only rows it stands in; absent: all of the case. */
    readonly of?: readonly string[];
  };
}

/**
 * One line of work and those who do it. A call of ours that ends in elementwise ops must end in `backend.sync()`: they are
 * held back, and what is freed unread is never computed. Contenders
 * are checked for right results before they are returned.
 */
export interface BenchCase {
  readonly name: string;
  readonly shape: string;
  readonly unit: string;
  /** Work in one `unit` a second; with `isTime`, seconds in one `unit`. */
  readonly perUnit: number;
  /** The unit is a time (or a part of one): less is better, ratios still say how much faster we are. */
  readonly isTime?: boolean;
  contenders(context: BenchContext): Promise<readonly BenchContender[]>;
}

/** The reference in plain JavaScript, as a column: slow, so it takes few rounds. */
export const plainJavaScript = (work: number, run: () => unknown, maxRounds: number): BenchContender => ({
  name: 'plain JavaScript',
  work,
  run,
  maxRounds,
  peer: { name: 'plain JavaScript', version: 'this', threads: 1 },
});
