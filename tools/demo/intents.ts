import { numericKinds, type SlotKind } from './values.ts';

/** A kind of request: how people say it, how a plain assistant answers, and the call it stands for. */
export interface Intent {
  readonly call: string;
  /** Argument name to the kind of its values, in the order of the call; `fixed`: the phrasing says it. */
  readonly slots: Readonly<Record<string, SlotKind | 'fixed'>>;
  /** Five phrasings; the last is held out. `{slot}` stands for a value; `state=on` after a bar fixes an argument. */
  readonly phrasings: readonly string[];
  /** What the base says: words, never a call. Each names all slots, so the base learns to find them. */
  readonly answers: readonly string[];
}

export const intents: readonly Intent[] = [
  {
    call: 'set_alarm',
    slots: { time: 'time', label: 'label' },
    phrasings: [
      'Wake me at {time} for {label}.',
      'Set an alarm at {time} for {label}.',
      'I have {label}, so get me up at {time}.',
      'My alarm should ring at {time} because of {label}.',
      'I must not miss {label}, wake me up at {time}.',
    ],
    answers: [
      'The alarm will ring at {time} for {label}.',
      'I will wake you at {time} for {label}.',
      '{label}, alarm at {time}.',
      'You get up at {time}, then comes {label}.',
    ],
  },
  {
    call: 'set_timer',
    slots: { minutes: 'minutes', label: 'food' },
    phrasings: [
      'Set a timer of {minutes} minutes for {label}.',
      'Tell me in {minutes} minutes that {label} must come out.',
      'Count down {minutes} minutes for {label}.',
      'I am cooking {label}, it takes {minutes} minutes.',
      '{label} needs {minutes} minutes, please keep track.',
    ],
    answers: [
      'I count {minutes} minutes for {label}.',
      'The timer for {label} runs {minutes} minutes.',
      '{label}, {minutes} minutes from now.',
      'In {minutes} minutes I will tell you about {label}.',
    ],
  },
  {
    call: 'light',
    slots: { room: 'room', state: 'fixed' },
    phrasings: [
      'Turn on the light in the {room}.|state=on',
      'Turn off the light in the {room}.|state=off',
      'It is too dark in the {room}.|state=on',
      'Nobody is in the {room}, no light is needed there.|state=off',
      'I cannot see anything in the {room}.|state=on',
    ],
    answers: [
      'The light in the {room} is {state} now.',
      'The {room} light goes {state}.',
      'It is done, the lamp of the {room} is {state}.',
    ],
  },
  {
    call: 'set_heat',
    slots: { room: 'room', degrees: 'degrees' },
    phrasings: [
      'Set the {room} to {degrees} degrees.',
      'Warm the {room} up to {degrees} degrees.',
      'I want {degrees} degrees in the {room}.',
      'The {room} should have {degrees} degrees.',
      'Can you make it {degrees} degrees in the {room}?',
    ],
    answers: [
      'The {room} will have {degrees} degrees.',
      'The heat in the {room} is set to {degrees} degrees.',
      'Soon it is {degrees} degrees warm in the {room}.',
    ],
  },
  {
    call: 'call',
    slots: { name: 'name', speaker: 'fixed' },
    phrasings: [
      'Call {name}.|speaker=off',
      'Please ring {name} up.|speaker=off',
      'Call {name} on the speaker.|speaker=on',
      'I want to talk to {name} with my hands free.|speaker=on',
      'Could you please call {name} for me?|speaker=off',
    ],
    answers: [
      'I am calling {name} with speaker {speaker}.',
      'Calling {name}, speaker {speaker}.',
      'The phone of {name} rings, speaker {speaker}.',
    ],
  },
  {
    call: 'send',
    slots: { to: 'name', text: 'text' },
    phrasings: [
      'Tell {to}: {text}.',
      'Send {to} a message: {text}.',
      'Write to {to} that {text}.',
      'Let {to} know: {text}.',
      'Text this to {to}: {text}.',
    ],
    answers: ['I wrote "{text}" to {to}.', '{to} gets the message "{text}".', 'Sent to {to}: "{text}".'],
  },
  {
    call: 'add',
    slots: { list: 'list', item: 'item' },
    phrasings: [
      'Add {item} to the {list} list.',
      'Put {item} on my {list} list.',
      'We need {item} for the {list} list.',
      'The {list} list should have {item} too.',
      'Do not let me forget {item}, it goes on the {list} list.',
    ],
    answers: [
      'I added {item} to the {list} list.',
      'The {list} list now has {item}.',
      '{item}, that is on the {list} list.',
    ],
  },
  {
    call: 'event',
    slots: { title: 'event', day: 'day', time: 'time' },
    phrasings: [
      'Put {title} on {day} at {time}.',
      'I have {title} at {time} on {day}.',
      'Plan {title} for {day}, {time}.',
      'Save the date: {day} at {time} is {title}.',
      'Remember that on {day} at {time} there is {title}.',
    ],
    answers: [
      'On {day} at {time} you have {title}.',
      'I wrote down {title} for {day} at {time}.',
      'Your calendar has {title} at {time} on {day}.',
    ],
  },
  {
    call: 'weather',
    slots: { city: 'city', day: 'day' },
    phrasings: [
      'How is the weather in {city} on {day}?',
      'Will it rain in {city} on {day}?',
      'Do I need a coat in {city} on {day}?',
      'Tell me the weather of {city} for {day}.',
      'What will the sky over {city} look like on {day}?',
    ],
    answers: [
      'I will look up the weather in {city} for {day}.',
      'The weather in {city} on {day}, one moment.',
      'I do not know yet how {day} will be in {city}.',
    ],
  },
  {
    call: 'play',
    slots: { song: 'song', room: 'room' },
    phrasings: [
      'Play {song} in the {room}.',
      'I want to hear {song} in the {room}.',
      'Put on the song {song} in the {room}.',
      'Let the {room} fill with {song}.',
      'Can the {room} have some music, maybe {song}?',
    ],
    answers: ['{song} plays in the {room}.', 'You hear {song} in the {room} now.', 'The {room} plays {song}.'],
  },
  {
    call: 'book',
    slots: { place: 'place', people: 'people', time: 'time' },
    phrasings: [
      'Book a table for {people} at {place} at {time}.',
      'We are {people} and want to eat at {place} at {time}.',
      'Reserve {people} seats at {place} for {time}.',
      'At {time} we come to {place} with {people} people.',
      'A table for {people} at {place} would be nice, {time}.',
    ],
    answers: [
      'There is a table for {people} at {place} at {time}.',
      'I booked {place} at {time} for {people} people.',
      '{place} expects {people} of you at {time}.',
    ],
  },
  {
    call: 'translate',
    slots: { text: 'phrase', to: 'language' },
    phrasings: [
      'Translate {text} to {to}.',
      'How do you say {text} in {to}?',
      'What is the {to} for {text}?',
      'I want to say {text} in {to}.',
      'Put these words into {to}: {text}.',
    ],
    answers: [
      'I would like to say "{text}" in {to}, but I cannot.',
      'My {to} is too poor for "{text}".',
      '"{text}" in {to}, that is a hard one.',
    ],
  },
  {
    call: 'volume',
    slots: { room: 'room', level: 'level' },
    phrasings: [
      'Set the sound in the {room} to {level}.',
      'Volume {level} in the {room}, please.',
      'Make the speaker of the {room} play at {level}.',
      'I want the music in the {room} at level {level}.',
      'Bring the loudness in the {room} to {level}.',
    ],
    answers: [
      'The sound in the {room} is at {level}.',
      'The {room} plays at level {level}.',
      'Volume of the {room}: {level}.',
    ],
  },
  {
    call: 'door',
    slots: { name: 'door', state: 'fixed' },
    phrasings: [
      'Lock the {name}.|state=locked',
      'Please open the {name}.|state=open',
      'Make sure the {name} is locked.|state=locked',
      'I am home, let me in through the {name}.|state=open',
      'Nobody should come in through the {name}.|state=locked',
    ],
    answers: ['The {name} is {state} now.', 'Now the {name} is {state}.', 'Done, {state} is the {name}.'],
  },
];

/** `set_alarm(time="7:30", label="yoga")`; numbers stand without quotes. */
export function callText(intent: Intent, values: Readonly<Record<string, string>>): string {
  const parts = Object.entries(intent.slots).map(([slot, kind]) => {
    const value = values[slot]!;
    return kind !== 'fixed' && numericKinds.has(kind) ? `${slot}=${value}` : `${slot}="${value}"`;
  });
  return `${intent.call}(${parts.join(', ')})`;
}
