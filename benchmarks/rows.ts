/** From measured rates to rows of the results: ratios, fractions of the limit and spread. Pure arithmetic. */
import type { BenchCase, BenchContender, Limits, Resource } from './case.ts';
import type { Rate } from './measure.ts';

/** One row, as `--json` writes it. A ratio above 1 means that we are faster. */
export interface ResultRow {
  readonly name: string;
  readonly shape: string;
  readonly threads: number;
  readonly unit: string;
  /** Best round, in `unit`. */
  readonly ours: number;
  /** What the machine allows, in `unit`; null where nothing was probed for it. */
  readonly limit: number | null;
  readonly fractionOfLimit: number | null;
  readonly peers: Readonly<
    Record<string, { readonly version: string; readonly value: number; readonly ratio: number }>
  >;
  /** Rounds that were measured. */
  readonly runs: number;
  /** (best - worst) / best of our rounds. */
  readonly spread: number;
}

/** A row with its medians, which the table shows beside the best. */
export interface Result {
  readonly row: ResultRow;
  readonly median: number;
  readonly medians: Readonly<Record<string, number>>;
}

/** What was measured of one case: rates by contender, and the probes' best rates by thread count. */
export interface Measured {
  readonly of: BenchCase;
  readonly contenders: readonly BenchContender[];
  readonly rates: readonly Rate[];
  readonly limits: ReadonlyMap<number, Limits>;
}

const rowName = ({ of }: Measured, { row }: BenchContender): string => row?.name ?? of.name;

/** The fastest kernel seen, by limit and thread count: no limit is lower. */
export function fastest(all: readonly Measured[]): Map<string, number> {
  const best = new Map<string, number>();
  for (const { contenders, rates } of all)
    for (const [i, { row }] of contenders.entries()) {
      if (!row?.limit) continue;
      const key = `${row.limit.name} ${row.threads}`;
      best.set(key, Math.max(best.get(key) ?? 0, rates[i]!.best));
    }
  return best;
}

/** The limit of a row's rate: as probed with it, or the fastest kernel that ran under the same. */
function limitOf({ limits }: Measured, { row }: BenchContender, seen: ReadonlyMap<string, number>): number | null {
  const probed = row?.limit && limits.get(row.threads);
  if (!probed) return null;
  return Math.max(row.limit!.rate(probed), seen.get(`${row.limit!.name} ${row.threads}`) ?? 0);
}

interface Column {
  readonly name: string;
  readonly version: string;
  readonly rate: Rate;
}

/** Who stands beside a row: of each name the one with the most threads that are not more than the row's. */
function columnsOf(measured: Measured, contender: BenchContender): Column[] {
  const { contenders, rates } = measured;
  const [name, { threads, versus = {} }] = [rowName(measured, contender), contender.row!];
  const columns = new Map<string, Column & { readonly threads: number }>();
  for (const [i, { peer }] of contenders.entries()) {
    if (!peer || peer.threads > threads || (peer.of && !peer.of.includes(name))) continue;
    if (peer.sameThreads && peer.threads !== threads) continue;
    if (peer.threads > (columns.get(peer.name)?.threads ?? 0)) columns.set(peer.name, { ...peer, rate: rates[i]! });
  }
  const ourRow = (wanted: string, count: number): Rate | undefined =>
    rates[contenders.findIndex((c) => c.row?.threads === count && rowName(measured, c) === wanted)];
  const ours: Column[] = [];
  const add = (column: string, rate: Rate | undefined): void => {
    if (rate) ours.push({ name: column, version: 'this', rate });
  };
  if (threads > 1) add('lorikeet, 1 thread', ourRow(name, 1));
  for (const [column, wanted] of Object.entries(versus)) add(column, ourRow(wanted, threads));
  return [...ours, ...columns.values()];
}

/** All rows of what was measured. */
export function resultsOf(all: readonly Measured[]): Result[] {
  const seen = fastest(all);
  return all.flatMap((measured) => {
    const { of, contenders, rates } = measured;
    const value = (rate: number): number => (of.isTime ? 1 / rate / of.perUnit : rate / of.perUnit);
    return contenders.flatMap((contender, i): Result[] => {
      if (!contender.row) return [];
      const [rate, columns] = [rates[i]!, columnsOf(measured, contender)];
      const limit = limitOf(measured, contender, seen);
      const peers = columns.map(({ name, version, rate: { best } }) => {
        return [name, { version, value: value(best), ratio: rate.best / best }] as const;
      });
      return [
        {
          row: {
            name: rowName(measured, contender),
            shape: of.shape,
            threads: contender.row.threads,
            unit: of.unit,
            ours: value(rate.best),
            limit: limit === null ? null : value(limit),
            fractionOfLimit: limit === null ? null : rate.best / limit,
            peers: Object.fromEntries(peers),
            runs: rate.rounds,
            spread: rate.spread,
          },
          median: value(rate.median),
          medians: Object.fromEntries(columns.map(({ name, rate: { median } }) => [name, value(median)])),
        },
      ];
    });
  });
}

/** The resources that must be probed beside these contenders, by thread count. */
export function neededProbes(contenders: readonly BenchContender[]): Map<number, Set<Resource>> {
  const needed = new Map<number, Set<Resource>>();
  for (const { row } of contenders) {
    if (!row?.limit) continue;
    const set = needed.get(row.threads) ?? new Set();
    for (const resource of row.limit.needs) set.add(resource);
    needed.set(row.threads, set);
  }
  return needed;
}
