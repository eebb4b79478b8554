import { type CaseContext, type Finding, SkipCase } from './findings.ts';
import { runSft } from './sft-run.ts';

/** A configuration drawn over model, adapter, data and trainer, run whole. */
export const runRunsCase = async (context: CaseContext): Promise<Finding[]> => {
  if (context.backend.name === 'hostile')
    throw new SkipCase('it computes as the reference does, late; the family trainer runs the same loop on it');
  return runSft(context);
};
