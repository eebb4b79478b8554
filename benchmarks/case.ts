import type { CpuBackend } from '@lorikeet/cpu';
import type { Contender } from './measure.ts';
import type { GpuJs } from './peers.ts';

/** What every case may use. */
export interface BenchContext {
  /** The CPU backend on one thread and on all. */
  readonly one: CpuBackend;
  readonly many: CpuBackend;
  readonly gpuJs: GpuJs | null;
}

/** One line of work and those who do it. Contenders are checked for right results before they are returned. */
export interface BenchCase {
  readonly name: string;
  readonly shape: string;
  readonly unit: string;
  /** Work units in one `unit`. */
  readonly perUnit: number;
  contenders(context: BenchContext): Promise<readonly Contender[]>;
}
