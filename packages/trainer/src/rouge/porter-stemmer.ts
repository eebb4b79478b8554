/**
 * The Porter stemmer as NLTK has it in its default mode (NLTK_EXTENSIONS), which rouge_score uses: Porter, "An algorithm for suffix
 * stripping" (1980), with the irregular forms and the changed steps that nltk/stem/porter.py documents.
 */
type Rule = readonly [suffix: string, replacement: string, holds?: (stem: string) => boolean];

const irregular: ReadonlyMap<string, string> = new Map([
  ['sky', 'sky'], ['skies', 'sky'], ['dying', 'die'], ['lying', 'lie'], ['tying', 'tie'], ['news', 'news'],
  ['innings', 'inning'], ['inning', 'inning'], ['outings', 'outing'], ['outing', 'outing'], ['cannings', 'canning'],
  ['canning', 'canning'], ['howe', 'howe'], ['proceed', 'proceed'], ['exceed', 'exceed'], ['succeed', 'succeed'],
]); // biome-ignore format: a table

/** Letters as c and v; a y is a consonant at the start and after a vowel. */
function shapeOf(word: string): string {
  let shape = '';
  for (const letter of word) {
    const vowel = 'aeiou'.includes(letter) || (letter === 'y' && shape.endsWith('c'));
    shape += vowel ? 'v' : 'c';
  }
  return shape;
}

/** How often a consonant follows a vowel: Porter's m. */
const measure = (stem: string): number => shapeOf(stem).match(/vc/g)?.length ?? 0;
const positive = (stem: string): boolean => measure(stem) > 0;
const above1 = (stem: string): boolean => measure(stem) > 1;
const hasVowel = (stem: string): boolean => shapeOf(stem).includes('v');
const endsInDouble = (word: string): boolean =>
  word.length >= 2 && word.at(-1) === word.at(-2) && shapeOf(word).endsWith('c');

/** Porter's *o: consonant, vowel, consonant other than w, x, y; in NLTK also a word of one vowel and one consonant. */
function endsInShortSyllable(word: string): boolean {
  const shape = shapeOf(word);
  return shape === 'vc' || (shape.endsWith('cvc') && !'wxy'.includes(word.at(-1)!));
}

/** The first rule whose suffix fits decides, whether its condition holds or not. */
function apply(word: string, rules: readonly Rule[]): string {
  for (const [suffix, replacement, holds] of rules) {
    if (!word.endsWith(suffix)) continue;
    const stem = word.slice(0, word.length - suffix.length);
    return !holds || holds(stem) ? stem + replacement : word;
  }
  return word;
}

function step1a(word: string): string {
  if (word.endsWith('ies') && word.length === 4) return `${word.slice(0, -3)}ie`;
  return apply(word, [['sses', 'ss'], ['ies', 'i'], ['ss', 'ss'], ['s', '']]); // biome-ignore format: a table
}

function step1b(word: string): string {
  if (word.endsWith('ied')) return word.slice(0, -3) + (word.length === 4 ? 'ie' : 'i');
  if (word.endsWith('eed')) return positive(word.slice(0, -3)) ? word.slice(0, -1) : word;
  const suffix = ['ed', 'ing'].find((end) => word.endsWith(end) && hasVowel(word.slice(0, -end.length)));
  if (suffix === undefined) return word;
  const stem = word.slice(0, -suffix.length);
  for (const end of ['at', 'bl', 'iz']) if (stem.endsWith(end)) return `${stem}e`;
  if (endsInDouble(stem)) return 'lsz'.includes(stem.at(-1)!) ? stem : stem.slice(0, -1);
  return measure(stem) === 1 && endsInShortSyllable(stem) ? `${stem}e` : stem;
}

const step1c = (word: string): string =>
  apply(word, [['y', 'i', (stem) => stem.length > 1 && shapeOf(stem).endsWith('c')]]);

const step2Rules: readonly Rule[] = [
  ['ational', 'ate'], ['tional', 'tion'], ['enci', 'ence'], ['anci', 'ance'], ['izer', 'ize'], ['bli', 'ble'], ['alli', 'al'],
  ['entli', 'ent'], ['eli', 'e'], ['ousli', 'ous'], ['ization', 'ize'], ['ation', 'ate'], ['ator', 'ate'], ['alism', 'al'],
  ['iveness', 'ive'], ['fulness', 'ful'], ['ousness', 'ous'], ['aliti', 'al'], ['iviti', 'ive'], ['biliti', 'ble'], ['fulli', 'ful'],
].map(([suffix, replacement]) => [suffix!, replacement!, positive]); // biome-ignore format: a table

function step2(word: string): string {
  if (word.endsWith('alli') && positive(word.slice(0, -4))) return step2(word.slice(0, -2));
  // The l of 'logi' counts to the stem, so that 'geo' and 'theo' act as 'archaeo' does.
  return apply(word, [...step2Rules, ['logi', 'log', () => positive(word.slice(0, -3))]]);
}

const step3Rules: readonly Rule[] = [
  ['icate', 'ic'], ['ative', ''], ['alize', 'al'], ['iciti', 'ic'], ['ical', 'ic'], ['ful', ''], ['ness', ''],
].map(([suffix, replacement]) => [suffix!, replacement!, positive]); // biome-ignore format: a table

const step4Rules: readonly Rule[] = [
  ...['al', 'ance', 'ence', 'er', 'ic', 'able', 'ible', 'ant', 'ement', 'ment', 'ent'].map((s): Rule => [s, '', above1]),
  ['ion', '', (stem) => above1(stem) && 'st'.includes(stem.at(-1)!)],
  ...['ou', 'ism', 'ate', 'iti', 'ous', 'ive', 'ize'].map((s): Rule => [s, '', above1]),
]; // biome-ignore format: a table

function step5(word: string): string {
  const stem = word.endsWith('e') ? word.slice(0, -1) : undefined;
  const m = stem === undefined ? 0 : measure(stem);
  const shorter = stem !== undefined && (m > 1 || (m === 1 && !endsInShortSyllable(stem))) ? stem : word;
  return shorter.endsWith('ll') && above1(shorter.slice(0, -1)) ? shorter.slice(0, -1) : shorter;
}

/** The stem of a word in lower-case ASCII letters and digits. */
export function porterStem(word: string): string {
  const known = irregular.get(word);
  if (known !== undefined) return known;
  if (word.length <= 2) return word;
  const bare = step2(step1c(step1b(step1a(word))));
  return step5(apply(apply(bare, step3Rules), step4Rules));
}
