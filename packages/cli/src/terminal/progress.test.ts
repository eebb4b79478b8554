import { Writable } from 'node:stream';
import { expect, test } from 'vitest';
import { formatCount, formatDuration } from './format.ts';
import { StepsProgress, timeLeftMs } from './progress.ts';
import { displayWidth } from './width.ts';

function recorder(terminal: boolean) {
  let text = '';
  const stream = new Writable({
    write: (chunk, _encoding, done) => {
      text += String(chunk);
      done();
    },
  });
  return {
    stream: Object.assign(stream, { isTTY: terminal, columns: 80 }) as unknown as NodeJS.WriteStream,
    text: () => text,
  };
}

const event = (step: number, logged: boolean) => ({
  step, totalSteps: 10, loss: 5 / step, learningRate: 1e-4, tokensPerSecond: 812.4, logged,
}); // biome-ignore format: one event

test('elsewhere than on a terminal, one plain line for each logged step', () => {
  let now = 0;
  const { stream, text } = recorder(false);
  const progress = new StepsProgress({ stream, now: () => now });
  progress.start(1);
  for (let step = 1; step <= 5; step++) {
    now += 1000;
    progress.step(event(step, step === 5));
  }
  expect(text()).toBe('step 5/10  loss 1.0000  lr 1.00e-4  812 tokens/s  5.0 s left\n');
});

test('on a terminal, a bar that fits and draws over itself', () => {
  let now = 0;
  const { stream, text } = recorder(true);
  const progress = new StepsProgress({ stream, now: () => now });
  progress.start(1);
  for (let step = 1; step <= 10; step++) {
    now += 500;
    progress.step(event(step, false));
  }
  expect(text()).not.toContain('\n');
  const draws = text()
    .split('\r')
    .filter((draw) => draw !== '');
  expect(draws.length).toBe(10);
  for (const draw of draws) expect(displayWidth(draw)).toBeLessThan(80);
  expect(draws.at(-1)).toContain('step 10/10');
});

test('time left is counted from the steps of this session', () => {
  expect(timeLeftMs(10_000, 5, 20)).toBe(40_000);
  expect(timeLeftMs(0, 0, 20)).toBe(Number.POSITIVE_INFINITY);
  expect(formatDuration(Number.POSITIVE_INFINITY)).toBe('unknown');
  expect([2500, 45_000, 600_000, 3_723_000].map(formatDuration)).toEqual(['2.5 s', '45 s', '10 min', '1 h 02 min']);
  expect(formatCount(25165824)).toBe('25,165,824');
});
