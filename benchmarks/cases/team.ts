/** What work costs before it computes anything: an empty parallel region, warm and after idling; one small op; and idling itself. */
import { setTimeout as pause } from 'node:timers/promises';
import { type CpuBackend, type Probes, probes } from '@lorikeet/cpu';
import { openScope, type Tensor, tensor } from '@lorikeet/tensor';
import type { BenchCase, BenchContender, BenchContext } from '../case.ts';
import { timed } from '../timed.ts';

const idleMs = 20;
const microsecond = 1e-6;

function timeCase(
  name: string,
  shape: string,
  unit: string,
  perUnit: number,
  make: (
    context: BenchContext,
    threads: number,
    backend: CpuBackend,
  ) => Omit<BenchContender, 'name' | 'work' | 'row'> | null,
): BenchCase {
  return {
    name,
    shape,
    unit,
    perUnit,
    isTime: true,
    contenders: async (context) =>
      [...context.backends].flatMap(([threads, backend]) => {
        const made = make(context, threads, backend);
        return made ? [{ name: `${threads} threads`, work: 1, row: { threads }, ...made }] : [];
      }),
  };
}

function regionOf({ defer }: BenchContext, backend: CpuBackend): Probes['region'] {
  const made = probes(backend, { bytes: 2 ** 20 });
  defer(() => made.close());
  return made.region;
}

const warm = timeCase(
  'parallel region',
  'nothing on every thread, back to back',
  'us',
  microsecond,
  (context, threads, backend) => {
    if (threads === 1) return null;
    const { run } = regionOf(context, backend);
    return { seconds: () => timed(run, 0.02) };
  },
);

const woken = timeCase(
  'parallel region, idle',
  `nothing on every thread after ${idleMs} ms`,
  'us',
  microsecond,
  (context, threads, backend) => {
    if (threads === 1) return null;
    const { run } = regionOf(context, backend);
    return {
      seconds: async () => {
        let best = Number.POSITIVE_INFINITY;
        for (let i = 0; i < 5; i++) {
          await pause(idleMs);
          const start = performance.now();
          run();
          best = Math.min(best, (performance.now() - start) / 1000);
        }
        return best;
      },
    };
  },
);

/** Processor time of this process while nothing is asked of it, as a part of the time that passes. */
const idle = timeCase('processor use, idle', 'all backends open for 0.5 s', '%', 0.01, (_, threads, backend) => {
  if (threads === 1) return null;
  return {
    maxRounds: 3,
    seconds: async () => {
      await backend.sync();
      await pause(idleMs);
      const [start, before] = [performance.now(), process.cpuUsage()];
      await pause(500);
      const { user, system } = process.cpuUsage(before);
      // A rate needs a time above 0.
      return Math.max(1e-9, ((user + system) * microsecond) / ((performance.now() - start) / 1000));
    },
  };
});

const op = timeCase('one small op', 'x + y of 4 elements, freed', 'us', microsecond, ({ defer }, _, backend) => {
  const held = openScope();
  defer(() => held[Symbol.dispose]());
  const [x, y] = held.run(() => [tensor([1, 2, 3, 4], { backend }), tensor([5, 6, 7, 8], { backend })]) as [
    Tensor,
    Tensor,
  ];
  return { seconds: () => timed(() => x.add(y).dispose(), 0.02) };
});

export const teamCases: readonly BenchCase[] = [warm, woken, idle, op];
