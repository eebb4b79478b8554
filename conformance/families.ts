import { runLoraCase } from './family-lora.ts';
import { runOpCase } from './family-ops.ts';
import { runOptimCase } from './family-optim.ts';
import { runPhi3Case } from './family-phi3.ts';
import { runTrainerCase } from './family-trainer.ts';
import type { FamilyRunner } from './findings.ts';

/** Who runs the cases of each family. */
export const runners: Readonly<Record<string, FamilyRunner>> = {
  lora: runLoraCase,
  ops: runOpCase,
  optim: runOptimCase,
  phi3: runPhi3Case,
  trainer: runTrainerCase,
};
