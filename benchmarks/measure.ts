/** Timing with benchmark.js: contenders of one case take turns for several rounds; best and median of each are kept. */
import Benchmark from 'benchmark';

export interface Contender {
  readonly name: string;
  /** What one call does, in the case's unit (FLOP, bytes, tokens). Contenders may do different amounts: rates are compared. */
  readonly work: number;
  /** One call. A promise is awaited inside the timing. */
  readonly run?: () => unknown;
  /** Instead of `run`: seconds of one call, measured elsewhere. */
  readonly seconds?: () => Promise<number>;
  /** Turns it takes. Default: all, but a contender that has had 6 s is left alone after 3. */
  readonly maxRounds?: number;
}

export interface Rate {
  readonly name: string;
  /** Work a second, in the best and in the middle round. */
  readonly best: number;
  readonly median: number;
  readonly rounds: number;
  /** (best - worst) / best. */
  readonly spread: number;
}

const patienceSeconds = 6;
const leastRounds = 3;

/** Seconds of one call, by benchmark.js: it chooses how many calls make a sample of 0.05 s. A promise is awaited inside the timing. */
export function sample(run: () => unknown): Promise<number> {
  return new Promise((resolve, reject) => {
    const bench = new Benchmark('sample', {
      defer: true,
      minSamples: 1,
      maxTime: 0.1,
      minTime: 0.05,
      fn: (deferred: { resolve(): void }) => {
        Promise.resolve(run()).then(() => deferred.resolve(), reject);
      },
    });
    bench.on('error', () => reject(bench.error ?? new Error('bench: a sample failed')));
    bench.on('complete', () => resolve(Math.min(...bench.stats.sample)));
    bench.run({ async: true });
  });
}

/** Best, median and spread of a contender's rates. */
export function rateOf(name: string, rates: readonly number[]): Rate {
  const sorted = rates.toSorted((a, b) => a - b);
  const [worst, best] = [sorted[0]!, sorted.at(-1)!];
  return {
    name,
    best,
    median: sorted[Math.floor(sorted.length / 2)]!,
    rounds: sorted.length,
    spread: (best - worst) / best,
  };
}

/** Runs every contender once a round, in turn, so that all see the same machine. */
export async function alternate(contenders: readonly Contender[], rounds: number): Promise<Rate[]> {
  const rates = contenders.map((): number[] => []);
  const spent = contenders.map(() => 0);
  const measured = (contender: Contender): Promise<number> => contender.seconds?.() ?? sample(contender.run!);
  for (const { run } of contenders) await run?.();
  for (let round = 0; round < rounds; round++)
    for (const [i, contender] of contenders.entries()) {
      if (round >= (contender.maxRounds ?? rounds)) continue;
      if (round >= leastRounds && spent[i]! > patienceSeconds) continue;
      const start = performance.now();
      rates[i]!.push(contender.work / (await measured(contender)));
      spent[i]! += (performance.now() - start) / 1000;
    }
  return contenders.map(({ name }, i) => rateOf(name, rates[i]!));
}
