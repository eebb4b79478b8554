/** The CPU backend. */
export { CpuBackend, cpu } from './backend.ts';
export type { CpuOptions } from './features.ts';
export { type Probe, type Probes, probes } from './probes.ts';
export { TeamError } from './team.ts';
export {
  defaults,
  type KernelParameters,
  type ParameterName,
  readTuning,
  type Tuning,
  tunable,
  tuningVersion,
} from './tuning.ts';
