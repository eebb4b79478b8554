/** The CPU backend. */
export { CpuBackend, cpu } from './backend.ts';
export type { CpuOptions } from './features.ts';
export { TeamError } from './team.ts';
