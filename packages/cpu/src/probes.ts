/**
 * What this machine can do, by loops that do nothing else: multiply-adds in registers, copying and reading memory. They run
 * on a backend's threads, so they show the limits of its kernels in the host it runs in.
 */

import { argument, ModuleBuilder } from './assembler.ts';
import type { CpuBackend } from './backend.ts';
import { f32x4, i32, store, v128 } from './instructions.ts';
import { maddFor } from './kernels/lanes.ts';

export interface Probe {
  readonly name: string;
  /** Floating-point operations of one call, a multiply-add counting two; or bytes, read and written ones both counting. */
  readonly work: number;
  run(): void;
}

export interface Probes {
  /** A parallel region that does nothing, one chunk a thread: what it costs to start and to wait. Its work is one region. */
  readonly region: Probe;
  readonly multiplyAdd: Probe;
  /** Two ways to copy; the faster is the limit. */
  readonly copies: readonly Probe[];
  /** Reading in 1, 2, 4 and 8 streams; the fastest is the limit. */
  readonly reads: readonly Probe[];
  /** Frees the memory they use. */
  close(): void;
}

const vectorBytes = 16;
/** A multiply-add call: about 0.4 ms a thread. */
const [turns, chunksOfAdds] = [8192, 16];
const streamCounts = [1, 2, 4, 8] as const;
/** Memory is touched in chunks of 1 MiB, larger than what a core prefetches at a time. */
const chunkBytes = 2 ** 20;

interface Features {
  readonly relaxed: boolean;
  readonly paired: boolean;
}

/** 24 accumulators of 4 lanes fill the registers where V8 pairs them; where it does not, 8 do. */
const accumulatorsOf = ({ paired }: Features): number => (paired ? 24 : 8);

function multiplyAddModule(m: ModuleBuilder, features: Features): void {
  const madd = maddFor(features);
  const columns = features.paired ? 4 : 2;
  m.task('multiplyAdd', (f, _, __, scratch) => {
    const b = Array.from({ length: columns }, (_, j) => f.vector(v128.load(scratch, vectorBytes * j)));
    const a = f.vector(v128.load32Splat(scratch, 64));
    const sums = Array.from({ length: accumulatorsOf(features) }, (_, i) =>
      f.vector(v128.load(scratch, vectorBytes * i)),
    );
    f.for(0, turns, 1, () => {
      for (const [i, sum] of sums.entries()) f.set(sum, madd(a, b[i % columns]!, sum));
    });
    for (const [i, sum] of sums.entries()) f.emit(store.v128(scratch, sum, vectorBytes * i));
  });
}

function regionModule(m: ModuleBuilder): void {
  m.task('region', () => {});
}

function copyModule(m: ModuleBuilder): void {
  m.task('copyBulk', (f, args, chunk) => {
    const offset = f.int(i32.mul(chunk, chunkBytes));
    f.copy(i32.add(argument(args, 1), offset), i32.add(argument(args, 0), offset), chunkBytes);
  });
  m.task('copyVectors', (f, args, chunk) => {
    const offset = f.int(i32.mul(chunk, chunkBytes));
    const [from, to] = [f.int(i32.add(argument(args, 0), offset)), f.int(i32.add(argument(args, 1), offset))];
    const vectors = Array.from({ length: 8 }, () => f.vector());
    f.for(0, chunkBytes, 8 * vectorBytes, () => {
      for (const [j, vector] of vectors.entries()) f.set(vector, v128.load(from, vectorBytes * j));
      for (const [j, vector] of vectors.entries()) f.emit(store.v128(to, vector, vectorBytes * j));
      f.increase(from, 8 * vectorBytes);
      f.increase(to, 8 * vectorBytes);
    });
  });
}

/** Each stream reads its own part of the chunk. */
function readModule(m: ModuleBuilder): void {
  for (const streams of streamCounts)
    m.task(`read${streams}`, (f, args, chunk, scratch) => {
      const from = f.int(i32.add(argument(args, 0), i32.mul(chunk, chunkBytes)));
      const step = Math.max(2, 8 / streams) * vectorBytes;
      const offsets = Array.from({ length: streams }, (_, s) =>
        Array.from({ length: step / vectorBytes }, (_, j) => (s * chunkBytes) / streams + j * vectorBytes),
      ).flat();
      const sums = offsets.map(() => f.vector(f32x4.const(0)));
      f.for(0, chunkBytes / streams, step, () => {
        for (const [i, offset] of offsets.entries()) f.set(sums[i]!, f32x4.add(sums[i]!, v128.load(from, offset)));
        f.increase(from, step);
      });
      for (const [i, sum] of sums.entries()) f.emit(store.v128(scratch, sum, vectorBytes * i));
    });
}

/** Makes probes that touch `bytes` of memory at a time (default 32 MiB, twice for a copy). Close them, then the backend. */
export function probes(backend: CpuBackend, { bytes = 32 * chunkBytes }: { readonly bytes?: number } = {}): Probes {
  if (!Number.isInteger(bytes / chunkBytes) || bytes <= 0)
    throw new RangeError(`probes: bytes must be a multiple of ${chunkBytes}: got ${bytes}.`);
  const { team } = backend;
  const { relaxedSimd, revectorize } = backend.describe();
  const features = { relaxed: relaxedSimd === true, paired: revectorize === true };
  const m = new ModuleBuilder(team.memory.shape);
  regionModule(m);
  multiplyAddModule(m, features);
  copyModule(m);
  readModule(m);
  const tasks = team.install(m);
  const [from, to] = [team.memory.allocate(bytes), team.memory.allocate(bytes)];
  team.memory.bytes.fill(1, from, from + bytes);
  const probe = (name: string, work: number, chunks: number): Probe => ({
    name,
    work,
    run: () => team.run(tasks[name]!, [from, to], chunks),
  });
  return {
    region: probe('region', 1, team.threads),
    multiplyAdd: probe('multiplyAdd', chunksOfAdds * turns * accumulatorsOf(features) * 8, chunksOfAdds),
    copies: ['copyBulk', 'copyVectors'].map((name) => probe(name, 2 * bytes, bytes / chunkBytes)),
    reads: streamCounts.map((streams) => probe(`read${streams}`, bytes, bytes / chunkBytes)),
    close: () => {
      team.memory.release(from);
      team.memory.release(to);
    },
  };
}
