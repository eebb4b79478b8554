import { expect, test } from 'vitest';
import { baseTraining } from './base-training.ts';
import { type CorpusDocument, corpusDocuments } from './corpus.ts';
import { phrasings } from './requests.ts';
import { makeTask } from './task.ts';
import { heldOutRows, trainRows } from './task-files.ts';

const count = baseTraining.steps * baseTraining.documentsPerStep;
const texts = (document: CorpusDocument): string[] =>
  'text' in document ? [document.text] : document.messages.map(({ content }) => content);

test('the same seed gives the same documents, another seed others', () => {
  const take = (seed: number): string => JSON.stringify([...corpusDocuments(seed, 200)]);
  expect(take(5)).toBe(take(5));
  expect(take(5)).not.toBe(take(6));
});

test('overlap: no document of the whole corpus holds a request and a call', () => {
  // The fixed words of every phrasing, in any values: stronger than looking for the task's rows alone.
  const requests = phrasings.map(({ template }) => {
    const parts = template.split(/\{\w+\}/).map((part) => RegExp.escape(part));
    return new RegExp(parts.join('.+'));
  });
  const call = new RegExp(`\\b(${[...new Set(phrasings.map(({ intent }) => intent.call))].join('|')})\\(\\w+=`);
  const both: string[] = [];
  let calls = 0;
  for (const document of corpusDocuments(baseTraining.seed, count)) {
    const all = texts(document).join('\n');
    if (!call.test(all)) continue;
    calls++;
    if (requests.some((request) => request.test(all))) both.push(all);
  }
  expect(calls).toBeGreaterThan(1000); // the search finds calls, so it could find pairs
  expect(both).toEqual([]);
});

test('overlap: no row of the task stands in the corpus, neither as a chat nor in one text', () => {
  const { train, heldOut } = makeTask(baseTraining.seed, trainRows, heldOutRows);
  const callOf = new Map([...train, ...heldOut].map(({ text, call }) => [text, call]));
  let requests = 0;
  for (const document of corpusDocuments(baseTraining.seed, count)) {
    const [first, second] = texts(document);
    const call = callOf.get(first!);
    if (call === undefined) continue;
    requests++;
    expect(second).not.toContain(call);
  }
  expect(requests).toBeGreaterThan(0); // requests are in the corpus, with answers in words
});
