import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { type ScheduleName, type ScheduleOptions, scheduleByName, schedules } from './schedules.ts';

// transformers 5.23.0: get_scheduler(name, SGD(lr=1), num_warmup_steps=2, num_training_steps=10, scheduler_specific_kwargs):
// get_last_lr() before each of 11 steps. Options here are the keywords in Python's spelling there.
const recorded: Record<ScheduleName, { options?: ScheduleOptions; want: number[] }> = {
  constant: { want: Array<number>(11).fill(1) },
  constant_with_warmup: { want: [0, 0.5, ...Array<number>(9).fill(1)] },
  linear: { want: [0, 0.5, 1, 0.875, 0.75, 0.625, 0.5, 0.375, 0.25, 0.125, 0] },
  cosine: { want: [0, 0.5, 1, 0.9619398, 0.8535534, 0.6913417, 0.5, 0.3086583, 0.1464466, 0.0380602, 0] },
  cosine_with_restarts: {
    options: { numCycles: 2 },
    want: [0, 0.5, 1, 0.8535534, 0.5, 0.1464466, 1, 0.8535534, 0.5, 0.1464466, 0],
  },
  polynomial: {
    options: { endFactor: 0.1, power: 2 },
    want: [0, 0.5, 1, 0.7890625, 0.60625, 0.4515625, 0.325, 0.2265625, 0.15625, 0.1140625, 0.1],
  },
  inverse_sqrt: {
    want: [0, 0.5, 1, 0.8164966, Math.SQRT1_2, 0.6324555, 0.5773503, 0.5345225, 0.5, 0.4714045, 0.4472136],
  },
  cosine_with_min_lr: {
    options: { minFactor: 0.1 },
    want: [0, 0.5, 1, 0.9657458, 0.8681981, 0.7222075, 0.55, 0.3777925, 0.2318019, 0.1342542, 0.1],
  },
  cosine_warmup_with_min_lr: {
    options: { minFactor: 0.1, warmupFactor: 0.3 },
    want: [0.3, 1, 0.9657458, 0.8681981, 0.7222075, 0.55, 0.3777925, 0.2318019, 0.1342542, 0.1, 0.1342542],
  },
  warmup_stable_decay: {
    options: { decaySteps: 3, minFactor: 0.1 },
    want: [0.1, 0.55, 1, 1, 1, 1, 1, 1, 0.775, 0.325, 0.1],
  },
};

describe('schedules', () => {
  it.each(Object.entries(recorded))("%s is transformers'", (name, { options, want }) => {
    const schedule = scheduleByName(name);
    want.forEach((factor, step) => expect(schedule(step, 10, 2, options), `step ${step}`).toBeCloseTo(factor, 6));
  });
  it.each([
    { options: { decaySteps: 4, minFactor: 0.1, warmupType: '1-sqrt', decayType: '1-sqrt' }, want: [0.1, 0.3636039, 1, 1, 1, 1, 1, 0.55, 0.3636039, 0.2205771, 0.1] },
    { options: { decaySteps: 4, warmupType: 'cosine', decayType: 'linear' }, want: [0, 0.5, 1, 1, 1, 1, 1, 0.75, 0.5, 0.25, 0] },
  ] as const)("warmup_stable_decay of $options.decayType is transformers'", ({ options, want }) => {
    want.forEach((factor, step) => expect(schedules.warmup_stable_decay(step, 10, 2, options)).toBeCloseTo(factor, 6));
  }); // biome-ignore format: recorded rows
  it('stay in [0, 1] and rise through the warm-up, whatever the numbers', () => {
    const names = Object.keys(schedules) as ScheduleName[];
    fc.assert(
      fc.property(fc.constantFrom(...names), fc.nat(500), fc.nat(200), fc.nat(600), (name, total, warmup, step) => {
        const factor = schedules[name](step, total, warmup);
        expect(factor).toBeGreaterThanOrEqual(0);
        expect(factor).toBeLessThanOrEqual(1);
        // This one reaches 1 a step early and falls from there; a run that ends in its warm-up has no top.
        const top = name === 'cosine_warmup_with_min_lr' || total <= warmup ? warmup - 1 : warmup;
        if (step > 0 && step <= top) expect(schedules[name](step - 1, total, warmup)).toBeLessThanOrEqual(factor);
      }),
    );
  });
  it('an unknown name lists the known ones', () => {
    expect(() => scheduleByName('linea')).toThrow('must be one of constant, constant_with_warmup, linear, cosine');
  });
});
