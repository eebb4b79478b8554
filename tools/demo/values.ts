/**
 * What the slots of a request can hold. In every list each fifth value (index 4, 9, 14, ...) is held out: it stands in
 * the base's corpus of chats and stories, but in no training row of the task.
 */
const lists = {
  name: `Anna, Ben, Clara, David, 민준, Ella, Finn, Greta, Hugo, さくら, Iris, Jonas, Karim, Lena, Mira, Nora, Oscar, Paula,
    서연, Quinn, Rosa, Sami, Tara, Omar, ليلى, Uma, Victor, Wanda, Yusuf, Zoe, Adam, Bella, 太郎, Carl, Dora`,
  label: `school, work, yoga, the gym, football, breakfast, choir, piano, swimming, the train, chess, dance, the market,
    lunch, karate, math class, the bus, tennis, guitar, the dentist, running, the meeting, art class, dinner, the flight`,
  food: `tea, rice, soup, pasta, eggs, bread, the cake, pizza, potatoes, cookies, beans, fish, coffee, the pie, corn,
    noodles, porridge, carrots, the roast, pancakes`,
  room: `kitchen, bedroom, bathroom, garage, hallway, office, attic, cellar, garden, library, nursery, playroom, pantry,
    studio, laundry room, living room, guest room, dining room, workshop, entry hall`,
  door: `front door, back door, gate, cellar door, garage door, window, side door, shed, office door, patio door`,
  text: `see you soon, happy birthday, I am late, dinner is ready, good luck 🍀, call me back, the bus is late, thank you,
    well done, have fun 🎉, I found the keys, come home, it is raining, we won ⚽, sleep well, the door is open,
    bring an umbrella, I love it ❤️, see you at noon, all is well`,
  list: `shopping, party, camping, kitchen, school, weekend, garden, picnic, holiday, birthday`,
  item: `milk, apples, candles, soap, honey, batteries, paper, a rope, flowers, cheese, lemons, nails, sugar, a lamp,
    tomatoes, butter, glue, onions, string, 🍓, salt, plates, pens, balloons, a towel, grapes, a map, juice, seeds, socks`,
  day: `Monday, Tuesday, Wednesday, Thursday, Friday, Saturday, Sunday, Easter, New Year, Christmas`,
  event: `book club, team lunch, movie night, the concert, a haircut, band practice, the exam, a picnic, game night,
    the wedding, a checkup, family dinner, the parade, a workshop, the recital`,
  city: `Oslo, Paris, Cairo, Lima, 東京, Seoul, Madrid, Dublin, Nairobi, Toronto, Vienna, Athens, Delhi, Quito, Lisbon,
    서울, Prague, Havana, Boston, Manila, Zurich, Perth, Dakar, القاهرة, Riga`,
  song: `Blue River, Morning Light, Golden Road, Paper Moon, Silver Rain, Little Star, Summer Wind, Old Friends,
    Night Train, Green Hills, Dancing Shoes, Winter Song, Red Balloon, Lost Letter, Ocean Drive`,
  place: `Luigi, Sakura, Blue Door, Olive Tree, Red Fox, Old Mill, Corner House, Lotus, Harbor View, Golden Fork`,
  phrase: `good night, thank you, where is the station, I am hungry, one ticket please, how are you, I like music,
    good morning, a glass of water, see you tomorrow, my name is Leo, help me, it is cold, what time is it, no problem`,
  language: `French, Korean, Spanish, Arabic, Japanese, German, Hindi, Italian, Turkish, Swahili`,
} as const;

/** One slot value and whether the task's training rows may use it. */
export interface SlotValue {
  readonly text: string;
  readonly heldOut: boolean;
}

export type SlotKind = keyof typeof lists | 'time' | 'minutes' | 'degrees' | 'level' | 'people';

/** Kinds whose values are numbers. */
export const numericKinds: ReadonlySet<SlotKind> = new Set(['minutes', 'degrees', 'level', 'people']);

/** All values of each kind, in a fixed order. */
export const slotValues: Readonly<Record<SlotKind, readonly SlotValue[]>> = {
  ...(Object.fromEntries(Object.entries(lists).map(([kind, text]) => [kind, marked(text.split(/,\s+/))])) as Record<
    keyof typeof lists,
    SlotValue[]
  >),
  time: clockTimes(),
  minutes: marked(integers(2, 61)),
  degrees: marked(integers(12, 31)),
  level: marked(integers(1, 20)),
  people: marked(integers(2, 16)),
};

function marked(texts: readonly string[]): SlotValue[] {
  return texts.map((text, i) => ({ text: text.trim(), heldOut: i % 5 === 4 }));
}

function integers(low: number, high: number): string[] {
  return Array.from({ length: high - low + 1 }, (_, i) => String(low + i));
}

/** Every five minutes of the day; 7 is coprime to 5 and 288, so that the held-out fifth is spread over hours and minutes. */
function clockTimes(): SlotValue[] {
  return Array.from({ length: 288 }, (_, i) => {
    const minutesOfDay = i * 5;
    const minute = String(minutesOfDay % 60).padStart(2, '0');
    return { text: `${Math.floor(minutesOfDay / 60)}:${minute}`, heldOut: (i * 7) % 5 === 4 };
  });
}
