import { type ScheduleOptions, scheduleByName } from '@lorikeet/nn';
import { type CaseContext, type Finding, finding } from './findings.ts';
import { modelLimit } from './tolerances.ts';

/** A schedule's factors step by step: arithmetic on the host, the same on every backend. */
export function runScheduleCase({ recording, testCase, backend }: CaseContext): Finding[] {
  const { schedule, steps, warmupSteps, options } = testCase.attributes as {
    schedule: string;
    steps: number;
    warmupSteps: number;
    options: ScheduleOptions;
  };
  const factor = scheduleByName(schedule);
  const factors = Array.from({ length: steps + 1 }, (_, step) => factor(step, steps, warmupSteps, options));
  const expected = recording.tensor(testCase.outputs.factors!);
  return [finding('factors', factors, expected, modelLimit('learningRate', backend.name))];
}
