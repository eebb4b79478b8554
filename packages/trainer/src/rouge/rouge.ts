/** ROUGE (Lin 2004) as google-research's rouge_score 0.1.2 computes it: the same words, stems, counts and intervals. */
import { NumpyRandomState } from './numpy-random-state.ts';
import { porterStem } from './porter-stemmer.ts';

/** `rougeN`: shared runs of N words. `rougeL`: the longest common subsequence. `rougeLsum`: the same line by line, united. */
export type RougeType = `rouge${1 | 2 | 3 | 4 | 5 | 6 | 7 | 8 | 9}` | 'rougeL' | 'rougeLsum';

/** Parts in 0 .. 1. */
export interface RougeScore {
  /** Of the prediction's words or runs, those that the reference has. */
  readonly precision: number;
  /** Of the reference's words or runs, those that the prediction has. */
  readonly recall: number;
  /** Harmonic mean of both. */
  readonly fmeasure: number;
}

/** What is computed of the texts, and how words are compared. */
export interface RougeOptions<T extends RougeType = RougeType> {
  readonly types: readonly T[];
  /** Compare stems of words over three letters (Porter). @defaultValue false, as RougeScorer */
  readonly useStemmer?: boolean;
  /**
   * Cuts a text into words (RougeScorer's tokenizer). The default knows a-z and 0-9 alone, so texts in other scripts have no words and
   * score 0. Stems are the caller's business then.
   */
  readonly words?: (text: string) => string[];
}

const zero: RougeScore = { precision: 0, recall: 0, fmeasure: 0 };

function scoreOf(hits: number, predicted: number, wanted: number): RougeScore {
  const [precision, recall] = [hits / predicted, hits / wanted];
  const fmeasure = precision + recall > 0 ? (2 * precision * recall) / (precision + recall) : 0;
  return { precision, recall, fmeasure };
}

/**
 * Words in lower case; everything but a-z and 0-9 parts them, so texts in other scripts have none.
 * Python's lower() and toLowerCase agree on all that becomes ASCII, the Kelvin sign included.
 */
function wordsOf(text: string, useStemmer: boolean): string[] {
  const words = text.toLowerCase().split(/[^a-z0-9]+/);
  return words.flatMap((word) => (word === '' ? [] : [useStemmer && word.length > 3 ? porterStem(word) : word]));
}

const counted = (items: readonly string[]): Map<string, number> => {
  const counts = new Map<string, number>();
  for (const item of items) counts.set(item, (counts.get(item) ?? 0) + 1);
  return counts;
};

/** Runs of n words; words hold no spaces. */
const runsOf = (words: readonly string[], n: number): string[] =>
  Array.from({ length: Math.max(0, words.length - n + 1) }, (_, i) => words.slice(i, i + n).join(' '));

function scoreRuns(reference: readonly string[], prediction: readonly string[], n: number): RougeScore {
  const [wanted, predicted] = [runsOf(reference, n), runsOf(prediction, n)];
  const counts = counted(predicted);
  let hits = 0;
  for (const [run, count] of counted(wanted)) hits += Math.min(count, counts.get(run) ?? 0);
  return scoreOf(hits, Math.max(1, predicted.length), Math.max(1, wanted.length));
}

/** Lengths of longest common subsequences of all prefixes, [(n + 1) x (m + 1)] row by row. */
function subsequenceTable(a: readonly string[], b: readonly string[]): Int32Array {
  const width = b.length + 1;
  const table = new Int32Array((a.length + 1) * width);
  for (let i = 1; i <= a.length; i++)
    for (let j = 1; j <= b.length; j++)
      table[i * width + j] =
        a[i - 1] === b[j - 1]
          ? table[(i - 1) * width + j - 1]! + 1
          : Math.max(table[(i - 1) * width + j]!, table[i * width + j - 1]!);
  return table;
}

function scoreSubsequence(reference: readonly string[], prediction: readonly string[]): RougeScore {
  if (reference.length === 0 || prediction.length === 0) return zero;
  return scoreOf(subsequenceTable(reference, prediction).at(-1)!, prediction.length, reference.length);
}

/** Places in `a` of one longest common subsequence: of several, the one that rouge_score takes. */
function subsequencePlaces(a: readonly string[], b: readonly string[]): number[] {
  const table = subsequenceTable(a, b);
  const width = b.length + 1;
  const places: number[] = [];
  let [i, j] = [a.length, b.length];
  while (i > 0 && j > 0) {
    if (a[i - 1] === b[j - 1]) {
      places.push(i - 1);
      i--;
      j--;
    } else if (table[i * width + j - 1]! > table[(i - 1) * width + j]!) j--;
    else i--;
  }
  return places;
}

