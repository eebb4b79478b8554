import { makeRequest, type Phrasing, phrasings, type Request, type ValueChoice } from './requests.ts';
import { SeededRandom } from './seeded-random.ts';

/** Why a held-out request is new: its words, its values, or both. */
export type Novelty = 'phrasing' | 'values' | 'both';

export interface TaskRequest extends Request {
  readonly novelty?: Novelty;
}

/** The task: requests in plain words, each with the call it stands for. */
export interface Task {
  readonly train: readonly TaskRequest[];
  readonly heldOut: readonly TaskRequest[];
}

/** `trainCount` training requests, and held-out ones of which half have both an unseen phrasing and unseen values. */
export function makeTask(seed: number, trainCount: number, heldOutCount: number): Task {
  const random = new SeededRandom(seed, 'task');
  const seen = phrasings.filter(({ heldOut }) => !heldOut);
  const unseen = phrasings.filter(({ heldOut }) => heldOut);
  const used = new Set<string>();
  const draw = (count: number, from: readonly Phrasing[], choice: ValueChoice, novelty?: Novelty): TaskRequest[] =>
    Array.from({ length: count }, (_, i) => {
      const request = freshRequest(random, from, i, choice, used);
      return novelty === undefined ? request : { ...request, novelty };
    });
  const train = random.shuffle(draw(trainCount, seen, 'training'));
  const quarter = Math.floor(heldOutCount / 4);
  const heldOut = [
    ...draw(heldOutCount - 2 * quarter, unseen, 'heldOut', 'both'),
    ...draw(quarter, unseen, 'training', 'phrasing'),
    ...draw(quarter, seen, 'heldOut', 'values'),
  ];
  return { train, heldOut: random.shuffle(heldOut) };
}

/** A request not drawn before. Phrasings take turns; one whose few values are used up gives its turn away. */
function freshRequest(
  random: SeededRandom,
  from: readonly Phrasing[],
  turn: number,
  choice: ValueChoice,
  used: Set<string>,
): Request {
  for (let attempt = 0; attempt < 1000; attempt++) {
    const phrasing = attempt < 20 ? from[turn % from.length]! : random.pick(from);
    const request = makeRequest(random, phrasing, choice);
    if (used.has(request.text)) continue;
    used.add(request.text);
    return request;
  }
  throw new Error(`makeTask: there must be enough different requests: ${used.size} drawn. Ask for fewer.`);
}

/** A row of the task's files: one chat. */
export function taskRow({ text, call }: Request): string {
  return JSON.stringify({
    messages: [
      { role: 'user', content: text },
      { role: 'assistant', content: call },
    ],
  });
}
