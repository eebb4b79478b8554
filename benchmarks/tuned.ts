/** The tuning table that LORIKEET_TUNING names, for programs of this folder. */
import { readFileSync } from 'node:fs';
import { type CpuOptions, readTuning } from '@lorikeet/cpu';

/** Options for `cpu()`: the table of the environment, or none. */
export function tuned(): Pick<CpuOptions, 'tuning'> {
  const file = process.env.LORIKEET_TUNING;
  return file ? { tuning: readTuning(JSON.parse(readFileSync(file, 'utf8'))) } : {};
}
