import type { Call } from '@lorikeet/tensor';
import type { ModuleBuilder } from './assembler.ts';
import type { Elementwise } from './kernels/elementwise-plan.ts';
import type { Features } from './kernels/lanes.ts';
import type { Task, Team } from './team.ts';
import type { KernelParameters } from './tuning.ts';

/** A hand-written kernel for one op. */
export interface Kernel {
  /** Inputs that may lie in the store; others are in work memory when it runs. */
  readonly readsStore?: readonly number[];
  /** Whether it can compute this call; asked with shapes, dtypes, strides and attributes, perhaps before buffers exist. */
  fits(call: Call): boolean;
  run(call: Call): void;
}

/** What kernel families are made with. */
export interface KernelHost {
  readonly team: Team;
  readonly features: Features;
  /** What a search on some machine found best. */
  readonly parameters: KernelParameters;
  /** For kernels whose result needs another dtype. */
  readonly elementwise: Elementwise;
}

/** Installs a family's module at its first use, so that starting a backend compiles only what it runs. */
export function lazyTasks(team: Team, build: () => ModuleBuilder): () => Record<string, Task> {
  let tasks: Record<string, Task> | undefined;
  return () => (tasks ??= team.install(build()));
}
