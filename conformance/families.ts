import { runOpCase } from './family-ops.ts';
import { runScheduleCase } from './family-optim.ts';
import type { FamilyRunner } from './findings.ts';

/** Who runs the cases of each family. */
export const runners: Readonly<Record<string, FamilyRunner>> = {
  ops: runOpCase,
  optim: async (context) => runScheduleCase(context),
};
