import { callText, type Intent, intents } from './intents.ts';
import type { SeededRandom } from './seeded-random.ts';
import { type SlotKind, slotValues } from './values.ts';

/** A way to say a request, split from its fixed arguments. */
export interface Phrasing {
  readonly intent: Intent;
  readonly template: string;
  readonly fixed: Readonly<Record<string, string>>;
  readonly heldOut: boolean;
}

/** Which values a request may use. */
export type ValueChoice = 'any' | 'training' | 'heldOut';

/** One request with the values in it. */
export interface Request {
  readonly phrasing: Phrasing;
  readonly values: Readonly<Record<string, string>>;
  readonly text: string;
  /** The call that the task wants; the base's corpus never holds it beside `text`. */
  readonly call: string;
}

/** Every phrasing of every intent; the last of each five is held out. */
export const phrasings: readonly Phrasing[] = intents.flatMap((intent) =>
  intent.phrasings.map((line, index) => {
    const [template, ...assignments] = line.split('|');
    const fixed = Object.fromEntries(assignments.map((text) => text.split('=') as [string, string]));
    return { intent, template: template!, fixed, heldOut: index % 5 === 4 };
  }),
);

/** A value of `kind` as text. */
export function randomValue(random: SeededRandom, kind: SlotKind, choice: ValueChoice = 'any'): string {
  const values = slotValues[kind];
  if (choice === 'any') return random.pick(values).text;
  return random.pick(values.filter(({ heldOut }) => heldOut === (choice === 'heldOut'))).text;
}

/** Fills `phrasing` with random values. */
export function makeRequest(random: SeededRandom, phrasing: Phrasing, choice: ValueChoice = 'any'): Request {
  const values: Record<string, string> = {};
  for (const [slot, kind] of Object.entries(phrasing.intent.slots))
    values[slot] = kind === 'fixed' ? phrasing.fixed[slot]! : randomValue(random, kind, choice);
  return fillRequest(phrasing, values);
}

/** The request that `phrasing` makes of `values`, which name every slot of its intent. */
export function fillRequest(phrasing: Phrasing, values: Readonly<Record<string, string>>): Request {
  return { phrasing, values, text: fillTemplate(phrasing.template, values), call: callText(phrasing.intent, values) };
}

/** Puts values into `{slot}` places. Values stay as they are, at the start of a sentence too. */
export function fillTemplate(template: string, values: Readonly<Record<string, string>>): string {
  return template.replaceAll(/\{(\w+)\}/g, (_, slot: string) => {
    const value = values[slot];
    if (value === undefined) throw new Error(`fillTemplate: '${template}' names a slot without a value: ${slot}.`);
    return value;
  });
}
