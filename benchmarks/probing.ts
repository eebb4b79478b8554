/** The machine's limits, probed in turn with the kernels: one contender a resource and thread count. */
import { type CpuBackend, type Probe, type Probes, probes } from '@lorikeet/cpu';
import type { Limits, Resource } from './case.ts';
import type { Contender, Rate } from './measure.ts';
import { timed } from './timed.ts';

const mebibyte = 2 ** 20;
/** Memory touched: copy 24 to 24, read 48, stream 288. */
const bytes: Readonly<Record<Exclude<Resource, 'multiply-add'>, number>> = {
  copy: 24 * mebibyte,
  read: 48 * mebibyte,
  stream: 288 * mebibyte,
};
const sampleSeconds = 0.01;

/** The ways one resource is probed; the fastest way of the best round is the limit. */
function waysOf({ multiplyAdd, copies, reads }: Probes, resource: Resource): readonly Probe[] {
  if (resource === 'multiply-add') return [multiplyAdd];
  return resource === 'copy' ? copies : reads;
}

export class Probing {
  readonly #backends: ReadonlyMap<number, CpuBackend>;
  readonly #made = new Map<string, Probes>();

  constructor(backends: ReadonlyMap<number, CpuBackend>) {
    this.#backends = backends;
  }

  #probes(threads: number, resource: Resource): Probes {
    const key = `${threads} ${resource}`;
    const made =
      this.#made.get(key) ??
      probes(this.#backends.get(threads)!, { bytes: resource === 'multiply-add' ? mebibyte : bytes[resource] });
    this.#made.set(key, made);
    return made;
  }

  /** Contenders whose rates {@link limits} turns into limits. */
  contenders(needed: ReadonlyMap<number, ReadonlySet<Resource>>): Contender[] {
    return [...needed].flatMap(([threads, resources]) =>
      [...resources].map((resource): Contender => {
        const ways = waysOf(this.#probes(threads, resource), resource);
        const { work } = ways[0]!;
        const seconds = async (): Promise<number> => {
          let best = Number.POSITIVE_INFINITY;
          for (const { run } of ways) best = Math.min(best, await timed(run, sampleSeconds));
          return best;
        };
        return { name: `${threads} ${resource}`, work, seconds };
      }),
    );
  }

  /** The best rates of {@link contenders}, by thread count. */
  static limits(rates: readonly Rate[]): Map<number, Limits> {
    const limits = new Map<number, Record<Resource, number>>();
    for (const { name, best } of rates) {
      const [threads, resource] = [Number.parseInt(name, 10), name.slice(name.indexOf(' ') + 1) as Resource];
      const of = limits.get(threads) ?? {
        'multiply-add': Number.NaN,
        copy: Number.NaN,
        read: Number.NaN,
        stream: Number.NaN,
      };
      of[resource] = best;
      limits.set(threads, of);
    }
    return limits;
  }

  /** Frees the memory of all probes. */
  close(): void {
    for (const made of this.#made.values()) made.close();
    this.#made.clear();
  }
}
