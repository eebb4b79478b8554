/** What the command line is made of, for programs: configurations in YAML or in Python's spelling, checked and completed. */
export { type LoadedConfig, loadConfig, resolveConfig } from './config/load-config.ts';
export type { ResolvedConfig } from './config/schema.ts';