/** Each line of the reference against all lines of the prediction; no word is counted more often than both texts have it. */
function scoreLines(reference: readonly string[][], prediction: readonly string[][]): RougeScore {
  const [wanted, predicted] = [reference.flat(), prediction.flat()];
  if (wanted.length === 0 || predicted.length === 0) return zero;
  const [left, given] = [counted(wanted), counted(predicted)];
  let hits = 0;
  for (const line of reference) {
    const places = new Set(prediction.flatMap((other) => subsequencePlaces(line, other)));
    for (const place of [...places].sort((a, b) => a - b)) {
      const word = line[place]!;
      if (left.get(word)! > 0 && (given.get(word) ?? 0) > 0) {
        hits++;
        left.set(word, left.get(word)! - 1);
        given.set(word, given.get(word)! - 1);
      }
    }
  }
  return scoreOf(hits, predicted.length, wanted.length);
}

/** Scores of one prediction (RougeScorer.score). @throws {RangeError} for an unknown type */
export function rouge<T extends RougeType>(
  reference: string,
  prediction: string,
  { types, useStemmer = false, words = (text) => wordsOf(text, useStemmer) }: RougeOptions<T>,
): Record<T, RougeScore> {
  const lines = (text: string): string[][] => text.split('\n').filter(Boolean).map(words);
  const scored = types.map((type) => {
    if (type === 'rougeL') return [type, scoreSubsequence(words(reference), words(prediction))];
    if (type === 'rougeLsum') return [type, scoreLines(lines(reference), lines(prediction))];
    const n = /^rouge([1-9])$/.exec(type)?.[1];
    if (n === undefined)
      throw new RangeError(`rouge: types must be rouge1 .. rouge9, rougeL or rougeLsum: got ${String(type)}.`);
    return [type, scoreRuns(words(reference), words(prediction), Number(n))];
  });
  return Object.fromEntries(scored) as Record<T, RougeScore>;
}

/** Ends and middle of a bootstrap interval of the mean. */
export interface RougeInterval {
  readonly low: RougeScore;
  readonly mid: RougeScore;
  readonly high: RougeScore;
}

/** How means are resampled. */
export interface AggregateOptions {
  /** @defaultValue 0.95 */
  readonly confidenceInterval?: number;
  /** @defaultValue 1000 */
  readonly samples?: number;
  /** What Python would pass to `numpy.random.seed` first; the same seed gives the same interval. @defaultValue 0 */
  readonly seed?: number;
}

/**
 * Interval of the mean of one type's scores (rouge_score's BootstrapAggregator after `numpy.random.seed(seed)`). `mid` is the median
 * of the resampled means.
 *
 * @throws {RangeError} if there are no scores
 */
export function aggregateRouge(scores: readonly RougeScore[], options: AggregateOptions = {}): RougeInterval {
  const { confidenceInterval = 0.95, samples = 1000, seed = 0 } = options;
  if (scores.length === 0) throw new RangeError('aggregateRouge: scores must hold at least one: got none.');
  const random = new NumpyRandomState(seed);
  const keys = ['precision', 'recall', 'fmeasure'] as const;
  const means = keys.map(() => new Float64Array(samples));
  for (let sample = 0; sample < samples; sample++) {
    const drawn = random.choice(scores.length, scores.length);
    for (const [k, key] of keys.entries()) {
      let sum = 0;
      for (const index of drawn) sum += scores[index]![key];
      means[k]![sample] = sum / scores.length;
    }
  }
  for (const list of means) list.sort();
  const delta = (1 - confidenceInterval) / 2;
  const at = (part: number): RougeScore => {
    const [precision, recall, fmeasure] = means.map((list) => percentile(list, part));
    return { precision: precision!, recall: recall!, fmeasure: fmeasure! };
  };
  return { low: at(delta), mid: at(0.5), high: at(1 - delta) };
}

/** numpy.percentile's linear interpolation in a sorted list. */
function percentile(sorted: Float64Array, part: number): number {
  const place = part * (sorted.length - 1);
  const below = Math.floor(place);
  const [a, b] = [sorted[below]!, sorted[Math.min(below + 1, sorted.length - 1)]!];
  return a + (b - a) * (place - below);
}
