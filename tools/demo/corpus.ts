import { fillRequest, fillTemplate, makeRequest, phrasings, type Request, randomValue } from './requests.ts';
import { SeededRandom } from './seeded-random.ts';
import { numericKinds, type SlotKind, slotValues } from './values.ts';

/** One message of a chat. */
export type Message = {
  readonly role: 'system' | 'user' | 'assistant';
  readonly content: string;
};

/** A piece of the base's corpus: plain text, or a chat that the chat template turns into text. */
export type CorpusDocument = { readonly text: string } | { readonly messages: readonly Message[] };

const kinds = Object.keys(slotValues) as SlotKind[];
const textKinds = kinds.filter((kind) => kind !== 'time' && !numericKinds.has(kind));
const people = slotValues.name.map(({ text }) => text);
const keys = [
  'name',
  'time',
  'label',
  'room',
  'state',
  'text',
  'to',
  'item',
  'list',
  'day',
  'title',
  'city',
  'song',
  'place',
  'minutes',
  'degrees',
  'level',
  'people',
  'speaker',
  'color',
  'size',
];

type Maker = (random: SeededRandom) => CorpusDocument;

/** Makers and their weights in the corpus. Each is one skill that the task later needs. */
const makers: readonly (readonly [number, Maker])[] = [
  [28, plainAnswer],
  [22, slotQuestion],
  [6, paraphrase],
  [12, recordLog],
  [10, fieldsToCall],
  [6, fieldLookup],
  [5, quoting],
  [5, repeatLetters],
  [3, listing],
  [3, story],
];

/** `count` documents of the corpus, the same for the same seed. */
export function* corpusDocuments(seed: number, count: number): Generator<CorpusDocument> {
  const random = new SeededRandom(seed, 'corpus');
  const wheel = makers.flatMap(([weight, maker]) => Array<Maker>(weight).fill(maker));
  for (let i = 0; i < count; i++) yield random.pick(wheel)(random);
}

function chat(user: string, assistant: string): CorpusDocument {
  return {
    messages: [
      { role: 'user', content: user },
      { role: 'assistant', content: assistant },
    ],
  };
}

/** A request whose values are now and then of another kind, or no words at all: finding them must not need their list. */
function looseRequest(random: SeededRandom, phrasing = random.pick(phrasings)): Request {
  const request = makeRequest(random, phrasing);
  const loosened = Object.entries(phrasing.intent.slots).map(([slot, kind]) => {
    if (kind === 'fixed' || numericKinds.has(kind) || !random.chance(40)) return [slot, request.values[slot]!];
    return [slot, random.chance(75) ? nonsense(random) : randomValue(random, random.pick(textKinds))];
  });
  return fillRequest(phrasing, Object.fromEntries(loosened));
}

/** A request, and an answer in words that names everything the request named. */
function plainAnswer(random: SeededRandom): CorpusDocument {
  const { phrasing, text, values } = looseRequest(random);
  return chat(text, fillTemplate(random.pick(phrasing.intent.answers), values));
}

/** A request and the question what one part of it is, answered in words. */
function slotQuestion(random: SeededRandom): CorpusDocument {
  const { text, values } = looseRequest(random);
  const [slot, value] = random.pick(Object.entries(values));
  return chat(`${text} What is ${slot}?`, random.chance(70) ? `"${value}"` : `The ${slot} is ${value}.`);
}

/** Named fields written as a call: how a call is spelled, learned from records and not from requests. */
function fieldsToCall(random: SeededRandom): CorpusDocument {
  const { phrasing, values, call } = looseRequest(random);
  const fields = random.shuffle(Object.entries(values)).map(([slot, value]) => `${slot}: ${value}`);
  return chat(`${phrasing.intent.call} with ${fields.join(', ')}`, call);
}

/** The same request said in another way. */
function paraphrase(random: SeededRandom): CorpusDocument {
  const first = makeRequest(random, random.pick(phrasings));
  const fixed = JSON.stringify(first.phrasing.fixed);
  const others = phrasings.filter(
    (other) =>
      other.intent === first.phrasing.intent && other !== first.phrasing && JSON.stringify(other.fixed) === fixed,
  );
  const other = others.length > 0 ? random.pick(others) : first.phrasing;
  const lead = random.pick(['Say it in other words: ', 'Another way to say: ', 'In other words: ']);
  return chat(lead + first.text, fillTemplate(other.template, first.values));
}

/** Calls as lines of a log, with no request near them: how a call is spelled. Values often come back in the next line. */
function recordLog(random: SeededRandom): CorpusDocument {
  const lines = Array.from({ length: random.between(1, 3) }, () => looseRequest(random).call);
  if (random.chance(40)) {
    const again = random.pick(['copy: ', 'again: ', 'log: ']);
    return chat(again + lines[0]!, lines[0]!);
  }
  return { text: lines.join('\n') };
}

