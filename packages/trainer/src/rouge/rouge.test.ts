/** Numbers of NLTK 3.10.4, rouge_score 0.1.2 and NumPy 2.4.6; the conformance family `data` has thousands more. */
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { aggregateRouge, rouge } from '../index.ts';
import { NumpyRandomState } from './numpy-random-state.ts';
import { porterStem } from './porter-stemmer.ts';

/** word:stem, of porter.PorterStemmer() */
const stems =
  'caresses:caress ponies:poni flies:fli dies:die cats:cat feed:feed agreed:agre spied:spi died:die ' +
  'plastered:plaster motoring:motor sing:sing conflated:conflat troubled:troubl sized:size hopping:hop ' +
  'tanned:tan falling:fall hissing:hiss fizzed:fizz failing:fail filing:file happy:happi enjoy:enjoy ' +
  'spy:spi relational:relat conditional:condit rational:ration hesitancy:hesit digitizer:digit ' +
  'conformably:conform radically:radic differently:differ vilely:vile analogously:analog ' +
  'vietnamization:vietnam predication:predic operator:oper feudalism:feudal decisiveness:decis ' +
  'hopefulness:hope callousness:callous formality:formal sensitivity:sensit sensibility:sensibl ' +
  'hopefully:hope geology:geolog theology:theolog triplicate:triplic formative:form formalize:formal ' +
  'electricity:electr electrical:electr goodness:good revival:reviv allowance:allow inference:infer ' +
  'airliner:airlin gyroscopic:gyroscop adjustable:adjust defensible:defens irritant:irrit ' +
  'replacement:replac adjustment:adjust dependent:depend adoption:adopt homologous:homolog ' +
  'communism:commun activate:activ angularities:angular effective:effect bowdlerize:bowdler ' +
  'probate:probat rate:rate cease:ceas controlling:control roll:roll skies:sky news:news innings:inning ' +
  'proceed:proceed 2024:2024 yyyy:yyyi at:at ';

describe('porterStem', () => {
  it.each(
    stems
      .trim()
      .split(' ')
      .map((pair) => pair.split(':') as [string, string]),
  )('%s is %s', (word, stem) => {
    expect(porterStem(word)).toBe(stem);
  });
});

/** reference, prediction, whether stems are compared, scores: precision, recall, F1 */
type Recorded = [string, string, boolean, Record<string, [number, number, number]>];
const recorded: Recorded[] = [
  [
    'The parrots repeat.\nThey are happily repeating it.',
    'A parrot repeats it.\nIt repeats the parrots.',
    false,
    {
      rouge1: [0.375, 0.375, 0.375],
      rouge2: [0.14285714285714285, 0.14285714285714285, 0.14285714285714285],
      rougeL: [0.25, 0.25, 0.25],
      rougeLsum: [0.375, 0.375, 0.375],
    },
  ],
  [
    'police killed the gunman',
    'police kill the gunman',
    false,
    {
      rouge1: [0.75, 0.75, 0.75],
      rouge2: [0.3333333333333333, 0.3333333333333333, 0.3333333333333333],
      rougeL: [0.75, 0.75, 0.75],
      rougeLsum: [0.75, 0.75, 0.75],
    },
  ],
  [
    '한국어 앵무새',
    '앵무새',
    false,
    { rouge1: [0.0, 0.0, 0.0], rouge2: [0.0, 0.0, 0.0], rougeL: [0, 0, 0], rougeLsum: [0, 0, 0] },
  ],
  ['', 'word', false, { rouge1: [0.0, 0.0, 0.0], rouge2: [0.0, 0.0, 0.0], rougeL: [0, 0, 0], rougeLsum: [0, 0, 0] }],
  [
    'a b a b a',
    'b a b',
    false,
    {
      rouge1: [1.0, 0.6, 0.7499999999999999],
      rouge2: [1.0, 0.5, 0.6666666666666666],
      rougeL: [1.0, 0.6, 0.7499999999999999],
      rougeLsum: [1.0, 0.6, 0.7499999999999999],
    },
  ],
  [
    'The parrots repeat.\nThey are happily repeating it.',
    'A parrot repeats it.\nIt repeats the parrots.',
    true,
    {
      rouge1: [0.625, 0.625, 0.625],
      rouge2: [0.42857142857142855, 0.42857142857142855, 0.42857142857142855],
      rougeL: [0.375, 0.375, 0.375],
      rougeLsum: [0.625, 0.625, 0.625],
    },
  ],
  [
    'police killed the gunman',
    'police kill the gunman',
    true,
    { rouge1: [1.0, 1.0, 1.0], rouge2: [1.0, 1.0, 1.0], rougeL: [1.0, 1.0, 1.0], rougeLsum: [1.0, 1.0, 1.0] },
  ],
  [
    '한국어 앵무새',
    '앵무새',
    true,
    { rouge1: [0.0, 0.0, 0.0], rouge2: [0.0, 0.0, 0.0], rougeL: [0, 0, 0], rougeLsum: [0, 0, 0] },
  ],
  ['', 'word', true, { rouge1: [0.0, 0.0, 0.0], rouge2: [0.0, 0.0, 0.0], rougeL: [0, 0, 0], rougeLsum: [0, 0, 0] }],
  [
    'a b a b a',
    'b a b',
    true,
    {
      rouge1: [1.0, 0.6, 0.7499999999999999],
      rouge2: [1.0, 0.5, 0.6666666666666666],
      rougeL: [1.0, 0.6, 0.7499999999999999],
      rougeLsum: [1.0, 0.6, 0.7499999999999999],
    },
  ],
];
const types = ['rouge1', 'rouge2', 'rougeL', 'rougeLsum'] as const;

