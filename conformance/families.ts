import { runOpCase } from './family-ops.ts';
import type { FamilyRunner } from './findings.ts';

/** Who runs the cases of each family. */
export const runners: Readonly<Record<string, FamilyRunner>> = {
  ops: runOpCase,
};
