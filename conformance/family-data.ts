import {
  type AggregateOptions,
  aggregateRouge,
  type Example,
  type PackOptions,
  packRows,
  porterStem,
  type RougeOptions,
  type RougeScore,
  rouge,
  shuffleDataset,
  splitDataset,
} from '@lorikeet/trainer';
import { type CaseContext, equalFinding, type Finding, finding } from './findings.ts';
import { exact } from './tolerances.ts';

/** Orders, splits, packs, stems and scores: each must be equal to the last bit. */
export const runDataCase = async (context: CaseContext): Promise<Finding[]> => {
  const run = operations[context.testCase.op];
  if (!run)
    throw new TypeError(`data: operation ${context.testCase.op} must have a row in family-data.ts: it has none.`);
  return run(context, context.testCase.attributes as never);
};

const operations: Readonly<Record<string, (context: CaseContext, attributes: never) => Finding[]>> = {
  shuffle: (context, { rows, seed }: { rows: number; seed: number }) => [
    numbers(context, 'order', shuffleDataset(counting(rows), seed)),
  ],
  split: (context, { rows, ...options }: { rows: number; testSize: number; seed: number }) => {
    const { train, test } = splitDataset(counting(rows), options);
    return [numbers(context, 'train', train), numbers(context, 'test', test)];
  },
  pack: comparePacks,
  stem: (_, { words, stems }: { words: string[]; stems: string[] }) => [
    equalFinding('stems', words.map(porterStem), stems),
  ],
  rouge: (_, { pairs, scores, ...options }: RougeOptions & { pairs: [string, string][]; scores: object[] }) => [
    equalFinding(
      'scores',
      pairs.map(([reference, prediction]) => rouge(reference, prediction, options)),
      scores,
    ),
  ],
  aggregate: (_, { scores, interval, ...options }: AggregateOptions & { scores: RougeScore[]; interval: object }) => [
    equalFinding('interval', aggregateRouge(scores, options), interval),
  ],
};

const counting = (count: number): number[] => Array.from({ length: count }, (_, i) => i);

const numbers = ({ recording, testCase }: CaseContext, name: string, actual: readonly number[]): Finding =>
  finding(name, actual, recording.tensor(testCase.outputs[name]!), exact);

/** Rows hold 0, 1, 2, ... one after the other; TRL packs a thousand of them at a time. */
function comparePacks(context: CaseContext, { lengths, ...options }: PackOptions & { lengths: number[] }): Finding[] {
  let next = 0;
  const rows = lengths.map((length, line): Example => {
    const whole = Int32Array.from({ length }, () => next++);
    // Without packing's cut, 'bfd' refuses what is too long: the rows are cut before, as tokenizeRows does.
    const ids = options.packingStrategy === 'bfd' ? whole.slice(0, options.maxLength) : whole;
    return { ids, labels: ids, line };
  });
  const packs = packRows(rows, { ...options, packingRows: 1000 });
  return [
    numbers(context, 'ids', packs.flatMap((pack) => pack.flatMap(({ ids }) => [...ids]))),
    numbers(context, 'sequences', packs.flatMap((pack) => pack.map(({ ids }) => ids.length))),
    numbers(context, 'sequencesOfPacks', packs.map((pack) => pack.length)),
  ]; // biome-ignore format: three lists
}
