import { expect, test } from 'vitest';
import { baseTraining } from './base-training.ts';
import { intents } from './intents.ts';
import { phrasings } from './requests.ts';
import { makeTask, type TaskRequest } from './task.ts';
import { heldOutRows, trainRows } from './task-files.ts';
import { type SlotKind, slotValues } from './values.ts';

const task = makeTask(baseTraining.seed, trainRows, heldOutRows);

/** Whether each value of a request is held out, fixed ones left aside. */
function heldOutValues({ phrasing, values }: TaskRequest): boolean[] {
  return Object.entries(phrasing.intent.slots)
    .filter((slot): slot is [string, SlotKind] => slot[1] !== 'fixed')
    .map(([slot, kind]) => slotValues[kind].find(({ text }) => text === values[slot])!.heldOut);
}

test('at least 40 phrasings, a fifth of them and of the values of each kind held out', () => {
  expect(phrasings.length).toBeGreaterThanOrEqual(40);
  expect(phrasings.filter(({ heldOut }) => heldOut)).toHaveLength(phrasings.length / 5);
  expect(new Set(phrasings.map(({ template }) => template)).size).toBe(phrasings.length);
  for (const [kind, values] of Object.entries(slotValues)) {
    const part = values.filter(({ heldOut }) => heldOut).length / values.length;
    expect(Math.abs(part - 0.2), kind).toBeLessThan(0.011);
    expect(new Set(values.map(({ text }) => text)).size, kind).toBe(values.length);
  }
});

test('training rows use no held-out phrasing and no held-out value', () => {
  for (const row of task.train) {
    expect(row.phrasing.heldOut).toBe(false);
    expect(heldOutValues(row)).not.toContain(true);
  }
});

test('half of at least 200 held-out requests have an unseen phrasing and only unseen values', () => {
  expect(task.heldOut.length).toBeGreaterThanOrEqual(200);
  const both = task.heldOut.filter((row) => row.phrasing.heldOut && !heldOutValues(row).includes(false));
  expect(both.length).toBeGreaterThanOrEqual(task.heldOut.length / 2);
  for (const row of task.heldOut) expect(row.phrasing.heldOut || heldOutValues(row).includes(true)).toBe(true);
});

test('no request stands twice, and every intent is asked for in both files', () => {
  const all = [...task.train, ...task.heldOut].map(({ text }) => text);
  expect(new Set(all).size).toBe(all.length);
  for (const rows of [task.train, task.heldOut])
    expect(new Set(rows.map(({ phrasing }) => phrasing.intent.call)).size).toBe(intents.length);
});

test('names and messages in other scripts and emoji are among the values of both sides', () => {
  for (const heldOut of [false, true])
    for (const kind of ['name', 'text'] as const)
      expect(slotValues[kind].some((value) => value.heldOut === heldOut && /[^ -~]/.test(value.text))).toBe(true);
});