/** `a="x", b="y"` and the question what b is. */
function fieldLookup(random: SeededRandom): CorpusDocument {
  const names = random.sample(keys, random.between(2, 4));
  const fields = names.map((name) => [name, randomValue(random, random.pick(kinds))] as const);
  const record = fields.map(([name, value]) => `${name}: ${value}`).join(', ');
  if (random.chance(50)) return chat(`write as fields: ${record}`, fields.map(([n, v]) => `${n}="${v}"`).join(', '));
  const [name, value] = random.pick(fields);
  return chat(`${record}. What is ${name}?`, random.chance(50) ? `${name}="${value}"` : `The ${name} is ${value}.`);
}

/** A value in the middle of a sentence, given back between quotes. */
function quoting(random: SeededRandom): CorpusDocument {
  const value = randomValue(random, random.pick(textKinds));
  const name = random.pick(people);
  const frame = random.pick([
    `${name} said ${value} again. What did ${name} say?`,
    `Quote the words: ${value}.`,
    `The sign shows ${value} today. What does it show?`,
    `Write ${value} between quotes.`,
  ]);
  return chat(frame, `"${value}"`);
}

/** Meaningless words said again: copying must not depend on knowing the word. */
function repeatLetters(random: SeededRandom): CorpusDocument {
  const words = Array.from({ length: random.between(1, 4) }, () => nonsense(random));
  const frame = random.pick(['Repeat: ', 'Say again: ', 'Spell: ']);
  return chat(
    frame + words.join(' '),
    random.chance(50) ? words.join(' ') : words.map((word) => `"${word}"`).join(', '),
  );
}

function nonsense(random: SeededRandom): string {
  if (random.chance(20)) return String(random.below(10 ** random.between(1, 3)));
  if (random.chance(15))
    return String.fromCodePoint(...Array.from({ length: random.between(1, 3) }, () => 0xac00 + random.below(11172)));
  const word = random.chance(30)
    ? Array.from({ length: random.between(2, 7) }, () => random.pick([...'abcdefghijklmnopqrstuvwxyz'])).join('')
    : Array.from({ length: random.between(1, 3) }, () => syllable(random)).join('');
  return random.chance(50) ? word[0]!.toUpperCase() + word.slice(1) : word;
}

/** `lo`, `rel`, `i`: what names nobody has heard of are made of. */
function syllable(random: SeededRandom): string {
  const onset = random.pick([
    '',
    'b',
    'br',
    'ch',
    'd',
    'f',
    'g',
    'h',
    'j',
    'k',
    'l',
    'm',
    'n',
    'p',
    'r',
    's',
    'st',
    't',
    'v',
    'z',
  ]);
  return onset + random.pick([...'aeiouy']) + random.pick(['', '', 'l', 'm', 'n', 'r', 's', 't', 'x']);
}

/** A list, and its length, first, last or next member. */
function listing(random: SeededRandom): CorpusDocument {
  const kind = random.pick(textKinds);
  const items = random.sample(slotValues[kind], random.between(2, 4)).map(({ text }) => text);
  const list = items.join(', ');
  const question = random.below(4);
  if (question === 0) return chat(`${list}. How many?`, `${items.length}`);
  if (question === 1) return chat(`${list}. Which is first?`, items[0]!);
  if (question === 2) return chat(`${list}. Which is last?`, items.at(-1)!);
  return chat(`${list}. Give each in quotes.`, items.map((item) => `"${item}"`).join(', '));
}

/** Two people, two places, and who was where. */
function story(random: SeededRandom): CorpusDocument {
  const [first, second] = random.sample(people, 2) as [string, string];
  const [here, there] = random.sample(slotValues.room, 2).map(({ text }) => text) as [string, string];
  const item = randomValue(random, 'item');
  const day = randomValue(random, 'day');
  const time = randomValue(random, 'time');
  const event = randomValue(random, 'event');
  const text = random.pick([
    `On ${day} ${first} went to the ${here} and found ${item}. ${second} stayed in the ${there}.`,
    `${first} lost ${item} in the ${here}. At ${time} ${second} found it in the ${there}.`,
    `${first} has ${event} on ${day} at ${time}. ${second} waits in the ${there}.`,
    `The light in the ${here} was on, so ${first} turned it off. In the ${there} ${second} could not see, it was dark.`,
  ]);
  if (random.chance(40)) return { text };
  return random.chance(50)
    ? chat(`${text} Who comes first?`, `${first}.`)
    : chat(`${text} Where is ${second}?`, `${second} is in the ${there}.`);
}
