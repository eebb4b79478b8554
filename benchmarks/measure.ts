/** Timing with benchmark.js: contenders of one case take turns for several rounds; best and median of each are kept. */
import Benchmark from 'benchmark';

export interface Contender {
  readonly name: string;
  /** What one call does, in the case's unit (FLOP, tokens). Contenders may do different amounts: rates are compared. */
  readonly work: number;
  /** One call. A promise is awaited inside the timing. */
  readonly run: () => unknown;
  /** Turns it takes; slow peers may take fewer. Default: all. */
  readonly maxRounds?: number;
}

export interface Rate {
  readonly name: string;
  /** Work a second, in the best and in the middle round. */
  readonly best: number;
  readonly median: number;
  readonly rounds: number;
}

/** Seconds of one call, by benchmark.js: it chooses how many calls make a sample. */
function sample({ name, run }: Contender): Promise<number> {
  return new Promise((resolve, reject) => {
    const bench = new Benchmark(name, {
      defer: true,
      minSamples: 1,
      maxTime: 0.2,
      minTime: 0.1,
      fn: (deferred: { resolve(): void }) => {
        Promise.resolve(run()).then(() => deferred.resolve(), reject);
      },
    });
    bench.on('error', () => reject(bench.error ?? new Error(`${name} failed`)));
    bench.on('complete', () => resolve(Math.min(...bench.stats.sample)));
    bench.run({ async: true });
  });
}

/** Runs every contender once a round, in turn, so that all see the same machine. */
export async function alternate(contenders: readonly Contender[], rounds: number): Promise<Rate[]> {
  const rates = contenders.map((): number[] => []);
  for (const { run } of contenders) await run();
  for (let round = 0; round < rounds; round++)
    for (const [i, contender] of contenders.entries())
      if (round < (contender.maxRounds ?? rounds)) rates[i]!.push(contender.work / (await sample(contender)));
  return contenders.map(({ name }, i) => {
    const sorted = rates[i]!.sort((a, b) => a - b);
    return { name, best: sorted.at(-1)!, median: sorted[Math.floor(sorted.length / 2)]!, rounds: sorted.length };
  });
}