describe('rouge', () => {
  it.each(recorded)('%j against %j, stems %s', (reference, prediction, useStemmer, scores) => {
    const made = rouge(reference, prediction, { types, useStemmer });
    for (const type of types)
      expect([made[type].precision, made[type].recall, made[type].fmeasure]).toEqual(scores[type]);
  });
  it('takes words as they are told, for scripts without spaces or ASCII', () => {
    const words = (text: string): string[] => text.split(' ');
    expect(rouge('앵무새 가 말한다', '앵무새 가 운다', { types: ['rouge1'], words }).rouge1.fmeasure).toBeCloseTo(
      2 / 3,
    );
  });
  it('is 1 for a text itself, symmetric in precision and recall, and within 0 .. 1', () => {
    const text = fc.array(fc.constantFrom('a', 'bird', 'birds', 'sings', '\n', '2'), { minLength: 1, maxLength: 12 });
    fc.assert(
      fc.property(text, text, (first, second) => {
        const [a, b] = [first.join(' '), `${second.join(' ')} x`];
        const [ab, ba, bb] = [rouge(a, b, { types }), rouge(b, a, { types }), rouge(b, b, { types })];
        for (const type of ['rouge1', 'rouge2', 'rougeL'] as const) {
          expect(ab[type].precision).toBe(ba[type].recall);
          expect(ab[type].fmeasure).toBeLessThanOrEqual(1);
        }
        expect([bb.rouge1.fmeasure, bb.rougeL.fmeasure, bb.rougeLsum.fmeasure]).toEqual([1, 1, 1]);
      }),
    );
  });
  it('refuses a type that is none', () => {
    expect(() => rouge('a', 'a', { types: ['rougeX' as 'rougeL'] })).toThrow('rouge1 .. rouge9');
  });
});

describe('aggregateRouge', () => {
  it('is BootstrapAggregator after numpy.random.seed(7)', () => {
    const scores = [0, 1, 2, 3, 4].map((i) => ({ precision: i / 8, recall: (i * i) / 32, fmeasure: 1 - i / 4 }));
    const { low, mid, high } = aggregateRouge(scores, { seed: 7 });
    const rows = [low, mid, high].map(({ precision, recall, fmeasure }) => [precision, recall, fmeasure]);
    expect(rows).toEqual([
      [0.1, 0.04375, 0.2],
      [0.25, 0.18125, 0.5],
      [0.4, 0.35625, 0.8],
    ]);
  });
  it('draws as RandomState(7) does', () => {
    const random = new NumpyRandomState(7);
    expect([random.uint32(), random.uint32(), random.uint32()]).toEqual([327741615, 976413892, 3349725721]);
    expect([...new NumpyRandomState(7).choice(10, 8)]).toEqual([4, 9, 6, 3, 3, 7, 7, 9]);
  });
  it('refuses no scores and a seed that NumPy refuses', () => {
    expect(() => aggregateRouge([])).toThrow('at least one');
    expect(() => new NumpyRandomState(2 ** 32)).toThrow('seed must be an integer');
  });
});
