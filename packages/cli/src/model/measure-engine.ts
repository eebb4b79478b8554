import { availableParallelism } from 'node:os';
import { CpuBackend, type Probe, probes } from '@lorikeet/cpu';
import type { Backend } from '@lorikeet/tensor';

/** What the processor can do at best in this process, on the backend's threads. Measured for about half a second. */
export interface EngineLimits {
  /** Multiply-adds in registers, each counting two operations. */
  readonly multiplyAddGflops: number;
  /** Bytes read and bytes written, both counting. */
  readonly copyGbPerSecond: number;
  readonly readGbPerSecond: number;
}

const probeMs = 60;

/** The best of as many calls as fit into `probeMs`, in units of 1e9 a second. */
function bestRate({ work, run }: Probe): number {
  run();
  let best = 0;
  const end = performance.now() + probeMs;
  for (let start = performance.now(); start < end; start = performance.now()) {
    run();
    best = Math.max(best, work / 1e6 / (performance.now() - start));
  }
  return Math.round(best * 10) / 10;
}

/** Undefined for a backend that is not the CPU's. */
export function measureEngine(backend: Backend): EngineLimits | undefined {
  if (!(backend instanceof CpuBackend)) return undefined;
  const { multiplyAdd, copies, reads, close } = probes(backend);
  try {
    return {
      multiplyAddGflops: bestRate(multiplyAdd),
      copyGbPerSecond: Math.max(...copies.map(bestRate)),
      readGbPerSecond: Math.max(...reads.map(bestRate)),
    };
  } finally {
    close();
  }
}

/** What would make the CPU engine faster here, a line each; empty where nothing is missing. */
export function missingForSpeed(details: Readonly<Record<string, unknown>>): string[] {
  const { threads, sharedMemory, relaxedSimd, revectorize, storeLimitBytes, switchedOff } = details;
  const cores = availableParallelism();
  const off = switchedOff as readonly string[];
  const major = Number(process.versions.node.split('.')[0]);
  const lines: readonly (readonly [missing: boolean, line: string])[] = [
    [major < 24, `Node 24: this is ${process.version}`],
    [
      revectorize !== true,
      'pairs of vectors (about 3 x for products): they need x64, and LORIKEET_CPU without norevec',
    ],
    [
      relaxedSimd !== true,
      'relaxed SIMD (fused multiply-add): it needs a newer V8, and LORIKEET_CPU without norelaxed',
    ],
    [sharedMemory !== true, 'shared memory: without it there is one thread'],
    [
      storeLimitBytes === 0,
      '64-bit memory for weights: it needs 16 GiB of address space, and LORIKEET_CPU without nomem64',
    ],
    [(threads as number) < cores, `threads: ${threads} work, and there are ${cores} cores`],
    [off.length > 0, `${off.join(', ')}: wrong results here, so the slow reference computes them. Please report it`],
  ];
  return lines.flatMap(([missing, line]) => (missing ? [line] : []));
}
